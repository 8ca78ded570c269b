//! What the window makes of paths of all kinds.

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
    /// How much longer answers take, which wait on a way back that is full.
    back: Duration,
    /// What the two systems hold, if it is not what a large buffer adds to the path.
    room: Option<u64>,
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
            back: Duration::ZERO,
            room: None,
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
            return self.room.unwrap_or(2 * path + 8 * MIB);
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
                    self.answers.push_back((known + self.back, id));
                }
                // What the sender's own link takes: twice as fast as the path.
                self.now += takes / 2;
            } else {
                let end = window.patience_ends().expect("a closed window has an end");
                if let Some((at, id)) = self.answers.pop_front_if(|(at, _)| *at <= end) {
                    self.now = self.now.max(at);
                    assert!(window.answered(id, self.now));
                } else {
                    self.now = self.now.max(end);
                    window.give_up();
                }
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
        // The first minute, and the fourth.
        for _ in 0..2 {
            (path.starved, path.most_queued) = Default::default();
            path.fill(&mut window, Duration::from_secs(60));
            let (starved, queued) = (path.starved, path.most_queued);
            let whole = Duration::from_secs(60);
            assert!(starved < whole / 30, "{rate} {round_trip:?}: {starved:?}");
            assert!(queued <= queue, "{rate} {round_trip:?}: {queued:?}");
            path.fill(&mut window, Duration::from_secs(120));
        }
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
                4 if random.random_bool(0.01) => now += 2 * LOST,
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
    path.fill(&mut window, LOOK_LATE);
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

#[test]
fn a_path_that_becomes_slower_has_a_short_queue_again() {
    let mut path = Path::new(10 * MIB, Duration::from_millis(100));
    path.room = Some(6 * MIB);
    let mut window = Window::default();
    path.fill(&mut window, Duration::from_secs(20));
    path.rate = MIB / 4;
    path.fill(&mut window, Duration::from_secs(60));
    path.most_queued = Duration::ZERO;
    path.fill(&mut window, Duration::from_secs(20));
    // The least that is under way takes two seconds.
    let queued = path.most_queued;
    assert!(queued < Duration::from_secs(3), "{queued:?}");
}

#[test]
fn answers_that_wait_on_the_way_back_do_not_keep_the_way_there_empty() {
    let mut path = Path::new(12 * MIB, Duration::from_millis(30));
    let mut window = Window::default();
    path.fill(&mut window, Duration::from_secs(20));
    for back in [500, 2000] {
        path.back = Duration::from_millis(back);
        path.fill(&mut window, 2 * LOOK);
        let later = path.fill(&mut window, Duration::from_secs(60)) / 60;
        assert!(later > 10 * MIB, "{back}: {later}");
    }
    path.back = Duration::ZERO;
    path.fill(&mut window, Duration::from_secs(300));
    path.most_queued = Duration::ZERO;
    path.fill(&mut window, Duration::from_secs(10));
    let queued = path.most_queued;
    assert!(queued < Duration::from_millis(120), "{queued:?}");
}

/// Sends until a probe goes along, and answers it.
fn exchange(window: &mut Window, sent: Duration, read: Duration) {
    let at = Moment::after_start;
    let before = window.sent;
    let probe = loop {
        if let Some(id) = window.send(FRAME, at(sent)) {
            break id;
        }
        assert!(window.sent - before <= MOST_BETWEEN, "no probe");
    };
    assert!(window.answered(probe, at(read)));
}

#[test]
fn an_answer_by_the_same_look_at_the_clock_is_no_measurement() {
    let mut window = Window::default();
    let millis = Duration::from_millis;
    exchange(&mut window, millis(0), millis(30));
    let (size, round_trip) = (window.size, window.round_trip);
    exchange(&mut window, millis(50), millis(50));
    assert_eq!((window.size, window.round_trip), (size, round_trip));
    assert_eq!(window.read, window.sent, "but the peer has read");
}

#[test]
fn whatever_is_measured_there_is_another_probe() {
    let mut window = Window::default();
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
        exchange(&mut window, at, at + nanos(took));
    }
}

#[test]
fn who_answers_again_is_measured_again() {
    let mut window = Window::default();
    let mut now = Moment::START;
    let mut lost = 0;
    while lost < MAX_PROBES {
        lost += usize::from(window.send(FRAME, now).is_some());
    }
    assert!((0..1000).all(|_| window.send(FRAME, now).is_none()));
    now += LOST;
    let probe = window.send(FRAME, now).unwrap();
    assert!(window.answered(probe, now + Duration::from_millis(5)));
    assert!(window.size.is_some());
}

#[test]
fn a_measurement_is_forgotten_after_twice_its_age() {
    let mut fastest = Fastest::default();
    let mut note = |seconds, value| {
        let now = Moment::after_start(Duration::from_secs(seconds));
        fastest.note(value, now)
    };
    assert_eq!(note(1, 9), 9);
    assert_eq!(note(6, 3), 9);
    assert_eq!(note(10, 4), 9);
    assert_eq!(note(11, 1), 4);
    assert_eq!(note(3600, 2), 2);
}
