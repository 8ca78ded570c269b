//! What version 0 leaves a receiver to slow down a sender: pauses in reading from the connection.

use std::time::Duration;

use snitun::{ChannelError, ChannelKey, Cipher, Limits, ProtocolVersion, Read, Write};

use crate::support::pair::{CLIENT, Pair, SERVER};

const STEP: Duration = Duration::from_millis(1);
/// What the buffers of two sockets hold.
const WIRE: usize = 1024 * 1024;
const LIMIT: usize = 4 * 1024 * 1024;

fn pair(version: ProtocolVersion) -> Pair {
    let limits = Limits {
        receive_per_channel: LIMIT,
        ..Limits::default()
    };
    Pair::new(version, Cipher::AesCbc, limits, 1)
}

/// A channel on which the server sends all that it can, and its end at the client.
fn open(pair: &mut Pair) -> (ChannelKey, ChannelKey) {
    let server = pair.open();
    pair.settle();
    (server, pair.accept())
}

/// The server writes and the client reads what they can in one step, as drivers do; returns whether
/// reading was paused.
fn step(pair: &mut Pair) -> bool {
    while pair.sides[CLIENT].wire.len() < WIRE && pair.sides[SERVER].mux.has_output() {
        pair.write(SERVER, usize::MAX);
    }
    pair.write(CLIENT, usize::MAX);
    pair.read(SERVER, usize::MAX);
    let paused = loop {
        let now = pair.now;
        if pair.sides[CLIENT].mux.is_reading_paused(now) {
            break true;
        }
        if pair.sides[CLIENT].wire.is_empty() {
            break false;
        }
        pair.read(CLIENT, 64 * 1024);
    };
    pair.advance(STEP);
    paused
}

/// Fills a channel's send queue.
fn fill(pair: &mut Pair, key: ChannelKey) {
    let block = [1; 64 * 1024];
    while matches!(
        pair.sides[SERVER].mux.write(key, &block),
        Write::Accepted(_)
    ) {}
}

#[test]
fn slow_reader_loses_nothing_and_others_are_served() {
    const RATE: usize = 2000; // bytes in each step
    const BURST: usize = 200; // steps
    const STEPS: usize = 30_000;
    let mut pair = pair(ProtocolVersion::V0);
    let (bulk, bulk_end) = open(&mut pair);
    let (quick, quick_end) = open(&mut pair);
    let (mut allowed, mut read, mut paused) = (0, 0, 0);
    let (mut asked, mut answered, mut longest) = (0, 0, 0);
    for now in 0..STEPS {
        fill(&mut pair, bulk);
        if answered == asked {
            asked = now;
            assert_eq!(
                pair.sides[SERVER].mux.write(quick, b"?"),
                Write::Accepted(1)
            );
            answered = usize::MAX;
        }
        paused += usize::from(step(&mut pair));
        if let Read::Data(_) = pair.sides[CLIENT].mux.read(quick_end) {
            longest = longest.max(now - asked);
            answered = asked;
        }
        if now % BURST == 0 {
            allowed += RATE * BURST;
        }
        while read < allowed {
            match pair.sides[CLIENT].mux.read(bulk_end) {
                Read::Data(data) => read += data.len(),
                other => {
                    assert_eq!(other, Read::Blocked);
                    break;
                }
            }
        }
    }
    assert!(read >= RATE * STEPS, "{read} bytes");
    assert!(paused > STEPS / 2, "paused {paused} times");
    // What is under way (in two sockets and a batch), at the reader's rate.
    assert!(longest < 2 * WIRE / RATE, "{longest} steps");
    assert_eq!(pair.sides[CLIENT].mux.stats().channels_overrun, 0);
}

#[test]
fn unread_channels_take_half_of_the_time_at_most() {
    const STEPS: usize = 60_000;
    let mut pair = pair(ProtocolVersion::V0);
    // Another one, which is why pauses have a price.
    open(&mut pair);
    let mut bulk = open(&mut pair);
    let (mut paused, mut overruns) = (0, 0);
    for _ in 0..STEPS {
        fill(&mut pair, bulk.0);
        paused += usize::from(step(&mut pair));
        let stats = pair.sides[CLIENT].mux.stats();
        if stats.channels_overrun > overruns {
            overruns = stats.channels_overrun;
            let now = pair.now;
            pair.sides[CLIENT].mux.release(bulk.1, now);
            pair.sides[SERVER].mux.release(bulk.0, now);
            bulk = open(&mut pair);
        }
    }
    assert!(overruns > 3, "{overruns} channels closed");
    // 10 s, and half of the time.
    assert!(paused <= 10_000 + STEPS / 2 + 100, "{paused} of {STEPS}");
    assert!(paused > STEPS / 3, "{paused} of {STEPS}");
}

#[test]
fn lone_unread_channel_arrives_slowly_up_to_its_limit() {
    let mut pair = pair(ProtocolVersion::V0);
    let (bulk, bulk_end) = open(&mut pair);
    let mut steps = 0;
    while pair.sides[CLIENT].mux.stats().channels_overrun == 0 {
        fill(&mut pair, bulk);
        step(&mut pair);
        steps += 1;
    }
    // 3 MiB, up to two frames for each pause of 52 ms on average.
    assert!((1000..4000).contains(&steps), "{steps} steps");
    let (read, ended) = pair.drain(CLIENT, bulk_end);
    assert!(read.len() > LIMIT - 64 * 1024, "{} bytes", read.len());
    assert_eq!(ended, Read::Failed(ChannelError::Overrun));
    // Nothing is ahead any more.
    assert!(!step(&mut pair));
}

#[test]
fn pause_ends_when_the_channel_is_read_or_dropped() {
    for dropped in [false, true] {
        let mut pair = pair(ProtocolVersion::V0);
        let (bulk, bulk_end) = open(&mut pair);
        let paused = (0..100).any(|_| {
            fill(&mut pair, bulk);
            step(&mut pair)
        });
        assert!(paused);
        assert!(!pair.sides[CLIENT].mux.may_resume_reading());
        let (mux, now) = (&mut pair.sides[CLIENT].mux, pair.now);
        if dropped {
            mux.release(bulk_end, now);
        } else {
            while mux.bytes_received_unread() > LIMIT / 4 {
                mux.read(bulk_end);
            }
        }
        assert!(mux.may_resume_reading());
        assert!(!mux.is_reading_paused(now));
    }
}

#[test]
fn reading_is_never_paused_where_pause_exists() {
    let mut pair = pair(ProtocolVersion::V1);
    let (bulk, _) = open(&mut pair);
    for _ in 0..1000 {
        fill(&mut pair, bulk);
        assert!(!step(&mut pair));
    }
    let stats = pair.sides[CLIENT].mux.stats();
    assert_eq!((stats.pauses_sent, stats.read_pauses), (1, 0));
}
