//! How much may be under way: what was sent and is not known to have been read by the peer.
//!
//! TCP takes what it is given until the receiver's buffer is full, which the system lets grow to many megabytes where the peer
//! is slower than the network. All of that is ahead of the next small frame. So a PING goes along with the data from time to time;
//! its answer shows that the peer has read everything before it. Bulk waits while more is under way than three times what the
//! path holds (its bandwidth-delay product), or than the least that keeps a fast one busy. Small frames never wait.
//!
//! What the path holds is the fastest that the peer has read lately, times the round trip with nothing waiting. That one is
//! measured with little under way: when bulk begins, and from time to time; sooner when answers come so late that the window may
//! be too small for a path that has become longer. Between such looks it only becomes shorter, so that a queue of our own is not
//! taken for distance.
//!
//! This is no congestion control: that is TCP's business, which only gets a little less to queue. Where the window is wrong about
//! the path it errs on the side of too much, and a peer that does not answer is not waited for.

use std::collections::VecDeque;
use std::time::Duration;

use crate::frame::ChannelId;
use crate::moment::Moment;

/// What may always be under way, in bytes: a millisecond of 4 Gbit/s, in which both ends get their turn on a processor; and
/// 2.6 MB/s at 200 ms, should all that was measured be wrong.
const LEAST: u64 = 512 * 1024;
/// What may be under way while the path is looked at, but for the frame that fills it.
const NARROW: u64 = 64 * 1024;
/// Share of the window between two probes.
const PROBES: u64 = 4;
/// What lies between two probes at most, whatever the window.
const MOST_BETWEEN: u64 = 8 * 1024 * 1024;
/// Probes that may wait for an answer.
const MAX_PROBES: usize = 16;
/// After so long an answer is lost, and room for another probe.
const LOST: Duration = Duration::from_secs(60);
/// The window over what the path holds: TCP sends up to twice as much in each round trip while it finds its speed, and answers
/// come late now and then.
const GAIN: u64 = 3;
/// How long the next answer is waited for. A path that needs longer has a queue that we cannot shorten.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the fastest rate counts, at least; at most twice as long.
const RATE_AGE: Duration = Duration::from_secs(5);
/// Time between two looks at the path where answers come late, and where they do not; and in round trips, of which each look
/// costs one or two.
const LOOK_LATE: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_secs(60);
const LOOK_ROUND_TRIPS: u64 = 100;

/// The window of one direction.
#[derive(Debug, Default)]
pub(super) struct Window {
    sent: u64,
    /// As much of it has been read by the peer.
    read: u64,
    /// What was sent up to the last probe.
    probed: u64,
    probes: VecDeque<Probe>,
    /// Number of the next probe.
    next: u64,
    /// When the last answer came.
    answered: Moment,
    /// The shortest since the last look at the path, in nanoseconds.
    round_trip: Option<u64>,
    /// When the path was last looked at.
    looked: Moment,
    /// It is being looked at: little may be under way.
    looking: bool,
    /// Bytes in a second.
    rate: Fastest,
    /// `None` until a probe is answered: who does not answer is not waited for.
    size: Option<u64>,
}

#[derive(Debug)]
struct Probe {
    number: u64,
    /// What was sent before it, and what was known to be read then.
    sent: u64,
    read: u64,
    at: Moment,
}

impl Window {
    /// What may be under way now.
    fn width(&self) -> Option<u64> {
        let looking = self.looking;
        self.size.map(|size| if looking { NARROW } else { size })
    }

    /// Whether bulk may be sent. A window that has become smaller may be full without an answer to come: the next frame takes a
    /// probe with it.
    pub(super) fn is_open(&self) -> bool {
        let under_way = self.sent - self.read;
        self.probes.is_empty() || self.width().is_none_or(|width| under_way < width)
    }

    /// When a closed window is given up: as long as answers come, the peer reads.
    pub(super) fn patience_ends(&self) -> Option<Moment> {
        let oldest = self.probes.front().filter(|_| !self.is_open())?;
        Some(oldest.at.max(self.answered) + PATIENCE)
    }

    /// The peer does not answer: it is not waited for until it does.
    pub(super) fn give_up(&mut self) {
        self.size = None;
        self.looking = false;
    }

    /// Notes that data goes out; yields the id of a PING to send behind it, if it is time for one.
    pub(super) fn send(&mut self, count: usize, now: Moment) -> Option<ChannelId> {
        self.sent += count as u64;
        let between = (self.width().unwrap_or(LEAST) / PROBES).min(MOST_BETWEEN);
        if self.sent - self.probed < between {
            return None;
        }
        if self.probes.len() == MAX_PROBES {
            self.probes
                .front()
                .filter(|oldest| oldest.at + LOST <= now)?;
            self.probes.clear();
        }
        self.probed = self.sent;
        let number = self.next;
        self.next += 1;
        self.probes.push_back(Probe {
            number,
            sent: self.sent,
            read: self.read,
            at: now,
        });
        Some(id(number))
    }

    /// Takes an answer; returns whether it was to a probe.
    pub(super) fn answered(&mut self, answer: ChannelId, now: Moment) -> bool {
        let mut probes = self.probes.iter();
        let Some(position) = probes.position(|probe| id(probe.number) == answer) else {
            return false;
        };
        // Those before it have arrived as well.
        let answered = self.probes.drain(..=position).next_back();
        if let Some(probe) = answered {
            self.read = probe.sent;
            self.answered = now;
            self.measure(&probe, now);
        }
        true
    }

    fn measure(&mut self, probe: &Probe, now: Moment) {
        let took = u64::try_from((now - probe.at).as_nanos()).unwrap_or(u64::MAX);
        if took == 0 {
            // Whoever keeps the time has not looked at the clock in between.
            return;
        }
        let bytes = probe.sent - probe.read;
        let round_trip = match self.round_trip {
            Some(known) if bytes > 2 * NARROW => known.min(took),
            _ => {
                self.looked = now;
                self.looking = false;
                took
            }
        };
        self.round_trip = Some(round_trip);
        let rate = u128::from(bytes) * 1_000_000_000 / u128::from(took);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let rate = self.rate.note(rate, now);
        let held = u128::from(rate) * u128::from(round_trip) / 1_000_000_000;
        let size = u64::try_from(held).unwrap_or(u64::MAX).saturating_mul(GAIN);
        self.size = Some(size.max(LEAST));
        let late = took > round_trip.saturating_mul(GAIN);
        let rest = if late { LOOK_LATE } else { LOOK };
        let affordable = Duration::from_nanos(round_trip.saturating_mul(LOOK_ROUND_TRIPS));
        if now - self.looked >= rest.max(affordable) {
            self.looking = true;
        }
    }
}

fn id(number: u64) -> ChannelId {
    let mut id = *b"window..........";
    id[8..].copy_from_slice(&number.to_be_bytes());
    ChannelId(id)
}

/// The fastest of what was measured lately: in this period and the one before.
#[derive(Debug, Default)]
struct Fastest {
    before: u64,
    current: u64,
    since: Moment,
}

impl Fastest {
    fn note(&mut self, rate: u64, now: Moment) -> u64 {
        let passed = now - self.since;
        if passed >= RATE_AGE {
            self.before = if passed < 2 * RATE_AGE {
                self.current
            } else {
                0
            };
            self.current = 0;
            self.since = now;
        }
        self.current = self.current.max(rate);
        self.current.max(self.before)
    }
}

#[cfg(test)]
mod tests;
