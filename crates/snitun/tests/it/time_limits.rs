//! Timeouts of a connection: pings, idle, a peer that does not read, draining.

use std::time::Duration;

use snitun::{Cipher, CloseReason, Event, Incoming, Limits, ProtocolVersion, Timeouts};

use crate::support::pair::{CLIENT, Pair, SERVER, small_limits};

#[test]
fn unbounded_timeouts_are_clamped_to_a_year() {
    let endless = Duration::MAX;
    let timeouts = Timeouts {
        handshake: endless,
        ping_interval: endless,
        ping_answer: endless,
        idle: endless,
        linger: endless,
        drain: endless,
    };
    let mut pair = Pair::with(
        ProtocolVersion::V1,
        Cipher::AesCbc,
        Limits::default(),
        timeouts,
        None,
        1,
    );
    let key = pair.open();
    pair.settle();
    let now = pair.now;
    pair.sides[SERVER].mux.close(key, now);
    pair.sides[SERVER].mux.drain(now);
    pair.settle();
    assert!(pair.sides[SERVER].mux.is_drained());
    let due = pair.sides[CLIENT].mux.poll_timeout().unwrap();
    assert_eq!(due - pair.now, Duration::from_secs(365 * 24 * 3600));
}

#[test]
fn pings_are_sent_answered_and_timed_out() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    for _ in 0..10 {
        pair.advance(Duration::from_secs(50));
        pair.settle();
    }
    let events = &pair.sides[CLIENT].events;
    let pongs = |event: &&Event| matches!(event, Event::Pong { .. });
    assert_eq!(events.iter().filter(pongs).count(), 10);
    assert!(
        pair.sides[SERVER].events.is_empty(),
        "a server does not ping"
    );

    // Nothing arrives any more; the ping sent at 50 s times out at 140 s.
    pair.advance(Duration::from_secs(50));
    pair.write(CLIENT, usize::MAX);
    for _ in 0..8 {
        pair.advance(Duration::from_secs(10));
        pair.write(CLIENT, usize::MAX);
        assert_eq!(pair.sides[CLIENT].ended, None);
    }
    pair.advance(Duration::from_secs(10));
    assert_eq!(pair.sides[CLIENT].ended, Some(CloseReason::PingTimeout));
    // The other end has received nothing for longer than its idle timeout.
    pair.advance(Duration::from_secs(10));
    assert_eq!(pair.sides[SERVER].ended, Some(CloseReason::Idle));
}

#[test]
fn received_bytes_extend_the_ping_timeout() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    let key = pair.open();
    pair.settle();
    pair.advance(Duration::from_secs(50));
    // The ping is in flight, and the server sends much data before it answers.
    pair.write(CLIENT, usize::MAX);
    for _ in 0..12 {
        pair.advance(Duration::from_secs(10));
        pair.sides[SERVER].mux.write(key, &[1; 1000]);
        pair.write(SERVER, usize::MAX);
        pair.read(CLIENT, usize::MAX);
        assert_eq!(pair.sides[CLIENT].ended, None);
    }
    for _ in 0..6 {
        pair.advance(Duration::from_secs(10));
    }
    assert_eq!(pair.sides[CLIENT].ended, Some(CloseReason::PingTimeout));
}

/// A garbled stream may continue as long as there are callers.
#[test]
fn received_bytes_extend_the_ping_timeout_at_most_5_minutes() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    pair.settle();
    let start = pair.now;
    while pair.sides[CLIENT].ended.is_none() {
        pair.advance(Duration::from_secs(10));
        pair.write(CLIENT, usize::MAX);
        pair.sides[CLIENT].mux.handle_received(pair.now);
        assert!(pair.now - start <= Duration::from_secs(360));
    }
    assert_eq!(pair.sides[CLIENT].ended, Some(CloseReason::PingTimeout));
    // The first ping, after 50 s.
    assert_eq!(pair.now - start, Duration::from_secs(350));
}

/// A slow line accepts bytes occasionally; the ping is behind them.
#[test]
fn sent_bytes_extend_the_ping_timeout() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    pair.settle();
    pair.advance(Duration::from_secs(50));
    pair.write(CLIENT, usize::MAX);
    for _ in 0..20 {
        pair.advance(Duration::from_secs(10));
        let mux = &mut pair.sides[CLIENT].mux;
        mux.handle_write_blocked(pair.now);
        mux.handle_sent(pair.now);
        assert_eq!(pair.sides[CLIENT].ended, None);
    }
    // A line that was never full shows nothing about its peer.
    let full = pair.now;
    while pair.sides[CLIENT].ended.is_none() {
        pair.advance(Duration::from_secs(10));
        pair.sides[CLIENT].mux.handle_sent(pair.now);
    }
    assert_eq!(pair.sides[CLIENT].ended, Some(CloseReason::PingTimeout));
    assert_eq!(pair.now - full, Duration::from_secs(90));
}

#[test]
fn later_pong_answers_earlier_pings() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    let ids = [pair.id(), pair.id(), pair.id()];
    let mux = &mut pair.sides[CLIENT].mux;
    let mut now = pair.now;
    for id in ids {
        assert!(mux.ping(id, now));
        now += Duration::from_secs(1);
    }
    mux.handle(
        Incoming::Pong {
            id: ids[1],
            has_backpressure: false,
        },
        now,
    )
    .unwrap();
    for (id, seconds) in [(ids[0], 3), (ids[1], 2)] {
        let elapsed = Duration::from_secs(seconds);
        assert_eq!(mux.poll_event(), Some(Event::Pong { id, elapsed }));
    }
    assert_eq!(mux.poll_event(), None, "the third one is still out");
    // An unsolicited answer matches no ping.
    mux.handle(
        Incoming::Pong {
            id: ids[0],
            has_backpressure: false,
        },
        now,
    )
    .unwrap();
    assert_eq!(mux.poll_event(), None);
}

#[test]
fn peer_that_never_reads_times_out() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    pair.sides[SERVER].mux.handle_write_blocked(pair.now);
    for _ in 0..11 {
        pair.advance(Duration::from_secs(10));
        pair.sides[SERVER].mux.handle_received(pair.now);
        assert_eq!(pair.sides[SERVER].ended, None);
    }
    pair.advance(Duration::from_secs(10));
    assert_eq!(pair.sides[SERVER].ended, Some(CloseReason::WriteStalled));
}

#[test]
fn server_times_out_a_silent_peer() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, small_limits(), 1);
    pair.settle();
    for second in 1..120 {
        pair.now += Duration::from_secs(1);
        if second % 10 == 0 {
            pair.open();
        }
        // The system accepts it; the peer never gets it.
        pair.write(SERVER, usize::MAX);
        let server = &mut pair.sides[SERVER];
        assert!(server.mux.poll_timeout().is_some_and(|due| due > pair.now));
    }
    pair.now += Duration::from_secs(1);
    let server = &mut pair.sides[SERVER].mux;
    assert_eq!(server.handle_timeout(pair.now), Err(CloseReason::Idle));
}

#[test]
fn drain_times_out() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    let key = pair.open();
    let mux = &mut pair.sides[SERVER].mux;
    mux.write(key, b"last data");
    mux.drain(pair.now);
    pair.advance(Duration::from_millis(1999));
    assert_eq!(pair.sides[SERVER].ended, None);
    assert!(!pair.sides[SERVER].mux.is_drained());
    pair.advance(Duration::from_millis(1));
    assert_eq!(pair.sides[SERVER].ended, Some(CloseReason::Local));
}
