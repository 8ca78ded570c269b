//! A simple model of two multiplexers: bytes arrive as they were written, ends are reported, each
//! blocked reader or writer gets an event, and nothing is left over.

#![allow(dead_code, reason = "each user takes some of it")]

use std::time::Duration;

use rand::{Rng, RngExt};
use snitun::{ChannelError, ChannelKey, Event, Limits, Read, Write};

use super::pair::{CLIENT, Pair, SERVER, limits_for};

/// The byte at `offset` of what `side` writes on channel `index`.
fn pattern(index: usize, side: usize, offset: usize) -> u8 {
    ((offset.wrapping_mul(31) >> 3) ^ offset ^ (index * 7) ^ (side * 131)) as u8
}

/// The model's state of one end of a channel.
#[derive(Default)]
struct End {
    key: Option<ChannelKey>,
    written: usize,
    read: usize,
    /// Closed here before the other end closed.
    closed: bool,
    released: bool,
    /// The final read result.
    ended: Option<Read>,
    /// Blocked, and no event has arrived since.
    reader_blocked: bool,
    writer_blocked: bool,
}

struct Model {
    pair: Pair,
    /// Client's and server's end of each channel.
    channels: Vec<[End; 2]>,
    /// In the order in which the server opened them, which is the order of accepting.
    accepted: usize,
    /// Number of [`Event::Opened`] events.
    opened_events: usize,
    limits: Limits,
    /// Maximum bytes written or transferred at a time.
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
                self.accept();
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

    fn accept(&mut self) -> bool {
        self.take_events();
        let Some(key) = self.pair.sides[CLIENT].mux.accept() else {
            return false;
        };
        self.channels[self.accepted][CLIENT].key = Some(key);
        self.accepted += 1;
        assert!(
            self.accepted <= self.opened_events,
            "accepted without a word"
        );
        true
    }

    /// Takes the events of both sides.
    fn take_events(&mut self) {
        for side in [CLIENT, SERVER] {
            self.pair.take_events(side);
            for event in self.pair.sides[side].events.drain(..) {
                let mut ends = self.channels.iter_mut().map(|ends| &mut ends[side]);
                let mut of = |key| ends.find(|end| end.key == Some(key));
                match event {
                    Event::Readable(key) => {
                        of(key)
                            .into_iter()
                            .for_each(|end| end.reader_blocked = false);
                    }
                    Event::Writable(key) => {
                        of(key)
                            .into_iter()
                            .for_each(|end| end.writer_blocked = false);
                    }
                    Event::Opened => self.opened_events += 1,
                    Event::PingDue | Event::Pong { .. } => {}
                }
            }
        }
    }

    /// Whether the user of this channel retries only after an event. A missing event leaves it
    /// blocked.
    fn waits_for_events(index: usize) -> bool {
        index % 2 == 1
    }

    fn key(&self, index: usize, side: usize) -> Option<ChannelKey> {
        let end = &self.channels.get(index)?[side];
        end.key.filter(|_| !end.released)
    }

    fn write(&mut self, index: usize, side: usize, size: usize) {
        let Some(key) = self.key(index, side) else {
            return;
        };
        self.take_events();
        let end = &mut self.channels[index][side];
        if end.writer_blocked && Self::waits_for_events(index) {
            return;
        }
        let data: Vec<u8> = (end.written..end.written + size)
            .map(|offset| pattern(index, side, offset))
            .collect();
        match self.pair.sides[side].mux.write(key, &data) {
            Write::Accepted(count) => {
                assert!(!end.closed, "a closed channel takes nothing");
                end.written += count;
                // There may be some room before there is enough for an event.
                end.writer_blocked = false;
            }
            Write::Blocked => {
                assert!(!end.closed);
                end.writer_blocked = true;
            }
            Write::Closed => assert!(!end.writer_blocked, "the end came without a word"),
        }
    }

    fn read(&mut self, index: usize, side: usize) {
        let Some(key) = self.key(index, side) else {
            return;
        };
        self.take_events();
        let channels = self.channels.len();
        let other_written = self.channels[index][1 - side].written;
        let end = &mut self.channels[index][side];
        if end.reader_blocked && Self::waits_for_events(index) {
            return;
        }
        let read = self.pair.sides[side].mux.read(key);
        assert!(
            !end.reader_blocked || read == Read::Blocked,
            "{read:?} came without a word"
        );
        match read {
            Read::Data(data) => {
                assert!(end.ended.is_none(), "nothing comes after the end");
                for byte in data {
                    assert_eq!(byte, pattern(index, 1 - side, end.read));
                    end.read += 1;
                }
            }
            Read::Blocked => {
                assert!(end.ended.is_none() && !end.closed);
                end.reader_blocked = true;
            }
            Read::Failed(failure) => {
                assert_eq!(failure, ChannelError::Overrun);
                let total = self.limits.receive_total / channels;
                // What was unread then may have been read since.
                assert!(
                    other_written > total.min(self.limits.receive_per_channel),
                    "cut off for {other_written} bytes"
                );
                end.ended = Some(read);
            }
            Read::End => end.ended = Some(Read::End),
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

    /// Delivers and reads all data, then compares.
    fn finish(mut self) {
        let mut before = None;
        loop {
            self.pair.settle();
            while self.accept() {}
            for index in 0..self.channels.len() {
                for side in [CLIENT, SERVER] {
                    for _ in 0..4 {
                        self.read(index, side);
                    }
                }
            }
            // Until a round changes nothing.
            let ends = self.channels.iter().flatten();
            let (read, ended) = ends.fold((0, 0), |(read, ended), end| {
                (read + end.read, ended + usize::from(end.ended.is_some()))
            });
            let now = Some((self.accepted, read, ended));
            if std::mem::replace(&mut before, now) == now {
                break;
            }
        }
        for side in &self.pair.sides {
            assert_eq!(side.ended, None);
        }
        self.take_events();
        for ends in &self.channels {
            for side in [CLIENT, SERVER] {
                let waits = ends[side].writer_blocked && !ends[side].released;
                assert!(!waits, "all is sent, and a writer still waits");
                let (us, other) = (&ends[side], &ends[1 - side]);
                assert!(us.read <= other.written);
                let failed = matches!(us.ended, Some(Read::Failed(_)));
                let we_gave_up = us.closed || us.released;
                let other_failed = matches!(other.ended, Some(Read::Failed(_)));
                if us.key.is_some() && !we_gave_up && !failed && !other_failed {
                    assert_eq!(us.read, other.written, "everything written arrives");
                    let should_be_over = other.closed || other.released;
                    assert_eq!(us.ended.is_some(), should_be_over);
                }
            }
        }
        // Released channels are gone on both sides.
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

/// Runs a schedule of `steps` random operations of up to `largest` bytes each, with matching limits
/// ([`limits_for`]).
pub(crate) fn run_schedule(pair: Pair, random: &mut impl Rng, steps: usize, largest: usize) {
    let mut model = Model {
        pair,
        channels: Vec::new(),
        accepted: 0,
        opened_events: 0,
        limits: limits_for(largest),
        largest,
    };
    for _ in 0..steps {
        model.step(random);
    }
    model.finish();
}

/// Number of operations on a channel: each of the two ends writes more than the other one accepts
/// without pausing, reads, closes, or all its sent data arrives.
pub(crate) const OPERATIONS: usize = 8;

/// Runs `operations` in this order on one open channel. From the fifth on (closing and arriving),
/// repeating an operation changes nothing.
pub(crate) fn run_interleaving(mut pair: Pair, operations: &[usize], largest: usize) {
    let (server, client) = pair.channel();
    let mut ends = <[End; 2]>::default();
    ends[SERVER].key = Some(server);
    ends[CLIENT].key = Some(client);
    let mut model = Model {
        pair,
        channels: vec![ends],
        accepted: 1,
        opened_events: 1,
        limits: limits_for(largest),
        largest,
    };
    for operation in operations {
        let side = operation % 2;
        match operation / 2 {
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
