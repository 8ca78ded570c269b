//! What a connection may hold of what is written and not sent.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/pair.rs"]
mod pair;

use std::collections::VecDeque;

use pair::{CLIENT, Pair, SERVER, small_limits};
use snitun::{Cipher, Event, Incoming, Limits, ProtocolVersion, Read, Write};

#[test]
fn buffers_are_queued_within_the_limit_and_arrive_in_order() {
    for send_per_channel in [100_000, 20_000] {
        let limits = Limits {
            send_per_channel,
            ..small_limits()
        };
        let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, limits, 1);
        let server = pair.open();
        pair.settle();
        let client = pair.accept();
        let mut sent = Vec::new();
        let mut received = Vec::new();
        for (round, len) in [60_000, 10, 16_384, 65_536, 1, 30_000]
            .into_iter()
            .enumerate()
        {
            let mut buffer = pair.sides[SERVER].mux.take_buffer();
            assert!(buffer.is_empty() && buffer.capacity() >= 65_536);
            buffer.resize(len, round as u8);
            sent.extend_from_slice(&buffer);
            while !buffer.is_empty() {
                let queued = sent.len() - received.len() - buffer.len();
                assert!(queued <= send_per_channel, "{queued} are queued");
                if pair.sides[SERVER].mux.write_buffer(server, &mut buffer) == Write::Wait {
                    pair.settle();
                    let mut pieces = VecDeque::new();
                    let mux = &mut pair.sides[CLIENT].mux;
                    assert_eq!(mux.read_pieces(client, &mut pieces, usize::MAX), None);
                    received.extend(pieces.into_iter().flatten());
                    let mut none = VecDeque::new();
                    assert_eq!(mux.read_pieces(client, &mut none, 1), Some(Read::Wait));
                }
            }
        }
        pair.settle();
        received.extend(pair.drain(CLIENT, client).0);
        assert!(received == sent);
        pair.sides[SERVER].mux.close(server, pair.now);
        let closed = pair.sides[SERVER].mux.write_buffer(server, &mut vec![1]);
        assert_eq!(closed, Write::Closed);
    }
}

/// What is written and cannot go out is bounded in total, and a paused channel takes nobody else's room.
#[test]
fn room_for_sending_is_shared_out_evenly() {
    let limits = Limits {
        send_per_channel: 200_000,
        send_total: 400_000,
        ..Limits::default()
    };
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, limits, 1);
    let now = pair.now;
    let keys: Vec<_> = (0..8).map(|_| pair.open()).collect();
    let mux = &mut pair.sides[SERVER].mux;
    let data = vec![0; 300_000];
    for key in &keys {
        assert_eq!(mux.write(*key, &data), Write::Taken(50_000));
        assert_eq!(mux.write(*key, &data), Write::Wait);
    }
    // However many there are, each has room for a TLS record.
    for _ in 0..92 {
        pair.open();
    }
    let key = pair.open();
    let mux = &mut pair.sides[SERVER].mux;
    assert_eq!(mux.write(key, &data), Write::Taken(16 * 1024));
    // Those that go make room.
    mux.end(now);
    assert_eq!(mux.write(key, &data), Write::Closed);
}

/// Channels that are opened, filled and paused one after the other: each finds more room than an even share of what there
/// will be, and together they stay within the total all the same.
#[test]
fn the_total_for_sending_holds_however_it_is_filled() {
    let limits = Limits {
        send_total: 4 * 1024 * 1024,
        ..Limits::default()
    };
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, limits.clone(), 1);
    let now = pair.now;
    let data = vec![0; 300_000];
    let mut keys = Vec::new();
    for _ in 0..400 {
        let key = pair.open();
        let id = pair.sides[SERVER].mux.id(key).unwrap();
        let mux = &mut pair.sides[SERVER].mux;
        mux.handle(Incoming::Pause { id }, now).unwrap();
        while let Write::Taken(_) = mux.write(key, &data) {}
        keys.push(key);
        let most = limits.send_total + keys.len() * 16 * 1024;
        let unsent = mux.bytes_unsent();
        assert!(unsent <= most, "{unsent} bytes of {} channels", keys.len());
    }
    // What is sent or given up is counted no longer.
    let mux = &mut pair.sides[SERVER].mux;
    let before = mux.bytes_unsent();
    let id = mux.id(keys[0]).unwrap();
    mux.handle(Incoming::Resume { id }, now).unwrap();
    while pair.sides[SERVER].mux.has_output() {
        pair.write(SERVER, usize::MAX);
    }
    let mux = &mut pair.sides[SERVER].mux;
    assert_eq!(before - mux.bytes_unsent(), limits.send_per_channel);
    mux.end(now);
    assert_eq!(mux.bytes_unsent(), 0);
}

/// A writer that waits because others have taken the total, and whose own channel stands still, is told when they leave room.
#[test]
fn who_waits_for_the_total_is_told_when_others_leave_room() {
    let limits = Limits {
        send_per_channel: 200_000,
        send_total: 400_000,
        ..Limits::default()
    };
    for whole_buffer in [false, true] {
        let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, limits.clone(), 1);
        let now = pair.now;
        let (quick, slow) = (pair.open(), pair.open());
        let mux = &mut pair.sides[SERVER].mux;
        assert_eq!(mux.write(quick, &[0; 200_000]), Write::Taken(200_000));
        assert_eq!(mux.write(slow, &[0; 150_000]), Write::Taken(150_000));
        let last = pair.open();
        let mux = &mut pair.sides[SERVER].mux;
        // A third of the total would be its share, and this is what there is.
        assert_eq!(mux.write(last, &[0; 60_000]), Write::Taken(50_000));
        for key in [slow, last] {
            let id = mux.id(key).unwrap();
            mux.handle(Incoming::Pause { id }, now).unwrap();
        }
        let mut buffer = vec![0; 30_000];
        let full = if whole_buffer {
            mux.write_buffer(last, &mut buffer)
        } else {
            mux.write(last, &buffer)
        };
        assert_eq!(full, Write::Wait);
        // One that has nothing queued is not made to wait for the others at all.
        let late = pair.open();
        let mux = &mut pair.sides[SERVER].mux;
        let mut more = vec![0; 60_000];
        assert_eq!(mux.write_buffer(late, &mut more), Write::Taken(16 * 1024));
        assert_eq!(mux.write_buffer(late, &mut more), Write::Wait);
        assert_eq!(more.len(), 60_000 - 16 * 1024);
        pair.settle();
        assert!(pair.sides[SERVER].events.contains(&Event::Writable(last)));
        assert!(pair.sides[SERVER].events.contains(&Event::Writable(late)));
        let mux = &mut pair.sides[SERVER].mux;
        assert_eq!(mux.write_buffer(last, &mut buffer), Write::Taken(30_000));
    }
}
