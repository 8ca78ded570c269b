use futures_util::FutureExt;
use proptest::prelude::*;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{PingReq, Publish};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;

const LIMIT: u32 = 10_000;

fn pair(buffer: usize) -> (Framed<DuplexStream>, DuplexStream) {
    let (near, far) = duplex(buffer);
    (Framed::new(near, LIMIT, false), far)
}

/// Decodes a server's bytes until the connection ends.
async fn received(bytes: &[u8]) -> (usize, Cause) {
    let (mut framed, mut far) = pair(4096);
    far.write_all(bytes).await.unwrap();
    drop(far);
    let mut packets = 0;
    loop {
        match framed.receive().await {
            Ok(_) => packets += 1,
            Err(cause) => return (packets, cause),
        }
    }
}

#[tokio::test]
async fn every_form_of_disconnect_is_decoded() {
    let disconnected = |code: u8, message: Option<&str>| Cause::Disconnected {
        reason: ReasonCode(code),
        message: message.map(Into::into),
    };
    for (bytes, cause) in [
        (&[0xE0, 0x01, 0x8E][..], disconnected(0x8E, None)),
        (&[0xE0, 0x02, 0x8B, 0x00], disconnected(0x8B, None)),
        // A code that is not in the standard.
        (&[0xE0, 0x01, 0xFE], disconnected(0xFE, None)),
        (
            &[0xE0, 0x07, 0x97, 0x05, 0x1F, 0x00, 0x02, b'n', b'o'],
            disconnected(0x97, Some("no")),
        ),
        (
            &[0xE0, 0x08, 0x97, 0x06, 0x1F, 0x00, 0x03, b'n', 0x1B, b'['],
            disconnected(0x97, Some("n\u{1b}[")),
        ),
        (&[0xE0, 0x00], Cause::Closed { soon: false }),
        (&[0xE0, 0x01, 0x00], Cause::Closed { soon: false }),
        (&[], Cause::Closed { soon: false }),
    ] {
        assert_eq!(received(bytes).await, (0, cause), "{bytes:x?}");
    }
}

#[tokio::test]
async fn puback_with_any_reason_code_is_decoded() {
    for (bytes, reason) in [
        (&[0x40, 0x02, 0x01, 0x07][..], 0x00),
        (&[0x40, 0x03, 0x01, 0x07, 0x10], 0x10),
        (&[0x40, 0x04, 0x01, 0x07, 0x97, 0x00], 0x97),
        // Codes that are not in the standard, or not for this packet.
        (&[0x40, 0x03, 0x01, 0x07, 0x01], 0x01),
        (&[0x40, 0x04, 0x01, 0x07, 0xFE, 0x00], 0xFE),
        (
            &[
                0x40, 0x09, 0x01, 0x07, 0x96, 0x05, 0x1F, 0x00, 0x02, b'n', b'o',
            ],
            0x96,
        ),
        // A property that is not in the standard.
        (&[0x40, 0x06, 0x01, 0x07, 0x87, 0x02, 0x7F, 0x00], 0x87),
        // Lengths in more bytes than needed.
        (&[0x40, 0x85, 0x00, 0x01, 0x07, 0x80, 0x80, 0x00], 0x80),
    ] {
        let (mut framed, mut far) = pair(1024);
        far.write_all(bytes).await.unwrap();
        let (packet_id, reason) = (0x0107, ReasonCode(reason));
        let read = framed.receive().now_or_never();
        let expected = Received::PubAck { packet_id, reason };
        assert_eq!(read, Some(Ok(expected)), "{bytes:x?}");
    }
}

#[tokio::test]
async fn malformed_packet_is_an_error_at_once() {
    for bytes in [
        // An unknown packet type, and one that servers do not send.
        &[0x00, 0x02, 0x00, 0x00][..],
        // A length above the maximum, rejected before the content arrives.
        &[0x30, 0xFF, 0xFF, 0xFF, 0x7F],
        // A length of five bytes.
        &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01],
        // A property length beyond the packet.
        &[0x40, 0x04, 0x00, 0x01, 0x00, 0x80],
        &[0x40, 0x05, 0x00, 0x01, 0x00, 0x02, 0x1F],
        // An empty PUBACK.
        &[0x40, 0x01, 0x00],
        // A string longer than its packet.
        &[0x30, 0x03, 0x00, 0x09, b'a'],
    ] {
        let (mut framed, mut far) = pair(1024);
        far.write_all(bytes).await.unwrap();
        let cause = framed.receive().now_or_never();
        let cause = cause.unwrap_or_else(|| panic!("{bytes:x?} was waited for"));
        assert!(
            matches!(cause, Err(Cause::Protocol(_))),
            "{bytes:x?}: {cause:?}"
        );
        // The server receives the reason.
        let mut disconnect = [0; 3];
        far.read_exact(&mut disconnect).await.unwrap();
        let [0xE0, 1, 0x81 | 0x82 | 0x95] = disconnect else {
            panic!("{bytes:x?}: {disconnect:x?}")
        };
    }
}

#[tokio::test]
async fn data_before_broken_pipe_is_read() {
    let (mut framed, mut far) = pair(1024);
    far.write_all(&[0xE0, 0x01, 0x8E]).await.unwrap();
    drop(far);
    framed.send(&Packet::PingReq(PingReq)).await.unwrap();
    assert!(framed.broken.is_some(), "the peer is gone");
    let cause = framed.receive().await.unwrap_err();
    assert_eq!(
        cause,
        Cause::disconnected(ReasonCode::SESSION_TAKEN_OVER, None)
    );

    let (mut framed, far) = pair(1024);
    drop(far);
    framed.send(&Packet::PingReq(PingReq)).await.unwrap();
    assert_eq!(framed.receive().await, Err(Cause::Closed { soon: false }));
}

#[tokio::test]
async fn peer_that_reads_nothing_blocks_no_caller() {
    let (mut framed, _far) = pair(16);
    let publish = Publish::new("t", QoS::AtMostOnce, vec![0; 1000], None);
    let end = framed.queue(&Packet::Publish(publish)).unwrap();
    assert!(framed.receive().now_or_never().is_none());
    assert_eq!(framed.written(), 16);
    assert_eq!(framed.backlog() as u64, end - 16);
}

#[tokio::test]
async fn progress_is_reported_only_after_a_blocked_write() {
    let (mut framed, mut far) = pair(16);
    let packet = |size| Packet::Publish(Publish::new("t", QoS::AtMostOnce, vec![0; size], None));
    framed.queue(&packet(4)).unwrap();
    assert!(framed.receive().now_or_never().is_none());
    assert!(
        !framed.take_progress(),
        "what it had room for proves nothing"
    );
    framed.queue(&packet(100)).unwrap();
    assert!(framed.receive().now_or_never().is_none());
    assert!(!framed.take_progress(), "it is full");
    far.read_exact(&mut [0; 10]).await.unwrap();
    assert!(framed.receive().now_or_never().is_none());
    assert!(framed.take_progress());
    assert!(!framed.take_progress(), "reported once");
}

#[tokio::test]
async fn a_large_packet_leaves_no_large_buffer() {
    let (near, mut far) = duplex(1 << 20);
    let mut framed = Framed::new(near, 1 << 20, false);
    let publish = Publish::new("t", QoS::AtMostOnce, vec![0; 200_000], None);
    framed
        .send(&Packet::Publish(publish.clone()))
        .await
        .unwrap();
    assert!(framed.outgoing.capacity() <= KEEP_BYTES);
    let mut bytes = BytesMut::new();
    publish.write(&mut bytes).unwrap();
    far.write_all(&bytes).await.unwrap();
    let Ok(Received::Publish(received)) = framed.receive().await else {
        panic!("no PUBLISH")
    };
    assert_eq!(received.payload, publish.payload);
    assert!(framed.receive().now_or_never().is_none());
    assert!(framed.incoming.capacity() <= KEEP_BYTES);
}

/// A message that violates the protocol ends a connection once; from then on it is dropped.
#[tokio::test]
async fn lenient_receiver_drops_invalid_messages_only() {
    let oversized = {
        let mut packet = vec![0x32, 0xA0, 0x9C, 0x01, 0x00, 0x01, b't', 0x00, 0x09, 0x00];
        packet.resize(4 + 20_000, b'x');
        packet
    };
    for (bytes, packet_id, reason) in [
        // A user property that is not UTF-8; an unknown property; a property twice; a PUBLISH at
        // QoS 2; a property length beyond the packet; no packet identifier.
        (
            &b"\x32\x0D\x00\x01t\x00\x07\x07\x26\x00\x01k\x00\x01\xE9"[..],
            7,
            0x81,
        ),
        (b"\x32\x08\x00\x01t\x00\x07\x02\x7F\x00", 7, 0x81),
        (b"\x32\x0A\x00\x01t\x00\x07\x04\x01\x00\x01\x00", 7, 0x82),
        (b"\x34\x06\x00\x01t\x00\x07\x00", 7, 0x82),
        (b"\x32\x06\x00\x01t\x00\x07\x09", 7, 0x81),
        (b"\x32\x04\x00\x01t\x00", 0, 0x81),
        (b"\x32\x06\x00\x01t\x00\x00\x00", 0, 0x81),
        (&oversized, 9, 0x95),
    ] {
        for lenient in [false, true] {
            let (near, mut far) = duplex(1 << 20);
            let mut framed = Framed::new(near, LIMIT, lenient);
            far.write_all(bytes).await.unwrap();
            far.write_all(&[0xD0, 0x00]).await.unwrap();
            let received = framed.receive().await;
            if !lenient {
                assert!(matches!(received, Err(Cause::Protocol(_))), "{received:?}");
                let mut disconnect = [0; 3];
                far.read_exact(&mut disconnect).await.unwrap();
                assert_eq!(disconnect, [0xE0, 1, reason], "{received:?}");
                continue;
            }
            let Ok(Received::UndeliverablePublish(dropped)) = received else {
                panic!("{received:?}")
            };
            assert_eq!(
                (dropped.packet_id, dropped.fault.reason),
                (packet_id, ReasonCode(reason))
            );
            assert_eq!(framed.receive().await, Ok(Received::PingResp));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn random_bytes_neither_panic_nor_allocate(
        first in prop::sample::select(vec![0x20_u8, 0x30, 0x32, 0x3D, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xD0, 0xE0, 0xF0]),
        body in prop::collection::vec(prop_oneof![Just(0_u8), Just(1), 0_u8..64, any::<u8>()], 0..100),
        loose in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut bytes = vec![first, body.len() as u8];
        bytes.extend(body);
        bytes.extend(loose);
        let (_, cause) = received(&bytes).now_or_never().unwrap();
        prop_assert!(
            matches!(cause, Cause::Protocol(_) | Cause::Closed { .. } | Cause::Disconnected { .. }),
            "{:?}", cause
        );
    }
}
