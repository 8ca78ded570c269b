//! One test for each rule, on a clock that is moved by hand; then random schedules.

use rand::RngExt;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn serial(number: u32) -> CertificateSerial {
    number.to_string().parse().unwrap()
}

fn wish(number: u32) -> Event {
    Event::Desired(Some(serial(number)))
}

struct Bench {
    planner: Planner,
    now: Duration,
}

impl Bench {
    /// Online, with certificate 1.
    fn online() -> Self {
        let mut bench = Self {
            planner: Planner::new(serial(1), 7),
            now: Duration::ZERO,
        };
        assert_eq!(bench.step(wish(1)), []);
        assert_eq!(bench.step(Event::Online(true)), [], "in use already");
        bench
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        self.planner.step(self.now, event)
    }

    /// What a step does: at once, or when the rate limit permits it.
    fn step_when_due(&mut self, event: Event) -> Vec<Action> {
        let actions = self.step(event);
        let waits = |progress| {
            matches!(
                progress,
                Progress::Waiting {
                    why: Wait::RateLimit,
                    ..
                }
            )
        };
        if actions.is_empty() && waits(self.planner.progress()) {
            return self.wake().1;
        }
        actions
    }

    /// Waits until the planner wants to be called, and calls it.
    fn wake(&mut self) -> (Duration, Vec<Action>) {
        let wake = self.planner.next_wake().expect("something is awaited");
        let waited = wake - self.now;
        self.now = wake;
        (waited, self.step(Event::Tick))
    }
}

fn request(number: u32) -> Action {
    Action::Request(serial(number))
}

#[test]
fn a_wished_for_certificate_is_asked_for_installed_and_then_left_alone() {
    let mut bench = Bench::online();
    assert_eq!(bench.step(wish(2)), [request(2)]);
    assert_eq!(bench.step(wish(2)), [], "asked already");
    assert_eq!(bench.step(Event::Answered(Ok(()))), []);
    assert_eq!(bench.planner.next_wake(), None);
    assert_eq!(bench.step(Event::Installed(Ok(()))), []);
    assert_eq!(bench.step(Event::Online(false)), []);
    assert_eq!(bench.step(Event::Online(true)), []);
    assert_eq!(bench.planner.next_wake(), None);
}

#[test]
fn nothing_is_asked_while_offline_and_a_loss_asks_anew() {
    let mut bench = Bench::online();
    bench.step(Event::Online(false));
    assert_eq!(bench.step(wish(2)), []);
    assert_eq!(bench.step(Event::Online(true)), [request(2)]);
    let abandoned = Action::Abandon { timed_out: false };
    assert_eq!(bench.step(Event::Online(false)), [abandoned]);
    assert_eq!(
        bench.step(Event::Answered(Ok(()))),
        [],
        "not wanted any more"
    );
    assert_eq!(bench.step_when_due(Event::Online(true)), [request(2)]);
}

/// A broker ends a session for a request that its rules forbid. Other uses of the session must get their time.
#[test]
fn a_session_that_ends_with_each_request_is_spared_more_and_more() {
    let mut bench = Bench::online();
    assert_eq!(bench.step(wish(2)), [request(2)]);
    let mut delays = Vec::new();
    for _ in 0..12 {
        let abandoned = Action::Abandon { timed_out: false };
        assert_eq!(bench.step(Event::Online(false)), [abandoned]);
        let lost = bench.now;
        let mut actions = bench.step(Event::Online(true));
        while actions.is_empty() {
            actions = bench.wake().1;
        }
        assert_eq!(actions, [request(2)]);
        delays.push(bench.now - lost);
    }
    assert_eq!(delays[0], Duration::from_secs(2), "once may be chance");
    // The rate limit's.
    let longest = Duration::from_secs(15 * 60);
    assert!(
        delays[11] >= longest / 2 && delays[11] <= longest,
        "{delays:?}"
    );
    // After a time of calm, another wish is another request.
    bench.now += HOUR * 3;
    let abandoned = Action::Abandon { timed_out: false };
    let abandoned = [abandoned];
    assert_eq!(bench.step(Event::Online(false)), abandoned);
    assert_eq!(bench.step(wish(3)), []);
    assert_eq!(bench.step(Event::Online(true)), [request(3)]);
    assert_eq!(bench.step(Event::Online(false)), abandoned);
    assert_eq!(bench.step(Event::Online(true)), []);
    assert_eq!(bench.wake(), (Duration::from_secs(2), vec![request(3)]));
}

#[test]
fn failures_are_tried_again_with_growing_delays() {
    let mut bench = Bench::online();
    bench.step(wish(2));
    let mut delays = Vec::new();
    for round in 0..12 {
        if round % 2 == 0 {
            assert_eq!(bench.step(Event::Answered(Err(()))), []);
        } else {
            bench.step(Event::Answered(Ok(())));
            assert_eq!(bench.step(Event::Installed(Err(()))), []);
        }
        let failed = bench.now;
        let mut actions = Vec::new();
        while actions.is_empty() {
            actions = bench.wake().1;
        }
        assert_eq!(actions, [request(2)]);
        delays.push(bench.now - failed);
    }
    assert!(
        delays[0] <= Duration::from_secs(30) && delays[11] >= HOUR / 2 && delays[11] <= HOUR,
        "{delays:?}"
    );
}

#[test]
fn an_answer_is_waited_for_a_minute() {
    let mut bench = Bench::online();
    bench.step(wish(2));
    let (after, actions) = bench.wake();
    assert_eq!(after, ANSWER_LIMIT);
    assert_eq!(actions, [Action::Abandon { timed_out: true }]);
    assert_eq!(bench.wake().1, [request(2)]);
}

#[test]
fn a_newer_wish_replaces_the_request_or_the_wait_for_it() {
    let mut bench = Bench::online();
    bench.step(wish(2));
    let abandoned = Action::Abandon { timed_out: false };
    let abandoned = [abandoned];
    assert_eq!(bench.step(wish(3)), abandoned);
    assert_eq!(bench.wake(), (Duration::from_secs(2), vec![request(3)]));
    bench.step(Event::Answered(Err(())));
    assert_eq!(bench.step(wish(4)), []);
    assert_eq!(bench.wake(), (Duration::from_secs(4), vec![request(4)]));
    // What is in use is wished for again.
    assert_eq!(bench.step(wish(1)), abandoned);
    assert_eq!(bench.planner.next_wake(), None);
}

#[test]
fn a_wish_for_what_is_in_use_ends_the_attempts_for_another() {
    let mut bench = Bench::online();
    bench.step(wish(2));
    assert_eq!(bench.step(Event::Answered(Err(()))), []);
    assert_eq!(bench.step(wish(1)), []);
    assert_eq!(bench.planner.next_wake(), None);
    bench.now += HOUR;
    assert_eq!(bench.step(Event::Tick), []);
}

#[test]
fn a_wish_during_an_installation_is_served_after_it() {
    for result in [Ok(()), Err(())] {
        let mut bench = Bench::online();
        bench.step(wish(2));
        bench.step(Event::Answered(Ok(())));
        assert_eq!(bench.step(Event::Online(false)), [], "never cut short");
        assert_eq!(bench.step(Event::Online(true)), []);
        assert_eq!(bench.step(wish(3)), []);
        assert_eq!(bench.step_when_due(Event::Installed(result)), [request(3)]);
    }
}

#[test]
fn a_wish_that_goes_during_an_installation_asks_for_nothing_after_it() {
    for result in [Ok(()), Err(())] {
        let mut bench = Bench::online();
        bench.step(wish(2));
        bench.step(Event::Answered(Ok(())));
        assert_eq!(bench.step(Event::Desired(None)), []);
        assert_eq!(bench.step(Event::Installed(result)), []);
        assert_eq!(bench.planner.next_wake(), None);
    }
}

#[test]
fn a_wish_for_the_old_certificate_during_an_installation_is_a_wish() {
    let mut bench = Bench::online();
    bench.step(wish(2));
    bench.step(Event::Answered(Ok(())));
    assert_eq!(bench.step(wish(1)), []);
    assert_eq!(bench.step_when_due(Event::Installed(Ok(()))), [request(1)]);
    // And so it is when that is told later.
    bench.step(Event::Answered(Err(())));
    assert_eq!(bench.step(Event::Desired(None)), []);
    assert_eq!(bench.planner.next_wake(), None);
    assert_eq!(bench.step_when_due(wish(1)), [request(1)]);
}

#[test]
fn a_wish_that_goes_ends_the_request_or_the_wait_for_it() {
    let mut bench = Bench::online();
    bench.step(wish(2));
    let abandoned = Action::Abandon { timed_out: false };
    assert_eq!(bench.step(Event::Desired(None)), [abandoned]);
    assert_eq!(bench.step_when_due(wish(2)), [request(2)]);
    bench.step(Event::Answered(Err(())));
    assert_eq!(bench.step(Event::Desired(None)), []);
    assert_eq!(bench.planner.next_wake(), None);
}

/// Answers and installs everything at once, while another certificate is named each second, up to `last`.
/// Returns when which certificates were requested.
fn flood(bench: &mut Bench, last: u32, good: bool) -> Vec<(Duration, CertificateSerial)> {
    let mut requests = Vec::new();
    let mut actions = Vec::new();
    for number in 2..=last {
        actions.extend(bench.step(wish(number)));
        let second = bench.now + Duration::from_secs(1);
        loop {
            for action in std::mem::take(&mut actions) {
                let Action::Request(serial) = action else {
                    continue;
                };
                requests.push((bench.now, serial));
                if good {
                    bench.step(Event::Answered(Ok(())));
                    bench.step(Event::Installed(Ok(())));
                } else {
                    bench.step(Event::Answered(Err(())));
                }
            }
            match bench.planner.next_wake().filter(|wake| *wake < second) {
                Some(_) => actions = bench.wake().1,
                None => break,
            }
        }
        bench.now = second;
    }
    requests
}

#[test]
fn burst_of_20_ends_with_newest_in_few_requests() {
    let mut bench = Bench::online();
    assert_eq!(bench.step(wish(2)), [request(2)]);
    for number in 3..=21 {
        bench.now += Duration::from_millis(50);
        let actions = bench.step(wish(number));
        assert!(!actions.contains(&request(number)), "{actions:?}");
    }
    assert_eq!(
        bench.planner.progress(),
        Progress::Waiting {
            serial: serial(21),
            until: Duration::from_secs(2),
            why: Wait::RateLimit,
        }
    );
    assert_eq!(bench.wake().1, [request(21)]);
    assert_eq!(bench.now, Duration::from_secs(2));
    assert_eq!(bench.planner.progress(), Progress::Active(serial(21)));
    bench.step(Event::Answered(Ok(())));
    bench.step(Event::Installed(Ok(())));
    assert_eq!(bench.planner.progress(), Progress::Idle);
    assert_eq!(bench.planner.next_wake(), None);
}

#[test]
fn second_rotation_follows_within_seconds() {
    let mut bench = Bench::online();
    for number in [2, 3] {
        assert_eq!(bench.step(wish(number)), [request(number)]);
        bench.step(Event::Answered(Ok(())));
        bench.step(Event::Installed(Ok(())));
        bench.now += Duration::from_secs(2);
    }
}

/// Good or unusable answers: other certificates are named all the time, so neither is a reason to ask at once.
#[test]
fn flood_is_requested_seldom_and_newest_wins() {
    for good in [true, false] {
        let mut bench = Bench::online();
        let requests = flood(&mut bench, 86_400, good);
        let early = |limit: u64| {
            requests
                .iter()
                .filter(|(at, _)| *at < Duration::from_secs(limit))
                .count()
        };
        assert_eq!((early(15), early(300), early(3_600)), (4, 8, 13), "{good}");
        assert!(requests.len() <= 110, "{good}: {}", requests.len());
        // The last one that was named.
        let (_, actions) = bench.wake();
        assert_eq!(actions, [request(86_400)], "{good}");
        assert!(bench.now < Duration::from_secs(86_400 + 900), "{good}");
    }
}

#[test]
fn named_back_and_forth_is_requested_seldom() {
    let mut bench = Bench::online();
    let mut requests = 0;
    for round in 0..600 {
        let actions = bench.step(wish(1 + round % 2));
        requests += usize::from(actions.contains(&request(2)));
        bench.now += Duration::from_secs(1);
    }
    assert!((1..=9).contains(&requests), "{requests}");
}

#[test]
fn progress_shows_offline_and_failure() {
    let mut bench = Bench::online();
    bench.step(Event::Online(false));
    bench.step(wish(2));
    assert_eq!(bench.planner.progress(), Progress::Pending(serial(2)));
    bench.step(Event::Online(true));
    bench.step(Event::Answered(Err(())));
    let progress = bench.planner.progress();
    assert!(
        matches!(
            progress,
            Progress::Waiting {
                why: Wait::Failure,
                ..
            }
        ),
        "{progress:?}"
    );
    bench.step(Event::Desired(None));
    assert_eq!(bench.planner.progress(), Progress::Idle);
}

#[test]
fn under_random_schedules_there_is_one_thing_at_a_time_and_calm_brings_the_newest() {
    for seed in 0..500 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bench = Bench::online();
        let mut asking: Option<CertificateSerial> = None;
        let (mut installing, mut in_use) = (None, serial(1));
        let mut desired = Some(serial(1));
        for round in 0..600 {
            let calm = round >= 400;
            let event = match rng.random_range(0..6) {
                0 if !calm => Event::Online(rng.random()),
                1 if !calm => {
                    let number = rng.random_range(0..5);
                    desired = (number > 0).then(|| serial(number));
                    Event::Desired(desired.clone())
                }
                _ if calm && round == 400 => Event::Online(true),
                2 | 3 if asking.is_some() => {
                    let good = calm || rng.random();
                    let asked = asking.take();
                    if good {
                        installing = asked;
                    }
                    Event::Answered(if good { Ok(()) } else { Err(()) })
                }
                2..=4 if installing.is_some() => {
                    let good = calm || rng.random();
                    let installed = installing.take();
                    if let (true, Some(serial)) = (good, installed) {
                        in_use = serial;
                    }
                    Event::Installed(if good { Ok(()) } else { Err(()) })
                }
                _ => {
                    bench.now += Duration::from_secs(rng.random_range(0..600));
                    Event::Tick
                }
            };
            for action in bench.step(event) {
                match action {
                    Action::Request(serial) => {
                        assert_eq!(Some(&serial), desired.as_ref(), "seed {seed}");
                        assert_ne!(serial, in_use, "seed {seed}");
                        assert!(installing.is_none() && asking.replace(serial).is_none());
                    }
                    Action::Abandon { .. } => assert!(asking.take().is_some(), "seed {seed}"),
                }
            }
            let wake = bench.planner.next_wake();
            assert!(wake.is_none_or(|wake| wake > bench.now), "it would spin");
        }
        // Whichever it is where nothing is wished for.
        let wanted = desired.unwrap_or_else(|| in_use.clone());
        assert_eq!(in_use, wanted, "seed {seed}: {:?}", bench.planner);
    }
}
