//! What two multiplexers are to do, said simply: bytes arrive as they were written, ends are seen, nothing stays behind.

#![allow(dead_code, reason = "each user takes some of it")]

use std::time::Duration;

use rand::{Rng, RngExt};
use snitun::{ChannelKey, Read, Write};

use super::pair::{CLIENT, Pair, SERVER};

/// The byte at `offset` of what `side` writes on channel `index`.
fn pattern(index: usize, side: usize, offset: usize) -> u8 {
    ((offset.wrapping_mul(31) >> 3) ^ offset ^ (index * 7) ^ (side * 131)) as u8
}

/// What the model knows of one end of a channel.
#[derive(Default)]
struct End {
    key: Option<ChannelKey>,
    written: usize,
    read: usize,
    /// We closed it before the other end did.
    closed: bool,
    released: bool,
    /// It told us that it is over.
    over: Option<Read>,
}

struct Model {
    pair: Pair,
    /// Client's and server's end of each channel.
    channels: Vec<[End; 2]>,
    /// In the order in which the server opened them, which is the order of accepting.
    accepted: usize,
    /// Most bytes that are written or moved at a time.
    largest: usize,
}

impl Model {
    fn step(&mut self, random: &mut impl Rng) {
        let side = random.random_range(0..2);
        let pick = random.random_range(0..self.channels.len().max(1));
        let size = match random.random_range(0..4) {
            0 => 1,
            1 => random.random_range(1..100),
            2 => random.random_range(1..self.largest / 20),
            _ => random.random_range(1..self.largest),
        };
        match random.random_range(0..100) {
            0..4 if self.channels.len() < 40 => {
                let key = self.pair.open();
                let mut ends = <[End; 2]>::default();
                ends[SERVER].key = Some(key);
                self.channels.push(ends);
            }
            4..10 => {
                if let Some(key) = self.pair.sides[CLIENT].mux.accept() {
                    self.channels[self.accepted][CLIENT].key = Some(key);
                    self.accepted += 1;
                }
            }
            10..35 => self.write(pick, side, size),
            35..60 => self.read(pick, side),
            60..61 => self.close(pick, side),
            61..62 => self.release(pick, side),
            62..80 => self.pair.write(side, size),
            80..98 => self.pair.read(side, size),
            _ => self.pair.advance(Duration::from_millis(size as u64 % 300)),
        }
    }

    fn key(&self, index: usize, side: usize) -> Option<ChannelKey> {
        let end = &self.channels.get(index)?[side];
        end.key.filter(|_| !end.released)
    }

    fn write(&mut self, index: usize, side: usize, size: usize) {
        let Some(key) = self.key(index, side) else {
            return;
        };
        let end = &mut self.channels[index][side];
        let data: Vec<u8> = (end.written..end.written + size)
            .map(|offset| pattern(index, side, offset))
            .collect();
        match self.pair.sides[side].mux.write(key, &data) {
            Write::Taken(count) => {
                assert!(!end.closed, "a closed channel takes nothing");
                end.written += count;
            }
            Write::Wait => assert!(!end.closed),
            Write::Closed => {}
        }
    }

    fn read(&mut self, index: usize, side: usize) {
        let Some(key) = self.key(index, side) else {
            return;
        };
        let end = &mut self.channels[index][side];
        match self.pair.sides[side].mux.read(key) {
            Read::Data(data) => {
                assert!(end.over.is_none(), "nothing comes after the end");
                for byte in data {
                    assert_eq!(byte, pattern(index, 1 - side, end.read));
                    end.read += 1;
                }
            }
            Read::Wait => assert!(end.over.is_none() && !end.closed),
            over => end.over = Some(over),
        }
    }

    fn close(&mut self, index: usize, side: usize) {
        if let Some(key) = self.key(index, side) {
            let now = self.pair.now;
            self.pair.sides[side].mux.close(key, now);
            self.channels[index][side].closed = true;
        }
    }

    fn release(&mut self, index: usize, side: usize) {
        if let Some(key) = self.key(index, side) {
            let now = self.pair.now;
            self.pair.sides[side].mux.release(key, now);
            self.channels[index][side].released = true;
        }
    }

    /// Lets everything arrive and be read, then compares.
    fn finish(mut self) {
        let mut before = None;
        loop {
            self.pair.settle();
            while let Some(key) = self.pair.sides[CLIENT].mux.accept() {
                self.channels[self.accepted][CLIENT].key = Some(key);
                self.accepted += 1;
            }
            for index in 0..self.channels.len() {
                for side in [CLIENT, SERVER] {
                    for _ in 0..4 {
                        self.read(index, side);
                    }
                }
            }
            // Until a round brings nothing new.
            let ends = self.channels.iter().flatten();
            let (read, over) = ends.fold((0, 0), |(read, over), end| {
                (read + end.read, over + usize::from(end.over.is_some()))
            });
            let now = Some((self.accepted, read, over));
            if std::mem::replace(&mut before, now) == now {
                break;
            }
        }
        for side in &self.pair.sides {
            assert_eq!(side.ended, None);
        }
        for ends in &self.channels {
            for side in [CLIENT, SERVER] {
                let (us, other) = (&ends[side], &ends[1 - side]);
                assert!(us.read <= other.written);
                let failed = matches!(us.over, Some(Read::Failed(_)));
                let we_gave_up = us.closed || us.released;
                let other_failed = matches!(other.over, Some(Read::Failed(_)));
                if us.key.is_some() && !we_gave_up && !failed && !other_failed {
                    assert_eq!(us.read, other.written, "everything written arrives");
                    let should_be_over = other.closed || other.released;
                    assert_eq!(us.over.is_some(), should_be_over);
                }
            }
        }
        // Whatever the application lets go of is gone on both sides.
        for index in 0..self.channels.len() {
            self.release(index, CLIENT);
            self.release(index, SERVER);
        }
        self.pair.settle();
        for side in &self.pair.sides {
            assert_eq!(side.mux.open_channels(), 0);
            assert_eq!(side.mux.bytes_received_unread(), 0);
            assert_eq!(side.mux.bytes_unsent(), 0);
        }
    }
}

/// A schedule of `steps` operations on up to `largest` bytes each, picked by `random`.
pub(crate) fn run_schedule(pair: Pair, random: &mut impl Rng, steps: usize, largest: usize) {
    let mut model = Model {
        pair,
        channels: Vec::new(),
        accepted: 0,
        largest,
    };
    for _ in 0..steps {
        model.step(random);
    }
    model.finish();
}

/// What can happen to a channel: each of the two ends writes more than the other one takes without pausing it, reads, closes,
/// or all that it has sent so far arrives.
pub(crate) const HAPPENINGS: usize = 8;

/// One open channel, to which `happenings` happen in this order. From the fifth on (closing and arriving), doing the same
/// twice in a row changes nothing.
pub(crate) fn run_interleaving(mut pair: Pair, happenings: &[usize], largest: usize) {
    let server = pair.open();
    pair.settle();
    let client = pair.accept();
    let mut ends = <[End; 2]>::default();
    ends[SERVER].key = Some(server);
    ends[CLIENT].key = Some(client);
    let mut model = Model {
        pair,
        channels: vec![ends],
        accepted: 1,
        largest,
    };
    for happening in happenings {
        let side = happening % 2;
        match happening / 2 {
            0 => model.write(0, side, largest / 3),
            1 => model.read(0, side),
            2 => model.close(0, side),
            _ => {
                model.pair.write(side, usize::MAX);
                model.pair.read(1 - side, usize::MAX);
            }
        }
    }
    model.finish();
}
