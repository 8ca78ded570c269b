mod model;

use tokio::sync::oneshot;

use super::*;
use crate::error::PublishError;

const LIMIT: Duration = Duration::from_secs(30);

fn capabilities() -> ServerCapabilities {
    ServerCapabilities {
        receive_maximum: 100,
        maximum_packet: None,
        at_least_once: true,
        retain: true,
        keep_alive: Duration::from_secs(60),
        session_present: false,
    }
}

fn bounded(outbox_messages: usize, outbox_bytes: usize) -> Outbox {
    with_policy(outbox_messages, outbox_bytes, Overflow::Refuse)
}

fn with_policy(outbox_messages: usize, outbox_bytes: usize, overflow: Overflow) -> Outbox {
    let limits = Limits {
        outbox_messages,
        outbox_bytes,
        publishes_per_second: None,
        bytes_per_second: None,
        ..Limits::default()
    };
    Outbox::new(&limits, overflow)
}

fn next_to_send(
    outbox: &mut Outbox,
    packet_ids: &mut PacketIds,
    capabilities: &ServerCapabilities,
) -> Option<Message> {
    match outbox.next_to_send(packet_ids, capabilities, Instant::now()) {
        Next::Message(out) => Some(out.message),
        Next::At(_) | Next::Nothing => None,
    }
}

fn accept(outbox: &mut Outbox, message: Message) -> oneshot::Receiver<Result<Ack, DeliveryError>> {
    let (reply, receiver) = oneshot::channel();
    outbox.accept(message, None, reply, Instant::now()).unwrap();
    receiver
}

fn numbered(n: usize, qos: QoS) -> Message {
    Message::new("t", n.to_string()).qos(qos)
}

#[test]
fn outbox_is_bounded_in_messages_and_bytes() {
    let mut outbox = bounded(2, 10_000);
    let _one = accept(&mut outbox, Message::new("t", "1"));
    let _two = accept(&mut outbox, Message::new("t", "2"));
    let (reply, mut receiver) = oneshot::channel();
    let refused = outbox.accept(Message::new("t", "3"), None, reply, Instant::now());
    assert!(matches!(
        refused,
        Err(PublishError::OutboxFull { messages: 2, .. })
    ));
    assert!(
        receiver.try_recv().is_err(),
        "a refused message has no receipt to resolve"
    );

    let mut outbox = bounded(100, 1000);
    let _one = accept(&mut outbox, Message::new("t", vec![0; 500]));
    let (reply, _receiver) = oneshot::channel();
    assert!(
        outbox
            .accept(Message::new("t", vec![0; 500]), None, reply, Instant::now())
            .is_err()
    );
}

#[test]
fn every_receipt_is_resolved() {
    let mut outbox = bounded(10, 100_000);
    let mut packet_ids = PacketIds::new(10, Vec::new());
    let capabilities = ServerCapabilities {
        maximum_packet: Some(100),
        retain: false,
        ..capabilities()
    };
    let mut large = accept(&mut outbox, Message::new("t", vec![0; 200]));
    let mut retained = accept(&mut outbox, Message::new("t", "").retained());
    let mut sent = accept(&mut outbox, numbered(0, QoS::AtMostOnce));
    let mut acknowledged = accept(&mut outbox, numbered(1, QoS::AtLeastOnce));
    let mut refused = accept(&mut outbox, numbered(2, QoS::AtLeastOnce));
    let mut waiting = accept(&mut outbox, numbered(3, QoS::AtLeastOnce));
    while next_to_send(&mut outbox, &mut packet_ids, &capabilities).is_some() {}
    let now = Instant::now();
    for id in [0, 1, 2] {
        outbox.written(id, now, LIMIT).unwrap();
    }
    outbox
        .acknowledged(2, ReasonCode::NOT_AUTHORIZED, Instant::now())
        .unwrap();
    outbox
        .acknowledged(1, ReasonCode(0x10), Instant::now())
        .unwrap();
    outbox.stop();

    assert!(matches!(
        large.try_recv().unwrap(),
        Err(DeliveryError::TooLarge { limit: 100, .. })
    ));
    assert_eq!(
        retained.try_recv().unwrap(),
        Err(DeliveryError::NotSupported("retained messages"))
    );
    assert_eq!(sent.try_recv().unwrap(), Ok(Ack::Sent));
    assert_eq!(acknowledged.try_recv().unwrap(), Ok(Ack::Acknowledged));
    assert_eq!(
        refused.try_recv().unwrap(),
        Err(DeliveryError::Refused(ReasonCode::NOT_AUTHORIZED))
    );
    assert_eq!(waiting.try_recv().unwrap(), Err(DeliveryError::Stopped));
    assert_eq!((outbox.len(), outbox.bytes()), (0, 0));
}

#[test]
fn receive_maximum_holds_and_packet_ids_are_unique() {
    let mut outbox = bounded(100, 100_000);
    let mut packet_ids = PacketIds::new(3, Vec::new());
    let _receipts: Vec<_> = (0..8)
        .map(|n| accept(&mut outbox, numbered(n, QoS::AtLeastOnce)))
        .collect();
    let mut handed = 0;
    while next_to_send(&mut outbox, &mut packet_ids, &capabilities()).is_some() {
        handed += 1;
        outbox.written(handed, Instant::now(), LIMIT).unwrap();
    }
    assert_eq!(handed, 3);
    // The last one is acknowledged first: the next identifier is 1, which is still in use.
    outbox
        .acknowledged(3, ReasonCode::SUCCESS, Instant::now())
        .unwrap();
    assert!(next_to_send(&mut outbox, &mut packet_ids, &capabilities()).is_none());
    outbox
        .acknowledged(1, ReasonCode::SUCCESS, Instant::now())
        .unwrap();
    assert!(next_to_send(&mut outbox, &mut packet_ids, &capabilities()).is_some());
    outbox.written(1, Instant::now(), LIMIT).unwrap();
}

#[test]
fn unexpected_packets_are_detected() {
    let mut outbox = bounded(10, 100_000);
    let mut packet_ids = PacketIds::new(10, Vec::new());
    let _receipt = accept(&mut outbox, numbered(0, QoS::AtLeastOnce));
    assert_eq!(
        outbox.written(1, Instant::now(), LIMIT),
        Err(UnexpectedPacket)
    );
    next_to_send(&mut outbox, &mut packet_ids, &capabilities()).unwrap();
    assert_eq!(
        outbox.acknowledged(1, ReasonCode::SUCCESS, Instant::now()),
        Err(UnexpectedPacket),
        "not written yet"
    );
    assert_eq!(
        outbox.written(2, Instant::now(), LIMIT),
        Err(UnexpectedPacket)
    );
    outbox.written(1, Instant::now(), LIMIT).unwrap();
    assert_eq!(
        outbox.acknowledged(0, ReasonCode::SUCCESS, Instant::now()),
        Err(UnexpectedPacket)
    );
}

#[test]
fn withdrawn_message_is_never_sent() {
    let mut outbox = bounded(10, 100_000);
    let mut packet_ids = PacketIds::new(10, Vec::new());
    let (reply, _receiver) = oneshot::channel();
    let id = outbox
        .accept(numbered(0, QoS::AtLeastOnce), None, reply, Instant::now())
        .unwrap();
    let _other = accept(&mut outbox, numbered(1, QoS::AtLeastOnce));
    assert!(outbox.withdraw(id, Instant::now()));
    assert!(!outbox.withdraw(id, Instant::now()));
    assert_eq!(
        next_to_send(&mut outbox, &mut packet_ids, &capabilities())
            .unwrap()
            .payload,
        "1"
    );
    assert_eq!(outbox.len(), 1);
}

type Replies = Vec<oneshot::Receiver<Result<Ack, DeliveryError>>>;

/// Accepts messages numbered from 0 and offers one more; returns whether it was accepted and which
/// ones were dropped.
fn offer(outbox: &mut Outbox, held: &[QoS], last: Message) -> (bool, Vec<usize>) {
    let mut replies: Replies = (0..)
        .zip(held)
        .map(|(n, qos)| accept(outbox, numbered(n, *qos)))
        .collect();
    let (reply, _receiver) = oneshot::channel();
    let taken = outbox.accept(last, None, reply, Instant::now()).is_ok();
    let displaced = |reply: &mut oneshot::Receiver<_>| {
        matches!(reply.try_recv(), Ok(Err(DeliveryError::Displaced)))
    };
    let gone = (0..held.len()).filter(|n| displaced(&mut replies[*n]));
    (taken, gone.collect())
}

#[test]
fn a_full_outbox_follows_its_policy() {
    use QoS::{AtLeastOnce as Sure, AtMostOnce as Unsure};
    let held = [Sure, Unsure, Sure, Unsure];
    let small = || numbered(9, Sure);
    // 129 bytes each, and 2; three of them leave room for 400 more.
    let large = || Message::new("t", vec![0; 250]);
    let try_it = |policy, held: &[QoS], last| offer(&mut with_policy(4, 520, policy), held, last);

    assert_eq!(try_it(Overflow::Refuse, &held, small()), (false, vec![]));
    assert_eq!(
        try_it(Overflow::DropOldest, &held, small()),
        (true, vec![0])
    );
    assert_eq!(
        try_it(Overflow::DropOldest, &held, large()),
        (true, vec![0, 1, 2])
    );
    assert_eq!(
        try_it(Overflow::DropAtMostOnce, &held, small()),
        (true, vec![1])
    );
    // Dropping the two at QoS 0 would not be enough, so they stay.
    assert_eq!(
        try_it(Overflow::DropAtMostOnce, &held, large()),
        (false, vec![])
    );
    assert_eq!(
        try_it(Overflow::DropAtMostOnce, &[Sure; 4], small()),
        (false, vec![])
    );
    // A message that never fits drops no other.
    let huge = Message::new("t", vec![0; 500]);
    assert_eq!(try_it(Overflow::DropOldest, &held, huge), (false, vec![]));
}

#[test]
fn messages_in_flight_are_not_dropped() {
    let mut outbox = with_policy(2, 10_000, Overflow::DropOldest);
    let mut packet_ids = PacketIds::new(10, Vec::new());
    let mut first = accept(&mut outbox, numbered(0, QoS::AtLeastOnce));
    next_to_send(&mut outbox, &mut packet_ids, &capabilities()).unwrap();
    let mut second = accept(&mut outbox, numbered(1, QoS::AtLeastOnce));
    let _third = accept(&mut outbox, numbered(2, QoS::AtLeastOnce));
    assert!(first.try_recv().is_err());
    assert_eq!(second.try_recv().unwrap(), Err(DeliveryError::Displaced));
    assert_eq!(outbox.len(), 2);
}

#[test]
fn queued_messages_expire_and_send_remaining_expiry() {
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    let mut outbox = bounded(10, 10_000);
    let mut packet_ids = PacketIds::new(10, Vec::new());
    let mut expiring = |seconds: Option<u64>| {
        let (reply, receiver) = oneshot::channel();
        let expires = seconds.map(after);
        outbox
            .accept(
                numbered(0, QoS::AtLeastOnce),
                expires,
                reply,
                Instant::now(),
            )
            .unwrap();
        receiver
    };
    let mut ten = expiring(Some(10));
    let mut never = expiring(None);
    let mut five = expiring(Some(5));
    assert_eq!(outbox.next_expiry(), Some(after(5)));
    outbox.expire(after(5));
    assert_eq!(five.try_recv().unwrap(), Err(DeliveryError::Expired));
    assert_eq!(outbox.next_expiry(), Some(after(10)));

    let Next::Message(out) = outbox.next_to_send(&mut packet_ids, &capabilities(), after(7)) else {
        panic!("nothing to send")
    };
    assert_eq!(out.expires_in, Some(Duration::from_secs(3)));
    // In flight it cannot be recalled, but it is not resent.
    outbox.expire(after(20));
    assert!(ten.try_recv().is_err());
    outbox.connection_lost();
    outbox.expire(after(20));
    assert_eq!(ten.try_recv().unwrap(), Err(DeliveryError::Expired));
    assert!(never.try_recv().is_err());
    assert_eq!((outbox.len(), outbox.next_expiry()), (1, None));
}

#[test]
fn session_message_avoids_reserved_packet_ids() {
    let now = Instant::now();
    let mut outbox = bounded(10, 10_000);
    let mut packet_ids = PacketIds::new(2, Vec::new());
    let _receipt = accept(&mut outbox, numbered(1, QoS::AtLeastOnce));
    next_to_send(&mut outbox, &mut packet_ids, &capabilities()).unwrap();
    outbox.written(1, now, LIMIT).unwrap();
    outbox.connection_lost();
    let mut packet_ids = PacketIds::new(2, outbox.reserved());
    let birth = numbered(0, QoS::AtLeastOnce);
    let (_, birth) = outbox.send_internal(birth, &mut packet_ids, now);
    assert_eq!((birth.packet_id, birth.duplicate), (2, false));
    let Next::Message(message) = outbox.next_to_send(&mut packet_ids, &capabilities(), now) else {
        panic!("there is room for two");
    };
    assert_eq!((message.packet_id, message.duplicate), (1, true));
}
