//! One test per rule on virtual time, then random schedules.

use rand::RngExt;

use super::*;

const HOUR: Duration = Duration::from_secs(3_600);

fn serial(number: u32) -> CertificateSerial {
    number.to_string().parse().unwrap()
}

fn desired(number: u32) -> Event {
    Event::Desired(Some(serial(number)))
}

struct Harness {
    core: Core,
    now: Duration,
}

impl Harness {
    /// Online, with certificate 1.
    fn online() -> Self {
        let mut harness = Self {
            core: Core::new(serial(1), 7),
            now: Duration::ZERO,
        };
        assert_eq!(harness.step(desired(1)), []);
        assert_eq!(harness.step(Event::Online(true)), [], "in use already");
        harness
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        self.core.handle_event(self.now, event)
    }

    /// Returns the actions of a step: at once, or when the rate limit permits them.
    fn step_when_due(&mut self, event: Event) -> Vec<Action> {
        let actions = self.step(event);
        let waits = |progress| {
            matches!(
                progress,
                RotationProgress::Waiting {
                    why: Wait::RateLimit,
                    ..
                }
            )
        };
        if actions.is_empty() && waits(self.core.progress()) {
            return self.wake().1;
        }
        actions
    }

    /// Advances time to the next timeout and runs it.
    fn wake(&mut self) -> (Duration, Vec<Action>) {
        let wake = self.core.poll_timeout().expect("a timeout is set");
        let waited = wake - self.now;
        self.now = wake;
        (waited, self.step(Event::Tick))
    }
}

fn request(number: u32) -> Action {
    Action::Request(serial(number))
}

#[test]
fn desired_certificate_is_requested_and_installed_once() {
    let mut harness = Harness::online();
    assert_eq!(harness.step(desired(2)), [request(2)]);
    assert_eq!(harness.step(desired(2)), [], "already requested");
    assert_eq!(harness.step(Event::Response(Ok(()))), []);
    assert_eq!(harness.core.poll_timeout(), None);
    assert_eq!(harness.step(Event::Installed(Ok(()))), []);
    assert_eq!(harness.step(Event::Online(false)), []);
    assert_eq!(harness.step(Event::Online(true)), []);
    assert_eq!(harness.core.poll_timeout(), None);
}

#[test]
fn no_request_while_offline_and_loss_retries() {
    let mut harness = Harness::online();
    harness.step(Event::Online(false));
    assert_eq!(harness.step(desired(2)), []);
    assert_eq!(harness.step(Event::Online(true)), [request(2)]);
    let cancelled = Action::Cancel { timed_out: false };
    assert_eq!(harness.step(Event::Online(false)), [cancelled]);
    assert_eq!(
        harness.step(Event::Response(Ok(()))),
        [],
        "not desired any more"
    );
    assert_eq!(harness.step_when_due(Event::Online(true)), [request(2)]);
}

/// A broker ends a session for a request that its policy forbids. Other uses of the session must be
/// possible.
#[test]
fn backs_off_when_session_ends_with_each_request() {
    let mut harness = Harness::online();
    assert_eq!(harness.step(desired(2)), [request(2)]);
    let mut delays = Vec::new();
    for _ in 0..12 {
        let cancelled = Action::Cancel { timed_out: false };
        assert_eq!(harness.step(Event::Online(false)), [cancelled]);
        let lost = harness.now;
        let mut actions = harness.step(Event::Online(true));
        while actions.is_empty() {
            actions = harness.wake().1;
        }
        assert_eq!(actions, [request(2)]);
        delays.push(harness.now - lost);
    }
    assert_eq!(
        delays[0],
        Duration::from_secs(2),
        "once may be a coincidence"
    );
    // The delay of the rate limit.
    let longest = Duration::from_secs(15 * 60);
    assert!(
        delays[11] >= longest / 2 && delays[11] <= longest,
        "{delays:?}"
    );
    // Later, another desired certificate is another request.
    harness.now += HOUR * 3;
    let cancelled = Action::Cancel { timed_out: false };
    let cancelled = [cancelled];
    assert_eq!(harness.step(Event::Online(false)), cancelled);
    assert_eq!(harness.step(desired(3)), []);
    assert_eq!(harness.step(Event::Online(true)), [request(3)]);
    assert_eq!(harness.step(Event::Online(false)), cancelled);
    assert_eq!(harness.step(Event::Online(true)), []);
    assert_eq!(harness.wake(), (Duration::from_secs(2), vec![request(3)]));
}

#[test]
fn failures_retry_with_backoff() {
    let mut harness = Harness::online();
    harness.step(desired(2));
    let mut delays = Vec::new();
    for round in 0..12 {
        if round % 2 == 0 {
            assert_eq!(harness.step(Event::Response(Err(()))), []);
        } else {
            harness.step(Event::Response(Ok(())));
            assert_eq!(harness.step(Event::Installed(Err(()))), []);
        }
        let failed = harness.now;
        let mut actions = Vec::new();
        while actions.is_empty() {
            actions = harness.wake().1;
        }
        assert_eq!(actions, [request(2)]);
        delays.push(harness.now - failed);
    }
    assert!(
        delays[0] <= Duration::from_secs(30) && delays[11] >= HOUR / 2 && delays[11] <= HOUR,
        "{delays:?}"
    );
}

#[test]
fn request_times_out_after_a_minute() {
    let mut harness = Harness::online();
    harness.step(desired(2));
    let (after, actions) = harness.wake();
    assert_eq!(after, RESPONSE_TIMEOUT);
    assert_eq!(actions, [Action::Cancel { timed_out: true }]);
    assert_eq!(harness.wake().1, [request(2)]);
}

#[test]
fn newer_desired_replaces_request_or_wait() {
    let mut harness = Harness::online();
    harness.step(desired(2));
    let cancelled = Action::Cancel { timed_out: false };
    let cancelled = [cancelled];
    assert_eq!(harness.step(desired(3)), cancelled);
    assert_eq!(harness.wake(), (Duration::from_secs(2), vec![request(3)]));
    harness.step(Event::Response(Err(())));
    assert_eq!(harness.step(desired(4)), []);
    assert_eq!(harness.wake(), (Duration::from_secs(4), vec![request(4)]));
    // The certificate in use is desired again.
    assert_eq!(harness.step(desired(1)), cancelled);
    assert_eq!(harness.core.poll_timeout(), None);
}

#[test]
fn desired_in_use_ends_attempts_for_another() {
    let mut harness = Harness::online();
    harness.step(desired(2));
    assert_eq!(harness.step(Event::Response(Err(()))), []);
    assert_eq!(harness.step(desired(1)), []);
    assert_eq!(harness.core.poll_timeout(), None);
    harness.now += HOUR;
    assert_eq!(harness.step(Event::Tick), []);
}

#[test]
fn desired_during_install_is_requested_after_it() {
    for result in [Ok(()), Err(())] {
        let mut harness = Harness::online();
        harness.step(desired(2));
        harness.step(Event::Response(Ok(())));
        assert_eq!(harness.step(Event::Online(false)), [], "never cancelled");
        assert_eq!(harness.step(Event::Online(true)), []);
        assert_eq!(harness.step(desired(3)), []);
        assert_eq!(
            harness.step_when_due(Event::Installed(result)),
            [request(3)]
        );
    }
}

#[test]
fn withdrawing_desired_during_install_requests_nothing() {
    for result in [Ok(()), Err(())] {
        let mut harness = Harness::online();
        harness.step(desired(2));
        harness.step(Event::Response(Ok(())));
        assert_eq!(harness.step(Event::Desired(None)), []);
        assert_eq!(harness.step(Event::Installed(result)), []);
        assert_eq!(harness.core.poll_timeout(), None);
    }
}

#[test]
fn old_certificate_desired_during_install_is_requested() {
    let mut harness = Harness::online();
    harness.step(desired(2));
    harness.step(Event::Response(Ok(())));
    assert_eq!(harness.step(desired(1)), []);
    assert_eq!(
        harness.step_when_due(Event::Installed(Ok(()))),
        [request(1)]
    );
    // The order of the events does not matter.
    harness.step(Event::Response(Err(())));
    assert_eq!(harness.step(Event::Desired(None)), []);
    assert_eq!(harness.core.poll_timeout(), None);
    assert_eq!(harness.step_when_due(desired(1)), [request(1)]);
}

#[test]
fn withdrawing_desired_cancels_request_or_wait() {
    let mut harness = Harness::online();
    harness.step(desired(2));
    let cancelled = Action::Cancel { timed_out: false };
    assert_eq!(harness.step(Event::Desired(None)), [cancelled]);
    assert_eq!(harness.step_when_due(desired(2)), [request(2)]);
    harness.step(Event::Response(Err(())));
    assert_eq!(harness.step(Event::Desired(None)), []);
    assert_eq!(harness.core.poll_timeout(), None);
}

/// Completes requests and installations at once, while another certificate is desired each second,
/// up to `last`. Returns the times and serial numbers of the requests.
fn flood(harness: &mut Harness, last: u32, good: bool) -> Vec<(Duration, CertificateSerial)> {
    let mut requests = Vec::new();
    let mut actions = Vec::new();
    for number in 2..=last {
        actions.extend(harness.step(desired(number)));
        let second = harness.now + Duration::from_secs(1);
        loop {
            for action in std::mem::take(&mut actions) {
                let Action::Request(serial) = action else {
                    continue;
                };
                requests.push((harness.now, serial));
                if good {
                    harness.step(Event::Response(Ok(())));
                    harness.step(Event::Installed(Ok(())));
                } else {
                    harness.step(Event::Response(Err(())));
                }
            }
            match harness.core.poll_timeout().filter(|wake| *wake < second) {
                Some(_) => actions = harness.wake().1,
                None => break,
            }
        }
        harness.now = second;
    }
    requests
}

#[test]
fn burst_of_20_ends_with_newest_in_few_requests() {
    let mut harness = Harness::online();
    assert_eq!(harness.step(desired(2)), [request(2)]);
    for number in 3..=21 {
        harness.now += Duration::from_millis(50);
        let actions = harness.step(desired(number));
        assert!(!actions.contains(&request(number)), "{actions:?}");
    }
    assert_eq!(
        harness.core.progress(),
        RotationProgress::Waiting {
            serial: serial(21),
            until: Duration::from_secs(2),
            why: Wait::RateLimit,
        }
    );
    assert_eq!(harness.wake().1, [request(21)]);
    assert_eq!(harness.now, Duration::from_secs(2));
    assert_eq!(
        harness.core.progress(),
        RotationProgress::Active(serial(21))
    );
    harness.step(Event::Response(Ok(())));
    harness.step(Event::Installed(Ok(())));
    assert_eq!(harness.core.progress(), RotationProgress::Idle);
    assert_eq!(harness.core.poll_timeout(), None);
}

#[test]
fn second_rotation_follows_within_seconds() {
    let mut harness = Harness::online();
    for number in [2, 3] {
        assert_eq!(harness.step(desired(number)), [request(number)]);
        harness.step(Event::Response(Ok(())));
        harness.step(Event::Installed(Ok(())));
        harness.now += Duration::from_secs(2);
    }
}

/// Valid or invalid responses: other certificates are desired all the time, so neither causes an
/// immediate request.
#[test]
fn flood_is_rate_limited_and_newest_wins() {
    for good in [true, false] {
        let mut harness = Harness::online();
        let requests = flood(&mut harness, 86_400, good);
        let early = |limit: u64| {
            requests
                .iter()
                .filter(|(at, _)| *at < Duration::from_secs(limit))
                .count()
        };
        assert_eq!((early(15), early(300), early(3_600)), (4, 8, 13), "{good}");
        assert!(requests.len() <= 110, "{good}: {}", requests.len());
        // The last desired certificate.
        let (_, actions) = harness.wake();
        assert_eq!(actions, [request(86_400)], "{good}");
        assert!(harness.now < Duration::from_secs(86_400 + 900), "{good}");
    }
}

#[test]
fn alternating_desired_is_rate_limited() {
    let mut harness = Harness::online();
    let mut requests = 0;
    for round in 0..600 {
        let actions = harness.step(desired(1 + round % 2));
        requests += usize::from(actions.contains(&request(2)));
        harness.now += Duration::from_secs(1);
    }
    assert!((1..=9).contains(&requests), "{requests}");
}

#[test]
fn progress_shows_offline_and_failure() {
    let mut harness = Harness::online();
    harness.step(Event::Online(false));
    harness.step(desired(2));
    assert_eq!(
        harness.core.progress(),
        RotationProgress::Pending(serial(2))
    );
    harness.step(Event::Online(true));
    harness.step(Event::Response(Err(())));
    let progress = harness.core.progress();
    assert!(
        matches!(
            progress,
            RotationProgress::Waiting {
                why: Wait::Failure,
                ..
            }
        ),
        "{progress:?}"
    );
    harness.step(Event::Desired(None));
    assert_eq!(harness.core.progress(), RotationProgress::Idle);
}

#[test]
fn random_schedules_converge_to_latest_certificate() {
    for seed in 0..500 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut harness = Harness::online();
        let mut requesting: Option<CertificateSerial> = None;
        let (mut installing, mut in_use) = (None, serial(1));
        let mut desired = Some(serial(1));
        for round in 0..600 {
            let no_faults = round >= 400;
            let event = match rng.random_range(0..6) {
                0 if !no_faults => Event::Online(rng.random()),
                1 if !no_faults => {
                    let number = rng.random_range(0..5);
                    desired = (number > 0).then(|| serial(number));
                    Event::Desired(desired.clone())
                }
                _ if no_faults && round == 400 => Event::Online(true),
                2 | 3 if requesting.is_some() => {
                    let good = no_faults || rng.random();
                    let requested = requesting.take();
                    if good {
                        installing = requested;
                    }
                    Event::Response(if good { Ok(()) } else { Err(()) })
                }
                2..=4 if installing.is_some() => {
                    let good = no_faults || rng.random();
                    let installed = installing.take();
                    if let (true, Some(serial)) = (good, installed) {
                        in_use = serial;
                    }
                    Event::Installed(if good { Ok(()) } else { Err(()) })
                }
                _ => {
                    harness.now += Duration::from_secs(rng.random_range(0..600));
                    Event::Tick
                }
            };
            for action in harness.step(event) {
                match action {
                    Action::Request(serial) => {
                        assert_eq!(Some(&serial), desired.as_ref(), "seed {seed}");
                        assert_ne!(serial, in_use, "seed {seed}");
                        assert!(installing.is_none() && requesting.replace(serial).is_none());
                    }
                    Action::Cancel { .. } => assert!(requesting.take().is_some(), "seed {seed}"),
                }
            }
            let wake = harness.core.poll_timeout();
            assert!(wake.is_none_or(|wake| wake > harness.now), "it would spin");
        }
        // Any certificate if none is desired.
        let wanted = desired.unwrap_or_else(|| in_use.clone());
        assert_eq!(in_use, wanted, "seed {seed}: {:?}", harness.core);
    }
}
