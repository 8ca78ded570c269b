//! How much may be under way: what was sent and is not known to have been read by the peer.
//!
//! TCP takes what it is given until the receiver's buffer is full, which the system lets grow to many megabytes where the peer
//! is slower than the network. All of that is ahead of the next small frame. So a PING goes along with the data from time to time;
//! its answer shows that the peer has read everything before it. Bulk waits while more is under way than three times what the
//! path holds (its bandwidth-delay product), or than the least that keeps a fast one busy. Small frames never wait.
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
/// Share of the window between two probes.
const PROBES: u64 = 4;
/// Probes that may wait for an answer.
const MAX_PROBES: usize = 16;
/// The window over what the path holds: TCP sends up to twice as much in each round trip while it finds its speed, and answers
/// come late now and then.
const GAIN: u64 = 3;
/// How long an answer is waited for. A path that needs longer for what is under way has a queue that we cannot shorten.
const PATIENCE: Duration = Duration::from_secs(5);
/// For how long a measurement counts, at least; at most twice as long. Paths change seldom, and a download that goes on for
/// longer only makes the round trip look as long as it is with the window full.
const RTT_AGE: Duration = Duration::from_secs(60);
const RATE_AGE: Duration = Duration::from_secs(5);

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
    /// Nanoseconds.
    round_trip: Recent,
    /// Bytes in a second.
    rate: Recent,
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
    /// Whether bulk may be sent. A window that has become smaller may be full without an answer to come: the next frame takes a
    /// probe with it.
    pub(super) fn is_open(&self) -> bool {
        self.probes.is_empty() || self.size.is_none_or(|size| self.sent - self.read < size)
    }

    /// When a closed window is given up.
    pub(super) fn patience_ends(&self) -> Option<Moment> {
        let oldest = self.probes.front().filter(|_| !self.is_open())?;
        Some(oldest.at + PATIENCE)
    }

    /// The peer does not answer: it is not waited for until it does.
    pub(super) fn give_up(&mut self) {
        self.size = None;
    }

    /// Notes that data goes out; yields the id of a PING to send behind it, if it is time for one.
    pub(super) fn send(&mut self, count: usize, now: Moment) -> Option<ChannelId> {
        self.sent += count as u64;
        let between = self.size.unwrap_or(LEAST) / PROBES;
        if self.sent - self.probed < between || self.probes.len() == MAX_PROBES {
            return None;
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
        let Some(position) = self
            .probes
            .iter()
            .position(|probe| id(probe.number) == answer)
        else {
            return false;
        };
        // Those before it have arrived as well.
        let Some(probe) = self.probes.drain(..=position).next_back() else {
            return false;
        };
        self.read = probe.sent;
        let took = u64::try_from((now - probe.at).as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let bytes = u128::from(probe.sent - probe.read);
        let rate = u64::try_from(bytes * 1_000_000_000 / u128::from(took)).unwrap_or(u64::MAX);
        let round_trip = self.round_trip.note(took, RTT_AGE, now, u64::min);
        let rate = self.rate.note(rate, RATE_AGE, now, u64::max);
        let held = u128::from(rate) * u128::from(round_trip) / 1_000_000_000;
        let size = u64::try_from(held).unwrap_or(u64::MAX).saturating_mul(GAIN);
        self.size = Some(size.max(LEAST));
        true
    }
}

fn id(number: u64) -> ChannelId {
    let mut id = *b"window..........";
    id[8..].copy_from_slice(&number.to_be_bytes());
    ChannelId(id)
}

/// The best of what was measured lately: of this period and the one before.
#[derive(Debug, Default)]
struct Recent {
    before: Option<u64>,
    current: Option<u64>,
    since: Moment,
}

impl Recent {
    fn note(&mut self, value: u64, age: Duration, now: Moment, best: fn(u64, u64) -> u64) -> u64 {
        if now - self.since >= age {
            self.before = self.current.take();
            self.since = now;
        }
        let current = self.current.map_or(value, |known| best(known, value));
        self.current = Some(current);
        self.before.map_or(current, |known| best(known, current))
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    const FRAME: usize = 64 * 1024;
    const MIB: u64 = 1024 * 1024;

    /// A path to a reader: so many bytes in a second, and half the round trip in either direction.
    struct Path {
        rate: u64,
        /// TCP still finds out how much the path holds: twice as much in each round trip.
        slow_start: bool,
        round_trip: Duration,
        now: Moment,
        /// When the reader is done with all that was sent.
        busy_until: Moment,
        /// Answers on their way back.
        answers: VecDeque<(Moment, ChannelId)>,
        answers_pings: bool,
        /// When the systems are rid of each frame.
        held: VecDeque<Moment>,
        /// How long the reader had nothing to do.
        starved: Duration,
        /// The most that waited to be read.
        most_queued: Duration,
    }

    impl Path {
        fn new(rate: u64, round_trip: Duration) -> Self {
            Self {
                rate,
                slow_start: false,
                round_trip,
                now: Moment::START,
                busy_until: Moment::START,
                answers: VecDeque::new(),
                answers_pings: true,
                held: VecDeque::new(),
                starved: Duration::ZERO,
                most_queued: Duration::ZERO,
            }
        }

        /// What the two systems hold at a time: what is under way, and what one has not sent or the other has not handed out.
        fn room(&self) -> u64 {
            let path = self.rate * self.round_trip.as_nanos() as u64 / 1_000_000_000;
            if !self.slow_start {
                return 2 * path + 8 * MIB;
            }
            // Ten segments in the first round trip.
            let round = self.now.since_start().as_nanos() / self.round_trip.as_nanos();
            (14_600 << round.min(30)).min(2 * path) + 128 * 1024
        }

        /// Sends as much as the window allows, for so long. Returns how much that was.
        fn fill(&mut self, window: &mut Window, time: Duration) -> u64 {
            let end = self.now + time;
            let before = window.sent;
            while self.now < end {
                while self.held.pop_front_if(|at| *at <= self.now).is_some() {}
                if self.held.len() as u64 * FRAME as u64 > self.room() {
                    self.now = self.held.pop_front().unwrap();
                } else if window.is_open() {
                    let probe = window.send(FRAME, self.now);
                    let arrives = self.now + self.round_trip / 2;
                    self.starved += arrives - self.busy_until;
                    self.most_queued = self.most_queued.max(self.busy_until - arrives);
                    let takes = Duration::from_nanos(FRAME as u64 * 1_000_000_000 / self.rate);
                    self.busy_until = self.busy_until.max(arrives) + takes;
                    let known = self.busy_until + self.round_trip / 2;
                    self.held.push_back(known);
                    if let Some(id) = probe.filter(|_| self.answers_pings) {
                        self.answers.push_back((known, id));
                    }
                    // What the sender's own link takes: twice as fast as the path.
                    self.now += takes / 2;
                } else if let Some((at, id)) = self.answers.pop_front() {
                    self.now = self.now.max(at);
                    assert!(window.answered(id, self.now));
                } else {
                    self.now = window.patience_ends().expect("a closed window has an end");
                    window.give_up();
                }
                while let Some((_, id)) = self.answers.pop_front_if(|(at, _)| *at <= self.now) {
                    assert!(window.answered(id, self.now));
                }
            }
            window.sent - before
        }
    }

    #[test]
    fn paths_of_all_kinds_are_kept_busy_with_a_short_queue() {
        let millis = Duration::from_millis;
        for (rate, round_trip, queue) in [
            // A loopback, a home network, a gigabit over a continent and around the world, a slow line.
            (1000 * MIB, Duration::from_micros(50), millis(1)),
            (100 * MIB, millis(1), millis(8)),
            (125 * MIB, millis(30), millis(100)),
            (125 * MIB, millis(200), millis(600)),
            (MIB, millis(40), millis(650)),
        ] {
            let mut path = Path::new(rate, round_trip);
            let mut window = Window::default();
            path.fill(&mut window, Duration::from_secs(15));
            (path.starved, path.most_queued) = Default::default();
            path.fill(&mut window, Duration::from_secs(10));
            let (starved, queued) = (path.starved, path.most_queued);
            assert!(starved < millis(100), "{rate} {round_trip:?}: {starved:?}");
            assert!(queued <= queue, "{rate} {round_trip:?}: {queued:?}");
        }
    }

    #[test]
    fn tcp_is_not_held_back_while_it_finds_its_speed() {
        for (rate, millis) in [
            (1250 * MIB, 100),
            (125 * MIB, 200),
            (125 * MIB, 30),
            (12 * MIB, 100),
            (5 * MIB, 600),
        ] {
            let [with, without] = [true, false].map(|answers_pings| {
                let mut path = Path::new(rate, Duration::from_millis(millis));
                path.slow_start = true;
                path.answers_pings = answers_pings;
                let mut window = Window::default();
                path.fill(&mut window, Duration::from_secs(10));
                assert_eq!(window.size.is_some(), answers_pings);
                path.starved
            });
            assert!(
                with <= without + Duration::from_millis(millis / 10),
                "{rate} {millis}: {with:?}, else {without:?}"
            );
        }
    }

    #[test]
    fn a_closed_window_has_an_end_whatever_happens() {
        let mut random = StdRng::seed_from_u64(1);
        for _ in 0..200 {
            let mut window = Window::default();
            let mut now = Moment::START;
            let mut waiting = VecDeque::new();
            for _ in 0..2000 {
                now += Duration::from_micros(1 << random.random_range(0..24));
                if window.is_open() {
                    let count = random.random_range(1..=FRAME);
                    waiting.extend(window.send(count, now));
                } else {
                    assert!(window.patience_ends().is_some());
                }
                match random.random_range(0..10) {
                    0..3 => {
                        let answer = waiting.pop_front();
                        assert!(answer.is_none_or(|id| window.answered(id, now)));
                    }
                    3 if window.patience_ends().is_some_and(|end| end <= now) => window.give_up(),
                    // A long silence: what was measured is forgotten.
                    4 if random.random_bool(0.01) => now += 2 * RTT_AGE,
                    _ => {}
                }
            }
        }
    }

    #[test]
    fn a_path_that_becomes_longer_is_filled_again_in_time() {
        let mut path = Path::new(50 * MIB, Duration::from_millis(20));
        let mut window = Window::default();
        path.fill(&mut window, Duration::from_secs(100));
        path.round_trip = Duration::from_millis(200);
        let at_once = path.fill(&mut window, Duration::from_secs(10)) / 10;
        assert!(at_once > 2 * MIB, "{at_once}");
        path.fill(&mut window, 2 * RTT_AGE);
        let later = path.fill(&mut window, Duration::from_secs(10)) / 10;
        assert!(later > 45 * MIB, "{later}");
    }

    #[test]
    fn who_does_not_answer_is_not_waited_for() {
        let mut path = Path::new(50 * MIB, Duration::from_millis(20));
        path.answers_pings = false;
        let mut window = Window::default();
        path.fill(&mut window, Duration::from_secs(1));
        assert!(window.is_open());
        assert!(window.probes.len() <= MAX_PROBES);

        // Who has answered before is waited for, for a while.
        let mut path = Path::new(50 * MIB, Duration::from_millis(20));
        let mut window = Window::default();
        path.fill(&mut window, Duration::from_secs(1));
        path.answers_pings = false;
        let sent = path.fill(&mut window, Duration::from_secs(20));
        assert!(sent > 700 * MIB, "{sent}");
        assert_eq!(window.size, None);
    }

    #[test]
    fn an_answer_to_no_probe_is_none_of_ours() {
        let mut window = Window::default();
        while window.send(FRAME, Moment::START).is_none() {}
        assert!(!window.answered(ChannelId([7; 16]), Moment::START));
        assert!(!window.answered(id(1), Moment::START));
        assert!(window.answered(id(0), Moment::START));
        assert!(!window.answered(id(0), Moment::START));
    }
}
