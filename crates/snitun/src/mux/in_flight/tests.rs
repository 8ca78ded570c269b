//! The limiter on simulated paths.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

const FRAME: usize = 64 * 1024;
const MIB: u64 = 1024 * 1024;

/// A path to a reader, with a bandwidth and a symmetric round-trip time.
struct Path {
    rate: u64,
    /// TCP is in slow start: twice as much in each round trip.
    slow_start: bool,
    min_rtt: Duration,
    /// Extra delay of answers on a congested return path.
    back: Duration,
    /// Socket buffer capacity; by default, that of the path and a large buffer.
    room: Option<u64>,
    now: Timestamp,
    /// Time when the reader has read all sent data.
    busy_until: Timestamp,
    /// Answers on their way back.
    answers: VecDeque<(Timestamp, ChannelId)>,
    answers_pings: bool,
    /// Times when each frame leaves the socket buffers.
    in_systems: VecDeque<Timestamp>,
    /// Idle time of the reader.
    starved: Duration,
    /// Maximum delay of unread data.
    max_queued: Duration,
}

impl Path {
    fn new(rate: u64, min_rtt: Duration) -> Self {
        Self {
            rate,
            slow_start: false,
            min_rtt,
            back: Duration::ZERO,
            room: None,
            now: Timestamp::START,
            busy_until: Timestamp::START,
            answers: VecDeque::new(),
            answers_pings: true,
            in_systems: VecDeque::new(),
            starved: Duration::ZERO,
            max_queued: Duration::ZERO,
        }
    }

    /// Returns the capacity of the path and the socket buffers.
    fn room(&self) -> u64 {
        let path = self.rate * self.min_rtt.as_nanos() as u64 / 1_000_000_000;
        if !self.slow_start {
            return self.room.unwrap_or(2 * path + 8 * MIB);
        }
        // The initial window has ten segments.
        let round = self.now.since_start().as_nanos() / self.min_rtt.as_nanos();
        (14_600 << round.min(30)).min(2 * path) + 128 * 1024
    }

    /// Sends as much as the limiter permits for `time`. Returns the number of bytes.
    fn fill(&mut self, limiter: &mut InFlightLimiter, time: Duration) -> u64 {
        let end = self.now + time;
        let before = limiter.sent;
        while self.now < end {
            while self.in_systems.pop_front_if(|at| *at <= self.now).is_some() {}
            if self.in_systems.len() as u64 * FRAME as u64 > self.room() {
                self.now = self.in_systems.pop_front().unwrap();
            } else if limiter.is_open() {
                let probe = limiter.on_send(FRAME, self.now);
                let arrives = self.now + self.min_rtt / 2;
                self.starved += arrives - self.busy_until;
                self.max_queued = self.max_queued.max(self.busy_until - arrives);
                let takes = Duration::from_nanos(FRAME as u64 * 1_000_000_000 / self.rate);
                self.busy_until = self.busy_until.max(arrives) + takes;
                let known = self.busy_until + self.min_rtt / 2;
                self.in_systems.push_back(known);
                if let Some(id) = probe.filter(|_| self.answers_pings) {
                    self.answers.push_back((known + self.back, id));
                }
                // The sender's own link is twice as fast as the path.
                self.now += takes / 2;
            } else {
                let end = limiter
                    .probe_deadline()
                    .expect("a closed limiter has an end");
                if let Some((at, id)) = self.answers.pop_front_if(|(at, _)| *at <= end) {
                    self.now = self.now.max(at);
                    assert!(limiter.on_pong(id, self.now));
                } else {
                    self.now = self.now.max(end);
                    limiter.on_probe_timeout();
                }
            }
            while let Some((_, id)) = self.answers.pop_front_if(|(at, _)| *at <= self.now) {
                assert!(limiter.on_pong(id, self.now));
            }
        }
        limiter.sent - before
    }
}

#[test]
fn all_paths_stay_busy_with_a_short_queue() {
    let millis = Duration::from_millis;
    for (rate, min_rtt, queue) in [
        // Loopback, a home network, a gigabit across a continent and around the world, a slow line.
        (1000 * MIB, Duration::from_micros(50), millis(1)),
        (100 * MIB, millis(1), millis(8)),
        (125 * MIB, millis(30), millis(100)),
        (125 * MIB, millis(200), millis(600)),
        (MIB, millis(40), millis(550)),
    ] {
        let mut path = Path::new(rate, min_rtt);
        let mut limiter = InFlightLimiter::default();
        path.fill(&mut limiter, Duration::from_secs(15));
        // The first and the fourth minute.
        for _ in 0..2 {
            (path.starved, path.max_queued) = Default::default();
            path.fill(&mut limiter, Duration::from_secs(60));
            let (starved, queued) = (path.starved, path.max_queued);
            let whole = Duration::from_secs(60);
            assert!(starved < whole / 30, "{rate} {min_rtt:?}: {starved:?}");
            assert!(queued <= queue, "{rate} {min_rtt:?}: {queued:?}");
            path.fill(&mut limiter, Duration::from_secs(120));
        }
    }
}

#[test]
fn slow_start_is_not_limited() {
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
            let mut limiter = InFlightLimiter::default();
            path.fill(&mut limiter, Duration::from_secs(10));
            assert_eq!(limiter.window.is_some(), answers_pings);
            path.starved
        });
        assert!(
            with <= without + Duration::from_millis(millis / 10),
            "{rate} {millis}: {with:?}, else {without:?}"
        );
    }
}

#[test]
fn closed_window_always_has_a_deadline() {
    let mut random = StdRng::seed_from_u64(1);
    for _ in 0..200 {
        let mut limiter = InFlightLimiter::default();
        let mut now = Timestamp::START;
        let mut waiting = VecDeque::new();
        for _ in 0..2000 {
            now += Duration::from_micros(1 << random.random_range(0..24));
            if limiter.is_open() {
                let count = random.random_range(1..=FRAME);
                waiting.extend(limiter.on_send(count, now));
            } else {
                assert!(limiter.probe_deadline().is_some());
            }
            match random.random_range(0..10) {
                0..3 => {
                    let answer = waiting.pop_front();
                    assert!(answer.is_none_or(|id| limiter.on_pong(id, now)));
                }
                3 if limiter.probe_deadline().is_some_and(|end| end <= now) => {
                    limiter.on_probe_timeout()
                }
                // A long silence: samples expire.
                4 if random.random_bool(0.01) => now += 2 * PROBE_LOST_AFTER,
                _ => {}
            }
        }
    }
}

#[test]
fn longer_path_is_filled_again() {
    let mut path = Path::new(50 * MIB, Duration::from_millis(20));
    let mut limiter = InFlightLimiter::default();
    path.fill(&mut limiter, Duration::from_secs(100));
    path.min_rtt = Duration::from_millis(200);
    let at_once = path.fill(&mut limiter, Duration::from_secs(10)) / 10;
    assert!(at_once > 2 * MIB, "{at_once}");
    path.fill(&mut limiter, PROBE_RTT_INTERVAL_CONGESTED);
    let later = path.fill(&mut limiter, Duration::from_secs(10)) / 10;
    assert!(later > 45 * MIB, "{later}");
}

#[test]
fn silent_peer_is_not_limited() {
    let mut path = Path::new(50 * MIB, Duration::from_millis(20));
    path.answers_pings = false;
    let mut limiter = InFlightLimiter::default();
    path.fill(&mut limiter, Duration::from_secs(1));
    assert!(limiter.is_open());
    assert!(limiter.probes.len() <= MAX_OUTSTANDING_PROBES);

    // A peer that has answered before is waited for until the probe timeout.
    let mut path = Path::new(50 * MIB, Duration::from_millis(20));
    let mut limiter = InFlightLimiter::default();
    path.fill(&mut limiter, Duration::from_secs(1));
    path.answers_pings = false;
    let sent = path.fill(&mut limiter, Duration::from_secs(20));
    assert!(sent > 700 * MIB, "{sent}");
    assert_eq!(limiter.window, None);
}

#[test]
fn unknown_pong_is_not_a_probe_answer() {
    let mut limiter = InFlightLimiter::default();
    while limiter.on_send(FRAME, Timestamp::START).is_none() {}
    assert!(!limiter.on_pong(ChannelId([7; 16]), Timestamp::START));
    assert!(!limiter.on_pong(id(1), Timestamp::START));
    assert!(limiter.on_pong(id(0), Timestamp::START));
    assert!(!limiter.on_pong(id(0), Timestamp::START));
}

#[test]
fn slower_path_regains_a_short_queue() {
    let mut path = Path::new(10 * MIB, Duration::from_millis(100));
    path.room = Some(6 * MIB);
    let mut limiter = InFlightLimiter::default();
    path.fill(&mut limiter, Duration::from_secs(20));
    path.rate = MIB / 4;
    path.fill(&mut limiter, Duration::from_secs(60));
    path.max_queued = Duration::ZERO;
    path.fill(&mut limiter, Duration::from_secs(20));
    // The least that is measured is what 128 KiB take, and the window is three times that.
    let queued = path.max_queued;
    assert!(queued < Duration::from_millis(1500), "{queued:?}");
}

#[test]
fn congested_return_path_does_not_starve_the_sender() {
    let mut path = Path::new(12 * MIB, Duration::from_millis(30));
    let mut limiter = InFlightLimiter::default();
    path.fill(&mut limiter, Duration::from_secs(20));
    for back in [500, 2000] {
        path.back = Duration::from_millis(back);
        path.fill(&mut limiter, 2 * PROBE_RTT_INTERVAL);
        let later = path.fill(&mut limiter, Duration::from_secs(60)) / 60;
        assert!(later > 10 * MIB, "{back}: {later}");
    }
    path.back = Duration::ZERO;
    path.fill(&mut limiter, Duration::from_secs(300));
    path.max_queued = Duration::ZERO;
    path.fill(&mut limiter, Duration::from_secs(10));
    let queued = path.max_queued;
    assert!(queued < Duration::from_millis(120), "{queued:?}");
}

/// Sends until a probe is due, and answers it.
fn exchange(limiter: &mut InFlightLimiter, sent: Duration, acked: Duration) {
    let at = Timestamp::after_start;
    let before = limiter.sent;
    let probe = loop {
        if let Some(id) = limiter.on_send(FRAME, at(sent)) {
            break id;
        }
        assert!(limiter.sent - before <= MAX_PROBE_SPACING, "no probe");
    };
    assert!(limiter.on_pong(probe, at(acked)));
}

#[test]
fn zero_elapsed_answer_is_not_a_sample() {
    let mut limiter = InFlightLimiter::default();
    let millis = Duration::from_millis;
    exchange(&mut limiter, millis(0), millis(30));
    let (size, min_rtt) = (limiter.window, limiter.min_rtt);
    exchange(&mut limiter, millis(50), millis(50));
    assert_eq!((limiter.window, limiter.min_rtt), (size, min_rtt));
    assert_eq!(limiter.acked, limiter.sent, "but the peer has acked");
}

#[test]
fn extreme_samples_still_allow_the_next_probe() {
    let mut limiter = InFlightLimiter::default();
    let nanos = Duration::from_nanos;
    let mut at = nanos(0);
    for took in [
        200_000_000,
        1,
        200_000_000,
        1_000_000_000_000,
        1,
        u64::MAX / 2,
    ] {
        at += nanos(took) + Duration::from_secs(70);
        exchange(&mut limiter, at, at + nanos(took));
    }
}

#[test]
fn probing_resumes_after_lost_probes() {
    let mut limiter = InFlightLimiter::default();
    let mut now = Timestamp::START;
    let mut lost = 0;
    while lost < MAX_OUTSTANDING_PROBES {
        lost += usize::from(limiter.on_send(FRAME, now).is_some());
    }
    assert!((0..1000).all(|_| limiter.on_send(FRAME, now).is_none()));
    now += PROBE_LOST_AFTER;
    let probe = limiter.on_send(FRAME, now).unwrap();
    assert!(limiter.on_pong(probe, now + Duration::from_millis(5)));
    assert!(limiter.window.is_some());
}

#[test]
fn max_bandwidth_expires_after_two_windows() {
    let mut max_bandwidth = MaxBandwidth::<5000>::default();
    let mut update = |seconds, value| {
        let now = Timestamp::after_start(Duration::from_secs(seconds));
        max_bandwidth.update(value, now)
    };
    assert_eq!(update(1, 9), 9);
    assert_eq!(update(6, 3), 9);
    assert_eq!(update(10, 4), 9);
    assert_eq!(update(11, 1), 4);
    assert_eq!(update(3600, 2), 2);
}
