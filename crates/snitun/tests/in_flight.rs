//! What may be under way before the peer has read it: bulk waits for that, and nothing else does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/pair.rs"]
mod pair;

use std::time::Duration;

use pair::{CLIENT, Pair, SERVER};
use snitun::{ChannelKey, Cipher, Limits, ProtocolVersion, Timeouts, Write};

/// What a window is at least.
const LEAST: usize = 512 * 1024;
/// What of it may be read already without our knowing.
const UNKNOWN: usize = 128 * 1024;
/// What may go beyond it.
const FRAME: usize = 64 * 1024;

/// Writes and sends as much as the window allows; yields how much that is on the wire.
fn fill(pair: &mut Pair, key: ChannelKey) -> usize {
    let before = pair.sides[CLIENT].wire.len();
    loop {
        while matches!(
            pair.sides[SERVER].mux.write(key, &[7; FRAME]),
            Write::Taken(_)
        ) {}
        if !pair.sides[SERVER].mux.has_output() {
            return pair.sides[CLIENT].wire.len() - before;
        }
        pair.write(SERVER, usize::MAX);
        assert!(pair.sides[CLIENT].wire.len() < 100 * LEAST, "no end");
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

/// Two channels, of which the second one has just so much under way that bulk has to wait.
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
    // Before anything was answered there is no window; here a megabyte makes one.
    assert_eq!(
        pair.sides[SERVER].mux.write(server[1], &[7; FRAME]),
        Write::Taken(FRAME)
    );
    for _ in 0..16 {
        let _ = pair.sides[SERVER].mux.write(server[1], &[7; FRAME]);
        pair.write(SERVER, usize::MAX);
        answer(&mut pair, client[1]);
    }
    let sent = fill(&mut pair, server[1]);
    assert!(
        (LEAST - UNKNOWN..LEAST + 2 * FRAME).contains(&sent),
        "{sent}"
    );
    (pair, server, client)
}

#[test]
fn bulk_waits_until_the_peer_has_read_and_small_frames_do_not() {
    let (mut pair, server, client) = full();
    let mux = &mut pair.sides[SERVER].mux;
    // Another channel's bulk waits as well, and nothing has to be done meanwhile.
    assert_eq!(mux.write(server[0], &[1; 8192]), Write::Taken(8192));
    assert!(mux.has_output());
    assert_eq!(fill(&mut pair, server[1]), 0);
    // A small answer goes out at once.
    let third = pair.open();
    pair.write(SERVER, usize::MAX);
    let before = pair.sides[CLIENT].wire.len();
    let mux = &mut pair.sides[SERVER].mux;
    assert_eq!(mux.write(third, &[2; 100]), Write::Taken(100));
    assert!(mux.has_output());
    pair.write(SERVER, usize::MAX);
    assert_eq!(pair.sides[CLIENT].wire.len() - before, 32 + 28 + 100);

    // Once the peer has read, all goes on, those who waited first.
    answer(&mut pair, client[1]);
    assert!(pair.sides[SERVER].mux.has_output());
    assert!(fill(&mut pair, server[1]) >= LEAST - UNKNOWN);
    answer(&mut pair, client[1]);
    assert_eq!(pair.drain(CLIENT, client[0]).0, [1; 8192]);
}

#[test]
fn at_the_end_nothing_waits_for_the_peer_to_read() {
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
fn a_peer_that_no_longer_answers_is_waited_for_a_while() {
    let (mut pair, server, _client) = full();
    let due = pair.sides[SERVER].mux.poll_timeout().unwrap();
    assert!(due - pair.now <= Duration::from_secs(5));
    pair.advance(Duration::from_secs(4));
    assert_eq!(fill(&mut pair, server[1]), 0);
    pair.advance(Duration::from_secs(1));
    // There is no window any more; only the connection bounds what goes out.
    assert!(pair.sides[SERVER].mux.has_output());
    pair.write(SERVER, usize::MAX);
    assert!(pair.sides[CLIENT].wire.len() > LEAST);
}

#[test]
fn bulk_that_is_written_in_small_pieces_is_bulk() {
    let (mut pair, server, client) = full();
    answer(&mut pair, client[1]);
    let before = pair.sides[CLIENT].wire.len();
    loop {
        while matches!(
            pair.sides[SERVER].mux.write(server[0], &[7; 1000]),
            Write::Taken(_)
        ) {}
        if !pair.sides[SERVER].mux.has_output() {
            break;
        }
        pair.write(SERVER, usize::MAX);
        let sent = pair.sides[CLIENT].wire.len() - before;
        assert!(sent < 4 * LEAST, "no end");
    }
}

#[test]
fn a_channel_that_is_given_up_does_not_wait_for_the_window() {
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
