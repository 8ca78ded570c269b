//! Limits on unsent data.

use std::collections::VecDeque;

use snitun::{Cipher, Event, Incoming, Limits, ProtocolVersion, Read, Write};

use crate::support::pair::{CLIENT, Pair, SERVER, small_limits};

#[test]
fn buffer_writes_respect_limit_and_order() {
    for send_per_channel in [100_000, 20_000] {
        let limits = Limits {
            send_per_channel,
            ..small_limits()
        };
        let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, limits, 1);
        let (server, client) = pair.channel();
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
                if pair.sides[SERVER].mux.write_buffer(server, &mut buffer) == Write::Blocked {
                    pair.settle();
                    let mut pieces = VecDeque::new();
                    let mux = &mut pair.sides[CLIENT].mux;
                    assert_eq!(mux.read_pieces(client, &mut pieces, usize::MAX), None);
                    received.extend(pieces.into_iter().flatten());
                    let mut none = VecDeque::new();
                    assert_eq!(mux.read_pieces(client, &mut none, 1), Some(Read::Blocked));
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

/// Unsent data is bounded in total, and a paused channel does not use the room of others.
#[test]
fn send_room_is_shared_evenly() {
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
        assert_eq!(mux.write(*key, &data), Write::Accepted(50_000));
        assert_eq!(mux.write(*key, &data), Write::Blocked);
    }
    // Each channel has room for a TLS record, for any number of channels.
    for _ in 0..92 {
        pair.open();
    }
    let key = pair.open();
    let mux = &mut pair.sides[SERVER].mux;
    assert_eq!(mux.write(key, &data), Write::Accepted(16 * 1024));
    // Closed channels free their room.
    mux.end(now);
    assert_eq!(mux.write(key, &data), Write::Closed);
}

/// Channels that are opened, filled and paused one after the other: each finds more room than an
/// even share of the final number, and together they still stay within the total.
#[test]
fn send_total_limit_holds() {
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
        while let Write::Accepted(_) = mux.write(key, &data) {}
        keys.push(key);
        let most = limits.send_total + keys.len() * 16 * 1024;
        let unsent = mux.bytes_unsent();
        assert!(unsent <= most, "{unsent} bytes of {} channels", keys.len());
    }
    // Sent or dropped data no longer counts.
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

/// A writer that is blocked on the total, and whose own channel stands still, is notified when
/// others free room.
#[test]
fn writer_blocked_on_total_is_notified() {
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
        assert_eq!(mux.write(quick, &[0; 200_000]), Write::Accepted(200_000));
        assert_eq!(mux.write(slow, &[0; 150_000]), Write::Accepted(150_000));
        let last = pair.open();
        let mux = &mut pair.sides[SERVER].mux;
        // Its share is a third of the total; this is the room left.
        assert_eq!(mux.write(last, &[0; 60_000]), Write::Accepted(50_000));
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
        assert_eq!(full, Write::Blocked);
        // A channel without queued data need not wait for the others.
        let late = pair.open();
        let mux = &mut pair.sides[SERVER].mux;
        let mut more = vec![0; 60_000];
        assert_eq!(
            mux.write_buffer(late, &mut more),
            Write::Accepted(16 * 1024)
        );
        assert_eq!(mux.write_buffer(late, &mut more), Write::Blocked);
        assert_eq!(more.len(), 60_000 - 16 * 1024);
        pair.settle();
        assert!(pair.sides[SERVER].events.contains(&Event::Writable(last)));
        assert!(pair.sides[SERVER].events.contains(&Event::Writable(late)));
        let mux = &mut pair.sides[SERVER].mux;
        assert_eq!(mux.write_buffer(last, &mut buffer), Write::Accepted(30_000));
    }
}
