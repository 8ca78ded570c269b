//! The in-flight limit: bulk waits until the peer has read, other frames do not.

use std::time::Duration;

use snitun::{ChannelKey, Cipher, Limits, ProtocolVersion, Timeouts, Write};

use crate::support::pair::{CLIENT, Pair, SERVER};

/// The window that these tests get: three times what the path holds in 20 ms, about.
const WINDOW: usize = 320 * 1024;
/// Bytes that may be read without our knowledge.
const UNKNOWN: usize = 128 * 1024;
/// Bytes that may exceed the window.
const FRAME: usize = 64 * 1024;

/// Writes and sends as much as the window permits; returns the bytes on the wire.
fn fill(pair: &mut Pair, key: ChannelKey) -> usize {
    let before = pair.sides[CLIENT].wire.len();
    loop {
        while matches!(
            pair.sides[SERVER].mux.write(key, &[7; FRAME]),
            Write::Accepted(_)
        ) {}
        if !pair.sides[SERVER].mux.has_output() {
            return pair.sides[CLIENT].wire.len() - before;
        }
        pair.write(SERVER, usize::MAX);
        assert!(pair.sides[CLIENT].wire.len() < 100 * WINDOW, "no end");
    }
}

/// The client reads everything, and its answers arrive 20 ms later.
fn answer(pair: &mut Pair, key: ChannelKey) -> usize {
    pair.read(CLIENT, usize::MAX);
    let read = pair.drain(CLIENT, key).0.len();
    pair.advance(Duration::from_millis(20));
    pair.write(CLIENT, usize::MAX);
    pair.read(SERVER, usize::MAX);
    read
}

/// Two channels; the second has so much in flight that bulk must wait.
fn full() -> (Pair, [ChannelKey; 2], [ChannelKey; 2]) {
    full_with(Timeouts::default())
}

fn full_with(timeouts: Timeouts) -> (Pair, [ChannelKey; 2], [ChannelKey; 2]) {
    let limits = Limits {
        pause_above: usize::MAX,
        ..Limits::default()
    };
    let (version, cipher) = (ProtocolVersion::V2, Cipher::AesGcm);
    let mut pair = Pair::with(version, cipher, limits, timeouts, None, 1);
    let server = [pair.open(), pair.open()];
    pair.settle();
    let client = [pair.accept(), pair.accept()];
    // Before the first answer there is no window; a megabyte creates one here.
    assert_eq!(
        pair.sides[SERVER].mux.write(server[1], &[7; FRAME]),
        Write::Accepted(FRAME)
    );
    for _ in 0..16 {
        let _ = pair.sides[SERVER].mux.write(server[1], &[7; FRAME]);
        pair.write(SERVER, usize::MAX);
        answer(&mut pair, client[1]);
    }
    let sent = fill(&mut pair, server[1]);
    assert!(
        (WINDOW - UNKNOWN..WINDOW + 2 * FRAME).contains(&sent),
        "{sent}"
    );
    (pair, server, client)
}

#[test]
fn bulk_waits_for_the_peer_small_frames_do_not() {
    let (mut pair, server, client) = full();
    let mux = &mut pair.sides[SERVER].mux;
    // Another channel's bulk waits as well, and no timer is due meanwhile.
    assert_eq!(mux.write(server[0], &[1; 8192]), Write::Accepted(8192));
    assert!(mux.has_output());
    assert_eq!(fill(&mut pair, server[1]), 0);
    // A small frame is sent at once.
    let third = pair.open();
    pair.write(SERVER, usize::MAX);
    let before = pair.sides[CLIENT].wire.len();
    let mux = &mut pair.sides[SERVER].mux;
    assert_eq!(mux.write(third, &[2; 100]), Write::Accepted(100));
    assert!(mux.has_output());
    pair.write(SERVER, usize::MAX);
    assert_eq!(pair.sides[CLIENT].wire.len() - before, 32 + 28 + 100);

    // After the peer has read, all bulk continues, the deferred channels first.
    answer(&mut pair, client[1]);
    assert!(pair.sides[SERVER].mux.has_output());
    assert!(fill(&mut pair, server[1]) >= WINDOW - UNKNOWN);
    answer(&mut pair, client[1]);
    assert_eq!(pair.drain(CLIENT, client[0]).0, [1; 8192]);
}

#[test]
fn drain_ignores_the_in_flight_limit() {
    let (mut pair, _server, client) = full();
    let unsent = pair.sides[SERVER].mux.bytes_unsent();
    assert!(unsent >= FRAME);
    pair.read(CLIENT, usize::MAX);
    let before = pair.drain(CLIENT, client[1]).0.len();
    let now = pair.now;
    pair.sides[SERVER].mux.drain(now);
    assert!(pair.sides[SERVER].mux.has_output());
    while pair.sides[SERVER].mux.has_output() {
        pair.write(SERVER, usize::MAX);
    }
    assert_eq!(pair.sides[SERVER].mux.bytes_unsent(), 0);
    pair.read(CLIENT, usize::MAX);
    assert_eq!(pair.drain(CLIENT, client[1]).0.len(), unsent);
    assert!(before > 0);
}

#[test]
fn unanswered_probes_lift_the_limit() {
    let (mut pair, server, _client) = full();
    let due = pair.sides[SERVER].mux.poll_timeout().unwrap();
    assert!(due - pair.now <= Duration::from_secs(5));
    pair.advance(Duration::from_secs(4));
    assert_eq!(fill(&mut pair, server[1]), 0);
    pair.advance(Duration::from_secs(1));
    // The limit is lifted; only the connection bounds the data.
    assert!(pair.sides[SERVER].mux.has_output());
    let before = pair.sides[CLIENT].wire.len();
    pair.write(SERVER, usize::MAX);
    assert!(pair.sides[CLIENT].wire.len() > before);
}

#[test]
fn small_writes_of_bulk_count_as_bulk() {
    let (mut pair, server, client) = full();
    answer(&mut pair, client[1]);
    let before = pair.sides[CLIENT].wire.len();
    loop {
        while matches!(
            pair.sides[SERVER].mux.write(server[0], &[7; 1000]),
            Write::Accepted(_)
        ) {}
        if !pair.sides[SERVER].mux.has_output() {
            break;
        }
        pair.write(SERVER, usize::MAX);
        let sent = pair.sides[CLIENT].wire.len() - before;
        assert!(sent < 4 * WINDOW, "no end");
    }
}

#[test]
fn expired_channel_ignores_the_in_flight_limit() {
    let linger = Duration::from_secs(1);
    let (mut pair, server, _client) = full_with(Timeouts {
        linger,
        ..Timeouts::default()
    });
    let mux = &mut pair.sides[SERVER].mux;
    let _ = mux.write(server[0], &[1; FRAME]);
    mux.close(server[0], pair.now);
    pair.write(SERVER, usize::MAX);
    assert_eq!(pair.sides[SERVER].mux.open_channels(), 2);
    pair.advance(linger);
    pair.write(SERVER, usize::MAX);
    assert_eq!(pair.sides[SERVER].mux.open_channels(), 1);
}
