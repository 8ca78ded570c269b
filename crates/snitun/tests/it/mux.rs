//! Two multiplexers, connected by byte pipes on virtual time: random schedules against a model, and
//! the protocol's special cases. Limits and timeouts are in `limits.rs`, `send_limits.rs` and
//! `time_limits.rs`.

use std::io::IoSlice;
use std::time::Duration;

use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;
use snitun::{ChannelError, Cipher, Event, Limits, ProtocolVersion, Read, Timeouts, Write};

use crate::support::model;
use crate::support::pair::{CLIENT, Pair, SERVER, limits_for, small_limits};

/// A random schedule of `steps` operations, the same for the same seed.
fn run_schedule(seed: u64, version: ProtocolVersion, cipher: Cipher, steps: usize) {
    let pair = Pair::new(version, cipher, small_limits(), seed);
    model::run_schedule(pair, &mut StdRng::seed_from_u64(seed), steps, 200_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_schedules_match_the_model(seed: u64, version in 0_u8..3, cipher in 0_usize..3) {
        let version = ProtocolVersion::try_from(version).unwrap();
        run_schedule(seed, version, Cipher::ALL[cipher], 1000);
    }
}

#[test]
fn ten_thousand_operations_match_the_model() {
    for (seed, version) in (1..).zip(ProtocolVersion::ALL) {
        run_schedule(seed, version, Cipher::AesCbc, 10_000);
    }
}

/// Data, PAUSE, RESUME and CLOSE of both ends, in every order of five operations.
#[test]
fn every_interleaving_matches_the_model() {
    const DEPTH: u32 = 5;
    const LARGEST: usize = 4000;
    let count = model::OPERATIONS.pow(DEPTH);
    for number in 0..count {
        let operations: Vec<_> = (0..DEPTH)
            .map(|place| number / model::OPERATIONS.pow(place) % model::OPERATIONS)
            .collect();
        if operations
            .windows(2)
            .any(|two| two[0] == two[1] && two[0] >= 4)
        {
            continue;
        }
        // One in seven without flow control, where there is less to test.
        let version = if number % 7 == 0 {
            ProtocolVersion::V0
        } else {
            ProtocolVersion::V1
        };
        let pair = Pair::new(version, Cipher::AesCbc, limits_for(LARGEST), 1);
        model::run_interleaving(pair, &operations, LARGEST);
    }
}

/// The output depends only on the calls, not on hash order.
#[test]
fn same_calls_produce_same_bytes() {
    let run = || {
        let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, small_limits(), 1);
        let keys: Vec<_> = (0..20).map(|_| pair.open()).collect();
        pair.settle();
        for key in keys {
            pair.sides[SERVER].mux.write(key, b"last words");
        }
        pair.sides[SERVER].mux.drain(pair.now);
        pair.write(SERVER, usize::MAX);
        pair.sides[CLIENT].wire.clone()
    };
    assert!(run() == run());
}

/// Each end has paused the channel and closes it: neither CLOSE may wait long for the other end's
/// RESUME.
#[test]
fn mutually_paused_channel_closes() {
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, small_limits(), 1);
    let (server, client) = pair.channel();
    let more = vec![0; 100_000];
    for (side, key) in [(CLIENT, client), (SERVER, server)] {
        pair.sides[side].mux.write(key, &more);
    }
    pair.settle();
    // Each side has data that it cannot send.
    for (side, key) in [(CLIENT, client), (SERVER, server)] {
        let mux = &mut pair.sides[side].mux;
        assert_eq!(mux.write(key, &more), Write::Accepted(more.len()));
        assert!(!mux.has_output());
        mux.release(key, pair.now);
    }
    pair.settle();
    for side in &pair.sides {
        assert_eq!(side.mux.open_channels(), 0);
    }
}

#[test]
fn data_before_close_arrives_before_end() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    let server = pair.open();
    assert_eq!(
        pair.sides[SERVER].mux.write(server, b"hello"),
        Write::Accepted(5)
    );
    pair.sides[SERVER].mux.close(server, pair.now);
    assert_eq!(pair.sides[SERVER].mux.write(server, b"more"), Write::Closed);
    pair.settle();
    let client = pair.accept();
    assert_eq!(pair.drain(CLIENT, client), (b"hello".to_vec(), Read::End));
    assert_eq!(pair.sides[CLIENT].mux.write(client, b"x"), Write::Closed);
    assert_eq!(pair.sides[CLIENT].mux.open_channels(), 0);
}

#[test]
fn vectored_write_becomes_one_frame() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, small_limits(), 1);
    let key = pair.open();
    let slices = [&b"one"[..], b"", b" write", &[b'x'; 10_000]].map(IoSlice::new);
    let written = pair.sides[SERVER].mux.write_vectored(key, &slices);
    assert_eq!(written, Write::Accepted(10_009));
    // NEW and one DATA frame.
    let encoder = &mut pair.sides[SERVER].encoder;
    let batch = &mut pair.sides[SERVER].batch;
    let now = pair.now;
    pair.sides[SERVER]
        .mux
        .poll_transmit(encoder, batch, now)
        .unwrap();
    assert_eq!(batch.len(), 2 * 32 + 10_009);
    pair.settle();
    let accepted = pair.accept();
    let (bytes, _) = pair.drain(CLIENT, accepted);
    assert_eq!(bytes[..12], *b"one writexxx");
    assert_eq!(bytes.len(), 10_009);

    // More than there is room for: the beginning is accepted, then nothing.
    let big = [vec![1; 70_000], vec![2; 70_000]];
    let slices = big.each_ref().map(|bytes| IoSlice::new(bytes));
    let mux = &mut pair.sides[SERVER].mux;
    assert_eq!(mux.write_vectored(key, &slices), Write::Accepted(100_000));
    assert_eq!(mux.write_vectored(key, &slices), Write::Blocked);
    pair.settle();
    let (bytes, _) = pair.drain(CLIENT, accepted);
    assert!(bytes[..70_000].iter().all(|byte| *byte == 1));
    assert!(bytes[70_000..].iter().all(|byte| *byte == 2));
    assert_eq!(bytes.len(), 100_000);
}

#[test]
fn crossing_closes_free_the_channel() {
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, Limits::default(), 1);
    let (server, client) = pair.channel();
    for (side, key) in [(CLIENT, client), (SERVER, server)] {
        pair.sides[side].mux.write(key, b"last words");
        pair.sides[side].mux.release(key, pair.now);
    }
    pair.settle();
    for side in &pair.sides {
        assert_eq!(side.mux.open_channels(), 0);
        assert_eq!(side.mux.bytes_received_unread(), 0);
        assert_eq!(side.ended, None);
    }
}

#[test]
fn slow_reader_pauses_only_its_sender() {
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesGcm, small_limits(), 1);
    let (slow, quick) = (pair.open(), pair.open());
    pair.settle();
    let (slow_end, quick_end) = (pair.accept(), pair.accept());
    let block = vec![1; 50_000];
    let mut written = 0;
    loop {
        match pair.sides[SERVER].mux.write(slow, &block) {
            Write::Accepted(count) => written += count,
            Write::Blocked => break,
            Write::Closed => panic!("flow control failed"),
        }
        pair.settle();
        assert!(written < 1_000_000, "never paused");
    }
    // The other channel continues.
    for _ in 0..20 {
        assert_eq!(
            pair.sides[SERVER].mux.write(quick, &block),
            Write::Accepted(block.len())
        );
        pair.settle();
        assert_eq!(pair.drain(CLIENT, quick_end).0.len(), block.len());
        pair.settle();
    }
    // Reading resumes the slow channel, and no data is missing.
    pair.sides[SERVER].events.clear();
    let mut read = 0;
    while read < written {
        let (bytes, end) = pair.drain(CLIENT, slow_end);
        assert_eq!(end, Read::Blocked);
        read += bytes.len();
        pair.settle();
    }
    assert!(pair.sides[SERVER].events.contains(&Event::Writable(slow)));
}

#[test]
fn pause_cancelled_before_sending_is_not_sent() {
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, small_limits(), 1);
    let (server, client) = pair.channel();
    pair.sides[SERVER].mux.write(server, &[0; 90_000]);
    pair.write(SERVER, usize::MAX);
    pair.read(CLIENT, usize::MAX);
    // Above the pause threshold now, and below the resume threshold right away.
    assert_eq!(pair.drain(CLIENT, client).0.len(), 90_000);
    let before = pair.sides[SERVER].wire.len();
    pair.write(CLIENT, usize::MAX);
    assert_eq!(pair.sides[SERVER].wire.len(), before);
}

#[test]
fn channels_alternate_and_control_frames_go_first() {
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, Limits::default(), 1);
    let keys = [pair.open(), pair.open()];
    pair.settle();
    let ends = [pair.accept(), pair.accept()];
    pair.sides[SERVER].mux.write(keys[0], &vec![0; 200_000]);
    pair.sides[SERVER].mux.write(keys[1], &[1; 10]);
    let id = pair.id();
    pair.sides[SERVER].mux.ping(id, pair.now);
    // Only the ping and one frame of the first channel precede the second channel.
    pair.write(SERVER, 32 + 32 + 64 * 1024 + 32 + 10);
    pair.read(CLIENT, usize::MAX);
    assert!(
        pair.sides[CLIENT].mux.has_output(),
        "the answer to the ping"
    );
    assert_eq!(pair.drain(CLIENT, ends[1]).0.len(), 10);
    assert_eq!(pair.drain(CLIENT, ends[0]).0.len(), 64 * 1024);
}

#[test]
fn throttling_delays_only_large_messages() {
    let mut pair = Pair::with(
        ProtocolVersion::V0,
        Cipher::AesCbc,
        Limits::default(),
        Timeouts::default(),
        Some(10),
        1,
    );
    let (bulk, small) = (pair.open(), pair.open());
    pair.write(SERVER, usize::MAX);
    pair.read(CLIENT, usize::MAX);
    let (bulk_end, small_end) = (pair.accept(), pair.accept());
    pair.sides[SERVER].mux.write(bulk, &vec![0; 256 * 1024]);
    let mut total = 0;
    for frame in 1..=4 {
        pair.sides[SERVER].mux.write(small, b"x");
        pair.write(SERVER, usize::MAX);
        pair.read(CLIENT, usize::MAX);
        total += pair.drain(CLIENT, bulk_end).0.len();
        assert_eq!(total, frame * 64 * 1024);
        assert_eq!(pair.drain(CLIENT, small_end).0, b"x");
        pair.advance(Duration::from_millis(100));
    }
}

#[test]
fn drain_sends_data_before_close() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    let (server, client) = pair.channel();
    pair.sides[CLIENT].mux.write(client, b"last data");
    pair.sides[CLIENT].mux.drain(pair.now);
    assert!(!pair.sides[CLIENT].mux.is_drained());
    pair.settle();
    assert!(pair.sides[CLIENT].mux.is_drained());
    assert_eq!(
        pair.drain(SERVER, server),
        (b"last data".to_vec(), Read::End)
    );
    let failed = Read::Failed(ChannelError::TunnelClosed);
    assert_eq!(pair.drain(CLIENT, client).1, failed);
    // A channel opened meanwhile is refused.
    let late = pair.open();
    pair.settle();
    assert_eq!(pair.drain(SERVER, late).1, Read::End);
}

#[test]
fn one_readable_event_for_many_frames() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    let (server, client) = pair.channel();
    pair.sides[CLIENT].events.clear();
    assert_eq!(pair.sides[CLIENT].mux.read(client), Read::Blocked);
    for _ in 0..100 {
        pair.sides[SERVER].mux.write(server, b"frame");
        pair.settle();
    }
    assert_eq!(pair.sides[CLIENT].events, [Event::Readable(client)]);
}

#[test]
fn close_does_not_overtake_pause() {
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, Limits::default(), 1);
    let (server, client) = pair.channel();
    // More than the peer's pause threshold, all on the wire before it has read any of it, and
    // closed.
    const TOTAL: usize = 3_000_000;
    let mut written = 0;
    while written < TOTAL {
        let block = vec![5; (TOTAL - written).min(100_000)];
        match pair.sides[CLIENT].mux.write(client, &block) {
            Write::Accepted(count) => written += count,
            other => panic!("{other:?}"),
        }
        while pair.sides[CLIENT].mux.has_output() {
            pair.write(CLIENT, usize::MAX);
        }
    }
    pair.sides[CLIENT].mux.release(client, pair.now);
    pair.settle();
    assert_eq!(pair.sides[SERVER].mux.bytes_received_unread(), TOTAL);
    assert_eq!(
        pair.sides[SERVER].mux.open_channels(),
        1,
        "CLOSE has not come"
    );
    // Reading triggers RESUME, and RESUME triggers CLOSE.
    assert_eq!(pair.drain(SERVER, server), (vec![5; TOTAL], Read::Blocked));
    pair.settle();
    assert_eq!(pair.drain(SERVER, server).1, Read::End);
    assert_eq!(pair.sides[CLIENT].mux.open_channels(), 0);
}
