//! What bounds in version 0 how far bulk is ahead of its reader, with a peer that takes everything.

use std::time::Duration;

use snitun::{
    ChannelId, ChannelKey, Cipher, Encoder, Incoming, Limits, Mux, MuxConfig, ProtocolVersion,
    Role, Timeouts, Timestamp, Write, WriteBatch,
};

use crate::support::pair::{CLIENT, Pair, SERVER, entropy, sessions};

const MIB: u64 = 1024 * 1024;
/// What may be ahead of the assumed reader, and its rate in a second.
const AHEAD: u64 = 192 * MIB;
const RATE: u64 = 16 * MIB;
/// What is sent at once after a wait, a frame included.
const BURST: u64 = MIB / 2;

/// A sender whose connection takes everything.
struct Sender {
    mux: Mux,
    encoder: Encoder,
    now: Timestamp,
}

impl Sender {
    fn new(version: ProtocolVersion) -> Self {
        let now = Timestamp::START;
        let config = MuxConfig {
            role: Role::Server,
            version,
            throttling: None,
            limits: Limits::default(),
            timeouts: Timeouts::default(),
        };
        let (_, session) = sessions(Cipher::AesCbc);
        Self {
            mux: Mux::new(config, now),
            encoder: Encoder::new(session.sealer, version, entropy(1)),
            now,
        }
    }

    fn open(&mut self, id: u8) -> ChannelKey {
        self.mux.open(ChannelId([id; 16]), None).unwrap()
    }

    /// Sends on a channel all that may be sent now, up to 1 GiB; returns the number of bytes.
    fn send(&mut self, key: ChannelKey) -> u64 {
        let before = self.mux.stats().bytes_sent;
        let block = [1; 64 * 1024];
        let mut batch = WriteBatch::new();
        loop {
            while matches!(self.mux.write(key, &block), Write::Accepted(_)) {}
            self.mux
                .poll_transmit(&mut self.encoder, &mut batch, self.now)
                .unwrap();
            let sent = self.mux.stats().bytes_sent - before;
            if batch.is_empty() || sent >= 1024 * MIB {
                return sent;
            }
            batch.advance(batch.len());
        }
    }

    /// Lets time pass, with the timers that become due.
    fn advance(&mut self, time: Duration, mut each: impl FnMut(&mut Self)) {
        let end = self.now + time;
        while let Some(due) = self.mux.poll_timeout().filter(|due| *due <= end) {
            self.now = due;
            // Keeps the connection from being idle.
            self.mux.handle_received(due);
            self.mux.handle_timeout(due).unwrap();
            each(self);
        }
        self.now = end;
    }
}

#[test]
fn bulk_is_paced_others_are_not() {
    let mut sender = Sender::new(ProtocolVersion::V0);
    let (bulk, other) = (sender.open(1), sender.open(2));
    let mut sent = sender.send(bulk);
    assert!((AHEAD..AHEAD + BURST).contains(&sent), "{sent}");
    assert!(sender.mux.take_paced());
    for second in 1..=20 {
        sender.advance(Duration::from_secs(1), |sender| sent += sender.send(bulk));
        let expected = AHEAD + second * RATE;
        assert!(sent.abs_diff(expected) < BURST, "{second} s: {sent}");
        // Another channel has what it may be ahead for itself.
        assert_eq!(sender.mux.write(other, b"?"), Write::Accepted(1));
        assert_eq!(sender.send(bulk), 1);
    }
    // A reader of that rate has caught up.
    sender.advance(Duration::from_secs(15), |_| {});
    let sent = sender.send(bulk);
    assert!((AHEAD..AHEAD + BURST).contains(&sent), "{sent}");
}

#[test]
fn peer_with_backpressure_is_not_paced() {
    let mut sender = Sender::new(ProtocolVersion::V0);
    let bulk = sender.open(1);
    assert!(sender.send(bulk) < AHEAD + BURST);
    let pong = Incoming::Pong {
        id: ChannelId([9; 16]),
        has_backpressure: true,
    };
    sender.mux.handle(pong, sender.now).unwrap();
    let mut sent = 0;
    sender.advance(Duration::from_millis(20), |sender| {
        sent += sender.send(bulk)
    });
    assert!(sent >= 1024 * MIB, "{sent}");
}

#[test]
fn only_version_0_is_paced() {
    for version in [ProtocolVersion::V1, ProtocolVersion::V2] {
        let mut sender = Sender::new(version);
        let bulk = sender.open(1);
        assert!(sender.send(bulk) >= 1024 * MIB);
    }
}

/// Both ends of ours say in their answers that they slow down a sender.
#[test]
fn own_peers_are_not_paced() {
    let mut pair = Pair::new(ProtocolVersion::V0, Cipher::AesCbc, Limits::default(), 1);
    let (server, client) = pair.channel();
    let block = [1; 64 * 1024];
    let mut read = 0;
    while read < AHEAD + 64 * MIB {
        for (side, key) in [(SERVER, server), (CLIENT, client)] {
            while matches!(pair.sides[side].mux.write(key, &block), Write::Accepted(_)) {}
        }
        pair.settle();
        read += pair.drain(CLIENT, client).0.len() as u64;
        pair.drain(SERVER, server);
        pair.advance(Duration::from_millis(1));
    }
    for side in [CLIENT, SERVER] {
        assert_eq!(pair.sides[side].mux.stats().paced, 0);
    }
}
