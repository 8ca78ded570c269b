//! Two multiplexers with their codecs, connected by byte pipes on virtual time.

#![allow(dead_code, reason = "each user takes some of it")]

use std::io::IoSlice;
use std::time::Duration;

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use snitun::{
    ChannelId, ChannelKey, Cipher, ClientHandshake, CloseReason, Decoder, Encoder, Event, Limits,
    Mux, MuxConfig, ProtocolVersion, Read, Role, ServerHandshake, Session, SessionKey, Timeouts,
    Timestamp, WriteBatch,
};

pub(crate) const CLIENT: usize = 0;
pub(crate) const SERVER: usize = 1;

/// One end, its codec, and the bytes in flight to it.
pub(crate) struct Side {
    pub(crate) mux: Mux,
    pub(crate) encoder: Encoder,
    pub(crate) decoder: Decoder,
    pub(crate) batch: WriteBatch,
    /// Bytes in flight to this end.
    pub(crate) wire: BytesMut,
    pub(crate) input: BytesMut,
    pub(crate) events: Vec<Event>,
    pub(crate) ended: Option<CloseReason>,
}

pub(crate) struct Pair {
    pub(crate) sides: [Side; 2],
    pub(crate) now: Timestamp,
    pub(crate) random: StdRng,
}

pub(crate) fn entropy(seed: u64) -> Box<dyn snitun::Entropy> {
    let mut random = StdRng::seed_from_u64(seed);
    Box::new(move |dest: &mut [u8]| random.fill_bytes(dest))
}

/// Returns the sessions of a successful handshake, client and server.
pub(crate) fn sessions(cipher: Cipher) -> (Session, Session) {
    let key = || SessionKey::new([3; 32], [4; 16]).with_cipher(cipher);
    let (mut challenge, mut answer) = (Vec::new(), Vec::new());
    let mut random = |dest: &mut [u8]| dest.fill(1);
    let server = ServerHandshake::new(key(), &mut random, &mut challenge).unwrap();
    let client = ClientHandshake::new(key())
        .answer(&mut challenge, &mut random, &mut answer)
        .unwrap();
    (client, server.verify(&mut answer).unwrap())
}

impl Pair {
    pub(crate) fn new(version: ProtocolVersion, cipher: Cipher, limits: Limits, seed: u64) -> Self {
        Self::with(version, cipher, limits, Timeouts::default(), None, seed)
    }

    pub(crate) fn with(
        version: ProtocolVersion,
        cipher: Cipher,
        limits: Limits,
        timeouts: Timeouts,
        throttling: Option<u32>,
        seed: u64,
    ) -> Self {
        let (client, server) = sessions(cipher);
        let now = Timestamp::START;
        let side = |role, session: Session| Side {
            mux: Mux::new(
                MuxConfig {
                    role,
                    version,
                    throttling: throttling.and_then(|rate| rate.try_into().ok()),
                    limits: limits.clone(),
                    timeouts: timeouts.clone(),
                },
                now,
            ),
            encoder: Encoder::new(session.sealer, version, entropy(seed)),
            decoder: Decoder::new(session.opener, version),
            batch: WriteBatch::new(),
            wire: BytesMut::new(),
            input: BytesMut::new(),
            events: Vec::new(),
            ended: None,
        };
        Self {
            sides: [side(Role::Client, client), side(Role::Server, server)],
            now,
            random: StdRng::seed_from_u64(seed),
        }
    }

    pub(crate) fn id(&mut self) -> ChannelId {
        let mut id = ChannelId([0; 16]);
        self.random.fill_bytes(&mut id.0);
        id
    }

    pub(crate) fn open(&mut self) -> ChannelKey {
        let id = self.id();
        let caller = Some("192.0.2.7".parse().unwrap());
        self.sides[SERVER].mux.open(id, caller).unwrap()
    }

    /// Opens a channel and returns its keys on the server and on the client.
    pub(crate) fn channel(&mut self) -> (ChannelKey, ChannelKey) {
        let server = self.open();
        self.settle();
        (server, self.accept())
    }

    /// `from` writes up to `count` bytes onto the wire.
    pub(crate) fn write(&mut self, from: usize, count: usize) {
        let now = self.now;
        let [client, server] = &mut self.sides;
        let (side, other) = if from == CLIENT {
            (client, server)
        } else {
            (server, client)
        };
        if side.batch.is_empty() {
            side.mux
                .poll_transmit(&mut side.encoder, &mut side.batch, now)
                .unwrap();
        }
        let mut left = count.min(side.batch.len());
        while left > 0 {
            let mut slices = [IoSlice::new(&[]); 3];
            side.batch.slices(&mut slices);
            let taken = left.min(slices[0].len());
            other.wire.extend_from_slice(&slices[0][..taken]);
            side.batch.advance(taken);
            left -= taken;
            side.mux.handle_sent(now);
        }
    }

    /// `to` reads up to `count` bytes from its wire.
    pub(crate) fn read(&mut self, to: usize, count: usize) {
        let now = self.now;
        let side = &mut self.sides[to];
        let count = count.min(side.wire.len());
        if count == 0 || side.ended.is_some() {
            return;
        }
        let bytes = side.wire.split_to(count);
        side.input.extend_from_slice(&bytes);
        side.mux.handle_received(now);
        while let Some(incoming) = side.decoder.decode(&mut side.input).unwrap() {
            if let Err(reason) = side.mux.handle(incoming, now) {
                side.ended = Some(reason);
                side.mux.end(now);
                return;
            }
        }
    }

    /// Transfers all data that can move, and collects the events.
    pub(crate) fn settle(&mut self) {
        loop {
            for side in [CLIENT, SERVER] {
                self.write(side, usize::MAX);
                self.read(1 - side, usize::MAX);
                self.take_events(CLIENT);
                self.take_events(SERVER);
            }
            let quiet = |side: &Side| {
                side.batch.is_empty() && !side.mux.has_output() && side.wire.is_empty()
            };
            if self.sides.iter().all(quiet) {
                return;
            }
        }
    }

    pub(crate) fn take_events(&mut self, side: usize) {
        while let Some(event) = self.sides[side].mux.poll_event() {
            if event == Event::PingDue {
                let id = self.id();
                self.sides[side].mux.ping(id, self.now);
            }
            self.sides[side].events.push(event);
        }
    }

    pub(crate) fn advance(&mut self, by: Duration) {
        self.now += by;
        for side in &mut self.sides {
            if side.mux.poll_timeout().is_some_and(|due| due <= self.now)
                && let Err(reason) = side.mux.handle_timeout(self.now)
            {
                side.ended.get_or_insert(reason);
                side.mux.end(self.now);
            }
        }
        self.take_events(CLIENT);
        self.take_events(SERVER);
    }

    pub(crate) fn accept(&mut self) -> ChannelKey {
        self.sides[CLIENT].mux.accept().expect("a channel")
    }

    /// Reads all available data; returns it and the final read result.
    pub(crate) fn drain(&mut self, side: usize, key: ChannelKey) -> (Vec<u8>, Read) {
        let mut bytes = Vec::new();
        loop {
            match self.sides[side].mux.read(key) {
                Read::Data(data) => bytes.extend_from_slice(&data),
                end => return (bytes, end),
            }
        }
    }
}

/// Limits that transfers of up to `largest` bytes reach quickly.
pub(crate) fn limits_for(largest: usize) -> Limits {
    Limits {
        receive_per_channel: 2 * largest,
        receive_total: 5 * largest,
        pause_above: largest / 4,
        resume_below: largest / 20,
        send_per_channel: largest / 2,
        ..Limits::default()
    }
}

pub(crate) fn small_limits() -> Limits {
    limits_for(200_000)
}
