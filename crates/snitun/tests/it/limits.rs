//! Limits of a connection, one test for each; limits on unsent data are in `send_limits.rs`,
//! timeouts in `time_limits.rs`.

use std::time::Duration;

use bytes::BytesMut;
use snitun::{
    ChannelError, ChannelId, Cipher, CloseReason, Incoming, Limits, OpenError, ProtocolVersion,
    Read, Timeouts, Write,
};

use crate::support::pair::{CLIENT, Pair, SERVER, limits_for, small_limits};

#[test]
fn channel_over_receive_limit_is_closed_alone() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, small_limits(), 1);
    let (slow, quick) = (pair.open(), pair.open());
    pair.settle();
    let (slow_end, quick_end) = (pair.accept(), pair.accept());
    pair.sides[SERVER].mux.write(quick, b"fine");
    let block = vec![1; 50_000];
    let mut written = 0;
    while pair.sides[SERVER].mux.write(slow, &block) == Write::Accepted(block.len()) {
        written += block.len();
        pair.settle();
        assert!(written < 1_000_000, "the limit is never reached");
    }
    // What arrived before is delivered.
    let (read, ended) = pair.drain(CLIENT, slow_end);
    assert_eq!(ended, Read::Failed(ChannelError::Overrun));
    let limit = small_limits().receive_per_channel;
    assert!((limit - block.len()..=limit).contains(&read.len()));
    assert_eq!(pair.drain(SERVER, slow), (Vec::new(), Read::End));
    assert_eq!(
        pair.drain(CLIENT, quick_end),
        (b"fine".to_vec(), Read::Blocked)
    );
    assert_eq!(pair.sides[CLIENT].mux.bytes_received_unread(), 0);
    assert_eq!(pair.sides[CLIENT].mux.open_channels(), 1);
}

#[test]
fn fullest_channel_is_closed_at_total_limit() {
    let limits = Limits {
        receive_total: 300_000,
        ..small_limits()
    };
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, limits, 1);
    let keys: Vec<_> = (0..4).map(|_| pair.open()).collect();
    for (index, key) in keys.iter().enumerate() {
        let size = if index == 2 { 100_000 } else { 60_000 };
        let taken = pair.sides[SERVER].mux.write(*key, &vec![0; size]);
        assert_eq!(taken, Write::Accepted(size));
        pair.settle();
    }
    assert_eq!(pair.sides[CLIENT].mux.bytes_received_unread(), 280_000);
    let fifth = pair.open();
    pair.sides[SERVER].mux.write(fifth, &[0; 30_000]);
    pair.settle();
    let ends: Vec<_> = (0..5).map(|_| pair.accept()).collect();
    let lens: Vec<_> = ends
        .iter()
        .map(|end| pair.drain(CLIENT, *end).0.len())
        .collect();
    assert_eq!(lens, [60_000, 60_000, 0, 60_000, 30_000]);
}

#[test]
fn closed_channel_paused_by_peer_expires() {
    let timeouts = Timeouts {
        linger: Duration::from_secs(30),
        ..Timeouts::default()
    };
    let mut pair = Pair::with(
        ProtocolVersion::V2,
        Cipher::AesCbc,
        small_limits(),
        timeouts,
        None,
        1,
    );
    let (server, client) = pair.channel();
    while let Write::Accepted(_) = pair.sides[SERVER].mux.write(server, &[0; 50_000]) {
        pair.settle();
    }
    pair.sides[SERVER].mux.release(server, pair.now);
    pair.settle();
    assert_eq!(pair.sides[SERVER].mux.open_channels(), 1, "data waits");
    let id = pair.sides[SERVER].mux.id(server).unwrap();
    pair.advance(Duration::from_secs(31));
    // The peer cannot extend it.
    let (mux, now) = (&mut pair.sides[SERVER].mux, pair.now);
    mux.handle(Incoming::Pause { id }, now).unwrap();
    pair.settle();
    assert_eq!(pair.sides[SERVER].mux.open_channels(), 0);
    assert_eq!(pair.drain(CLIENT, client).1, Read::End);
}

#[test]
fn channels_beyond_limits_are_refused() {
    let limits = Limits {
        max_unaccepted: 2,
        ..Limits::default()
    };
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, limits, 1);
    let keys = [pair.open(), pair.open(), pair.open()];
    pair.settle();
    assert_eq!(pair.drain(SERVER, keys[2]).1, Read::End, "refused");
    assert_eq!(pair.drain(SERVER, keys[0]).1, Read::Blocked);
    pair.accept();
    pair.accept();
    assert_eq!(pair.sides[CLIENT].mux.accept(), None);

    let limits = Limits {
        max_channels: 1,
        ..Limits::default()
    };
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, limits, 1);
    pair.open();
    let id = pair.id();
    let refused = pair.sides[SERVER].mux.open(id, None);
    assert_eq!(refused.unwrap_err(), OpenError::TooManyChannels);
}

#[test]
fn client_limits_unaccepted_channels() {
    let limits = Limits {
        max_unaccepted: 0,
        ..Limits::default()
    };
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, limits, 1);
    for _ in 0..300 {
        pair.open();
    }
    while pair.sides[SERVER].mux.has_output() {
        pair.write(SERVER, usize::MAX);
    }
    // The device reads all of it but cannot write.
    pair.read(CLIENT, usize::MAX);
    assert_eq!(pair.sides[CLIENT].ended, Some(CloseReason::Flooded));
}

/// The number of pending CLOSE frames is bounded, for any way in which a peer causes them.
#[test]
fn peer_not_reading_refusals_is_ended() {
    let limits = || Limits {
        receive_per_channel: 1000,
        ..Limits::default()
    };
    for overrun in [false, true] {
        let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, limits(), 1);
        let (mux, now) = (&mut pair.sides[CLIENT].mux, pair.now);
        let id = ChannelId([1; 16]);
        let mut rounds = 0;
        let reason = loop {
            rounds += 1;
            assert!(rounds < 1000, "still not ended");
            let handled = mux.handle(Incoming::New { id, caller: None }, now);
            assert_eq!(handled, Ok(()));
            let key = mux.accept().unwrap();
            let again = if overrun {
                let data = BytesMut::zeroed(1001);
                Incoming::Data { id, data }
            } else {
                Incoming::New { id, caller: None }
            };
            if let Err(reason) = mux.handle(again, now) {
                break reason;
            }
            mux.release(key, now);
        };
        assert_eq!(reason, CloseReason::Flooded);
        assert!(mux.control_frames_waiting() <= rounds);
    }
}

/// Senders that obey PAUSE lose nothing, for any number of channels that fill up one after the
/// other.
#[test]
fn paused_channels_stay_within_total() {
    let limits = Limits {
        receive_total: 24 << 20,
        send_per_channel: 64 << 10,
        ..Limits::default()
    };
    let mut pair = Pair::new(ProtocolVersion::V1, Cipher::AesCbc, limits, 1);
    let block = vec![1; 16 << 10];
    let mut ends = Vec::new();
    for _ in 0..64 {
        let key = pair.open();
        pair.settle();
        ends.push(pair.accept());
        while pair.sides[SERVER].mux.write(key, &block) != Write::Blocked {
            pair.settle();
            assert!(pair.sides[SERVER].mux.id(key).is_some());
        }
    }
    for end in ends {
        assert_eq!(pair.drain(CLIENT, end).1, Read::Blocked);
    }
}

/// Channels of a peer that does not read do not accumulate in the schedule.
#[test]
fn removed_channels_leave_the_schedule() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    let (mux, now) = (&mut pair.sides[CLIENT].mux, pair.now);
    let id = ChannelId([1; 16]);
    for _ in 0..1000 {
        mux.handle(Incoming::New { id, caller: None }, now).unwrap();
        let key = mux.accept().unwrap();
        assert_eq!(mux.write(key, b"x"), Write::Accepted(1));
        assert!(mux.has_output());
        mux.handle(Incoming::Close { id }, now).unwrap();
        mux.release(key, now);
        assert!(!mux.has_output());
    }
}

/// Version 0, with any sender: a channel is closed at its limit, the others and the connection
/// stay, repeatedly.
#[test]
fn version_0_bounds_each_channel_separately() {
    let limits = limits_for(20_000);
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, limits.clone(), 1);
    let (quick, quick_end) = pair.channel();
    for round in 1..=50 {
        let (slow, slow_end) = pair.channel();
        while let Write::Accepted(_) = pair.sides[SERVER].mux.write(slow, &[1; 9000]) {
            pair.settle();
            let held = pair.sides[CLIENT].mux.bytes_received_unread();
            assert!(held <= limits.receive_per_channel);
        }
        let ended = pair.drain(CLIENT, slow_end).1;
        assert_eq!(ended, Read::Failed(ChannelError::Overrun));
        let now = pair.now;
        pair.sides[CLIENT].mux.release(slow_end, now);
        pair.sides[SERVER].mux.release(slow, now);
        pair.sides[SERVER].mux.write(quick, b"fine");
        pair.settle();
        assert_eq!(pair.drain(CLIENT, quick_end).0, b"fine");
        let client = &pair.sides[CLIENT].mux;
        assert_eq!(
            (client.open_channels(), client.bytes_received_unread()),
            (1, 0)
        );
        assert_eq!(client.stats().channels_overrun, round);
    }
}
