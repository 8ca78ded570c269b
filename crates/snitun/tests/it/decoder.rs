//! Unusual frames, one test for each rule of docs/protocol.md, "SniTun".

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use snitun::{
    ChannelError, ChannelId, Cipher, DecodeError, Decoder, FrameType, Header, Incoming,
    MAX_SKIPPED, ProtocolVersion, Read, Sealer, Write,
};

use crate::support::pair::{CLIENT, Pair, SERVER, sessions, small_limits};

const ID: ChannelId = ChannelId([7; 16]);
const NEW: u8 = FrameType::New as u8;
const DATA: u8 = FrameType::Data as u8;

/// A peer that writes arbitrary frames, and the reader under test.
struct Wire {
    sealer: Sealer,
    decoder: Decoder,
    bytes: BytesMut,
}

impl Wire {
    fn new(version: ProtocolVersion, cipher: Cipher) -> Self {
        let (client, server) = sessions(cipher);
        Self {
            sealer: server.sealer,
            decoder: Decoder::new(client.opener, version),
            bytes: BytesMut::new(),
        }
    }

    fn seal(&mut self, plain: &[u8]) {
        let mut unit = Vec::new();
        self.sealer
            .seal(plain, &mut |dest: &mut [u8]| dest.fill(2), &mut unit)
            .unwrap();
        self.bytes.extend_from_slice(&unit);
    }

    /// A header that announces `size` bytes.
    fn header(&mut self, kind: u8, size: u32) {
        let extra = *b"ping       ";
        let header = Header {
            id: ID,
            kind,
            size,
            extra,
        };
        self.seal(&header.to_bytes());
    }

    /// A frame with `data` after its header.
    fn frame(&mut self, kind: u8, data: &[u8]) {
        self.header(kind, data.len() as u32);
        self.bytes.extend_from_slice(data);
    }

    /// A NEW of version 2 with this address unit.
    fn new_with(&mut self, unit: &[u8]) {
        self.header(NEW, unit.len() as u32);
        self.seal(unit);
    }

    /// Returns the decoded frames; a final DATA frame shows that the reader is still in sync.
    fn read(&mut self) -> Vec<Incoming> {
        self.frame(DATA, b"in step");
        let mut frames = Vec::new();
        while let Some(incoming) = self.decoder.decode(&mut self.bytes).unwrap() {
            frames.push(incoming);
        }
        assert!(self.decoder.is_between_frames() && self.bytes.is_empty());
        let data = BytesMut::from(&b"in step"[..]);
        assert_eq!(frames.pop(), Some(Incoming::Data { id: ID, data }));
        frames
    }
}

/// Each version with each cipher.
fn wires() -> impl Iterator<Item = (ProtocolVersion, Wire)> {
    ProtocolVersion::ALL.into_iter().flat_map(|version| {
        Cipher::ALL
            .into_iter()
            .map(move |cipher| (version, Wire::new(version, cipher)))
    })
}

/// Data that looks like a frame, so that a parsing error would be visible.
const DECOY: [u8; 40] = [FrameType::Close as u8; 40];

#[test]
fn unknown_frame_type_is_skipped() {
    for (_, mut wire) in wires() {
        for kind in [0, 0x03, 0x10, 0x77, 0xff] {
            wire.frame(kind, &DECOY);
            wire.frame(kind, b"");
        }
        assert_eq!(wire.read(), []);
    }
}

#[test]
fn unexpected_data_is_skipped() {
    for (version, mut wire) in wires() {
        wire.frame(FrameType::Close as u8, &DECOY);
        wire.frame(FrameType::Ping as u8, &DECOY);
        wire.frame(FrameType::Pause as u8, &DECOY);
        wire.frame(FrameType::Resume as u8, &DECOY);
        let mut expected = vec![Incoming::Close { id: ID }, Incoming::Ping { id: ID }];
        if version.has_flow_control() {
            expected.extend([Incoming::Pause { id: ID }, Incoming::Resume { id: ID }]);
        }
        assert_eq!(wire.read(), expected);
    }
}

#[test]
fn empty_data_frame_is_ignored() {
    for (_, mut wire) in wires() {
        wire.frame(DATA, b"");
        assert_eq!(wire.read(), []);
    }
}

#[test]
fn version_0_ignores_pause_and_resume() {
    for cipher in Cipher::ALL {
        let mut wire = Wire::new(ProtocolVersion::V0, cipher);
        wire.frame(FrameType::Pause as u8, b"");
        wire.frame(FrameType::Resume as u8, b"");
        assert_eq!(wire.read(), []);
    }
}

#[test]
fn malformed_new_address_is_ignored() {
    for cipher in Cipher::ALL {
        let mut wire = Wire::new(ProtocolVersion::V2, cipher);
        let malformed = Incoming::MalformedNew { id: ID };
        // No address, one of an unknown family, a truncated one.
        wire.header(NEW, 0);
        wire.new_with(&[b'x'; 16]);
        wire.new_with(&[b'6'; 16]);
        // A valid one after them is decoded.
        wire.new_with(b"4\xc0\x00\x02\x07 padding...");
        let caller = Some("192.0.2.7".parse().unwrap());
        let good = Incoming::New { id: ID, caller };
        assert_eq!(
            wire.read(),
            [malformed.clone(), malformed.clone(), malformed, good]
        );
    }
}

#[test]
fn oversized_new_address_ends_the_connection() {
    for cipher in Cipher::ALL {
        for size in [65, 4096, u32::MAX] {
            let mut wire = Wire::new(ProtocolVersion::V2, cipher);
            wire.header(NEW, size);
            assert_eq!(
                wire.decoder.decode(&mut wire.bytes),
                Err(DecodeError::AddressTooLong(size))
            );
        }
    }
}

/// Otherwise a garbled header would make the reader wait for gigabytes.
#[test]
fn oversized_skip_ends_the_connection() {
    let kinds = [
        0x77,
        FrameType::Close as u8,
        FrameType::Ping as u8,
        FrameType::Pause as u8,
    ];
    for kind in kinds {
        for (size, taken) in [
            (MAX_SKIPPED, true),
            (MAX_SKIPPED + 1, false),
            (u32::MAX, false),
        ] {
            for (version, mut wire) in wires() {
                wire.header(kind, size);
                let decoded = wire.decoder.decode(&mut wire.bytes);
                let expected = Err(DecodeError::SkippedTooLong(size));
                assert_eq!(decoded == expected, !taken, "{version:?} {kind} {size}");
            }
        }
    }
    // Channel data may have the maximum length of a frame.
    for (_, mut wire) in wires() {
        wire.header(DATA, u32::MAX);
        assert_eq!(wire.decoder.decode(&mut wire.bytes), Ok(None));
    }
}

#[test]
fn garbled_headers_are_detected() {
    let mut random = StdRng::seed_from_u64(1);
    for version in ProtocolVersion::ALL {
        let mut unnoticed = 0;
        for _ in 0..2_000 {
            let mut wire = Wire::new(version, Cipher::AesCbc);
            let mut garbled = [0; snitun::HEADER_LEN];
            random.fill_bytes(&mut garbled);
            wire.bytes.extend_from_slice(&garbled);
            unnoticed += usize::from(wire.decoder.decode(&mut wire.bytes).is_ok());
        }
        assert!(unnoticed < 40, "{version:?}: {unnoticed}");
    }
}

/// Two open channels: their keys at the server and at the client.
fn two_channels(pair: &mut Pair) -> [[snitun::ChannelKey; 2]; 2] {
    let server = [pair.open(), pair.open()];
    pair.settle();
    [server, [pair.accept(), pair.accept()]]
}

#[test]
fn duplicate_new_closes_only_that_channel() {
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, small_limits(), 1);
    let [server, client] = two_channels(&mut pair);
    let id = pair.sides[SERVER].mux.id(server[0]).unwrap();
    let now = pair.now;
    let handled = pair.sides[CLIENT]
        .mux
        .handle(Incoming::New { id, caller: None }, now);
    assert_eq!(handled, Ok(()));
    let failed = Read::Failed(ChannelError::DuplicateOpen);
    assert_eq!(pair.drain(CLIENT, client[0]), (Vec::new(), failed));
    assert_eq!(pair.sides[CLIENT].mux.accept(), None);
    // The peer gets CLOSE, and the other channel stays open.
    pair.settle();
    assert_eq!(pair.drain(SERVER, server[0]).1, Read::End);
    assert_eq!(
        pair.sides[SERVER].mux.write(server[1], b"on"),
        Write::Accepted(2)
    );
    pair.settle();
    assert_eq!(
        pair.drain(CLIENT, client[1]),
        (b"on".to_vec(), Read::Blocked)
    );
}

#[test]
fn close_is_not_answered() {
    for version in ProtocolVersion::ALL {
        let mut pair = Pair::new(version, Cipher::AesCbc, small_limits(), 1);
        let [server, client] = two_channels(&mut pair);
        pair.sides[SERVER].mux.close(server[0], pair.now);
        pair.write(SERVER, usize::MAX);
        pair.read(CLIENT, usize::MAX);
        assert_eq!(pair.drain(CLIENT, client[0]).1, Read::End);
        pair.sides[CLIENT].mux.release(client[0], pair.now);
        pair.write(CLIENT, usize::MAX);
        assert!(pair.sides[SERVER].wire.is_empty());
    }
}

#[test]
fn empty_data_is_never_sent() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, small_limits(), 1);
    let [server, _] = two_channels(&mut pair);
    let mux = &mut pair.sides[SERVER].mux;
    assert_eq!(mux.write(server[0], b""), Write::Accepted(0));
    let mut buffer = mux.take_buffer();
    assert_eq!(mux.write_buffer(server[0], &mut buffer), Write::Accepted(0));
    assert!(!mux.has_output());
    pair.write(SERVER, usize::MAX);
    assert!(pair.sides[CLIENT].wire.is_empty());
    // No empty frame follows the written data or precedes CLOSE.
    let mux = &mut pair.sides[SERVER].mux;
    mux.write(server[0], b"x");
    mux.write(server[0], b"");
    mux.close(server[0], pair.now);
    pair.write(SERVER, usize::MAX);
    assert_eq!(pair.sides[CLIENT].wire.len(), 32 + 1 + 32);
}

/// Frames for a closed or unknown channel.
#[test]
fn unknown_channel_frames_are_ignored() {
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, small_limits(), 1);
    let (mux, now) = (&mut pair.sides[CLIENT].mux, pair.now);
    let data = BytesMut::from(&b"late"[..]);
    for incoming in [
        Incoming::Data { id: ID, data },
        Incoming::Close { id: ID },
        Incoming::Pause { id: ID },
        Incoming::Resume { id: ID },
        Incoming::Pong {
            id: ID,
            has_backpressure: false,
        },
        Incoming::MalformedNew { id: ID },
    ] {
        assert_eq!(mux.handle(incoming, now), Ok(()));
        assert_eq!((mux.poll_event(), mux.has_output()), (None, false));
    }
    assert_eq!((mux.open_channels(), mux.bytes_received_unread()), (0, 0));
}
