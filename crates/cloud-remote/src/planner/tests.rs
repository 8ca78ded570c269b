//! One test for each rule, on a clock that is moved by hand.

use super::*;

/// 2030-01-01: what the wall clock of these tests shows at the start.
const WALL: i64 = 1_893_456_000;
pub(super) const HOUR: u64 = 3_600;

/// A planner and its clocks.
pub(super) struct Bench {
    pub(super) planner: Planner,
    pub(super) elapsed: Duration,
    wall_error: i64,
    /// Whether nothing is open in the tunnel.
    pub(super) quiet: bool,
}

impl Bench {
    fn new() -> Self {
        Self {
            planner: Planner::new(7, Timing::default()),
            elapsed: Duration::ZERO,
            wall_error: 0,
            quiet: false,
        }
    }

    pub(super) fn online() -> (Self, Id) {
        let mut bench = Self::new();
        let actions = bench.step(Event::Messaging(true));
        let [Action::RequestToken(id)] = actions[..] else {
            panic!("{actions:?}")
        };
        (bench, id)
    }

    /// A bench whose tunnel is up with a token valid for `seconds`.
    pub(super) fn up(seconds: u64, single_use: bool) -> (Self, Id) {
        let (mut bench, id) = Self::online();
        let actions = bench.token(id, seconds, single_use);
        let [Action::KeepToken(_), Action::Connect(tunnel)] = actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(bench.step(Event::TunnelUp { id: tunnel }), []);
        (bench, tunnel)
    }

    pub(super) fn step(&mut self, event: Event) -> Vec<Action> {
        let unix = WALL + i64::try_from(self.elapsed.as_secs()).unwrap() + self.wall_error;
        self.planner.step(
            Now {
                elapsed: self.elapsed,
                unix,
                quiet: self.quiet,
            },
            event,
        )
    }

    pub(super) fn token(&mut self, id: Id, seconds: u64, single_use: bool) -> Vec<Action> {
        let valid = WALL + i64::try_from(self.elapsed.as_secs() + seconds).unwrap();
        self.step(Event::Token {
            id,
            result: Ok(TokenFacts { valid, single_use }),
        })
    }

    /// Lets time pass, waking the planner whenever it wishes, until something is to be done.
    pub(super) fn until_action(&mut self, limit: Duration) -> Option<(Duration, Vec<Action>)> {
        let (start, end) = (self.elapsed, self.elapsed + limit);
        loop {
            let wake = self.planner.next_wake();
            assert!(wake > self.elapsed, "a wake-up in the past never ends");
            if wake > end {
                self.elapsed = end;
                return None;
            }
            self.elapsed = wake;
            let actions = self.step(Event::Tick);
            if !actions.is_empty() {
                return Some((self.elapsed - start, actions));
            }
        }
    }

    pub(super) fn expect(&mut self, limit: Duration) -> (Duration, Vec<Action>) {
        self.until_action(limit)
            .expect("an action within the limit")
    }
}

pub(super) const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn nothing_is_asked_while_offline() {
    let mut bench = Bench::new();
    assert_eq!(bench.until_action(secs(24 * HOUR)), None);
}

#[test]
fn a_token_is_asked_for_at_once_and_the_tunnel_connects_at_once() {
    let (mut bench, _) = Bench::up(24 * HOUR, false);
    assert!(matches!(bench.planner.tunnel(), TunnelPhase::Up { .. }));
    assert_eq!(bench.until_action(secs(HOUR)), None);
}

#[test]
fn no_second_request_while_one_is_waited_for() {
    let (mut bench, _) = Bench::online();
    for _ in 0..10 {
        bench.elapsed += secs(5);
        assert_eq!(bench.step(Event::Messaging(true)), []);
        assert_eq!(bench.step(Event::Tick), []);
    }
}

#[test]
fn no_answer_in_a_minute_is_asked_again_with_growing_delays_and_a_new_id() {
    let (mut bench, first) = Bench::online();
    let (after, actions) = bench.expect(secs(120));
    assert_eq!(
        (after, actions),
        (
            ANSWER_LIMIT,
            vec![Action::AbandonToken {
                id: first,
                timed_out: true
            }]
        )
    );
    let mut delays = Vec::new();
    let mut ids = vec![first];
    for _ in 0..12 {
        let (delay, actions) = bench.expect(secs(600));
        let [Action::RequestToken(id)] = actions[..] else {
            panic!("{actions:?}")
        };
        assert!(!ids.contains(&id));
        ids.push(id);
        delays.push(delay);
        assert_eq!(
            bench.step(Event::Token {
                id,
                result: Err(())
            }),
            []
        );
    }
    assert!(delays[0] <= secs(5) && delays[4] >= secs(40), "{delays:?}");
    assert!(
        delays
            .iter()
            .all(|delay| *delay >= Duration::from_millis(2_500) && *delay <= secs(300)),
        "{delays:?}"
    );
}

#[test]
fn a_late_or_unasked_answer_changes_nothing() {
    let (mut bench, late) = Bench::online();
    bench.expect(secs(120));
    assert_eq!(bench.token(late, HOUR, false), []);
    let (_, actions) = bench.expect(secs(10));
    let [Action::RequestToken(current)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(bench.token(late, HOUR, false), []);
    assert_eq!(bench.token(Id(999), HOUR, false), []);
    assert!(matches!(
        bench.token(current, HOUR, false)[..],
        [Action::KeepToken(_), Action::Connect(_)]
    ));
    assert_eq!(
        bench.token(current, HOUR, false),
        [],
        "the second answer to one request"
    );
}

#[test]
fn losing_the_session_abandons_the_request_and_its_return_asks_anew() {
    let (mut bench, id) = Bench::online();
    assert_eq!(
        bench.step(Event::Messaging(false)),
        [Action::AbandonToken {
            id,
            timed_out: false
        }]
    );
    assert_eq!(bench.token(id, HOUR, false), []);
    assert!(
        matches!(bench.step(Event::Messaging(true))[..], [Action::RequestToken(new)] if new != id)
    );
}

#[test]
fn a_refresh_comes_fifteen_minutes_ahead_and_leaves_the_tunnel_alone() {
    let (mut bench, tunnel) = Bench::up(HOUR, false);
    let (after, actions) = bench.expect(secs(HOUR));
    assert_eq!(after, secs(HOUR) - Timing::default().refresh_before);
    let [Action::RequestToken(id)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(bench.token(id, HOUR, false), [Action::KeepToken(id)]);
    assert!(matches!(bench.planner.tunnel(), TunnelPhase::Up { id, .. } if id == tunnel));
}

#[test]
fn a_token_that_runs_out_while_offline_does_not_touch_the_tunnel() {
    let (mut bench, _) = Bench::up(HOUR, false);
    bench.step(Event::Messaging(false));
    let (_, actions) = bench.expect(secs(2 * HOUR));
    assert_eq!(actions, [Action::DropToken]);
    assert!(matches!(bench.planner.tunnel(), TunnelPhase::Up { .. }));
}

#[test]
fn a_wall_clock_that_is_ahead_neither_blocks_nor_loops() {
    let (mut bench, id) = Bench::online();
    bench.wall_error = 100 * i64::try_from(HOUR).unwrap();
    let actions = bench.token(id, 24 * HOUR, false);
    assert!(
        matches!(actions[..], [Action::ClockDoubted { left }, Action::KeepToken(_), Action::Connect(_)] if left < 0)
    );
    let mut requests = 0;
    let end = bench.elapsed + secs(24 * HOUR);
    let [.., Action::Connect(tunnel)] = actions[..] else {
        unreachable!()
    };
    bench.step(Event::TunnelUp { id: tunnel });
    while bench.elapsed < end {
        let Some((_, actions)) = bench.until_action(end - bench.elapsed) else {
            break;
        };
        let [Action::RequestToken(id)] = actions[..] else {
            panic!("{actions:?}")
        };
        requests += 1;
        bench.token(id, 24 * HOUR, false);
    }
    assert!((20..=24).contains(&requests), "{requests}");
}

#[test]
fn a_wall_clock_at_the_epoch_neither_blocks_nor_keeps_a_token_for_ever() {
    let (mut bench, id) = Bench::online();
    bench.wall_error = -WALL;
    let actions = bench.token(id, HOUR, false);
    let [Action::ClockDoubted { .. }, _, Action::Connect(tunnel)] = actions[..] else {
        panic!("{actions:?}")
    };
    bench.step(Event::TunnelUp { id: tunnel });
    let (after, actions) = bench.expect(secs(2 * HOUR));
    assert!(matches!(actions[..], [Action::RequestToken(_)]));
    assert!(after <= secs(HOUR));
}

#[test]
fn short_lived_tokens_are_refreshed_no_more_often_than_every_five_minutes() {
    let (mut bench, _) = Bench::up(10 * 60, false);
    for _ in 0..10 {
        let (after, actions) = bench.expect(secs(HOUR));
        assert!(after >= Timing::default().check_interval);
        let [Action::RequestToken(id)] = actions[..] else {
            panic!("{actions:?}")
        };
        bench.token(id, 10 * 60, false);
    }
}

/// As when its clock is ahead of the platform's by nearly the time for which tokens are made.
#[test]
fn a_token_that_has_run_out_on_arrival_is_no_reason_to_ask_at_once() {
    for up in [true, false] {
        let (mut bench, mut request) = Bench::online();
        let (end, mut requests) = (secs(6 * HOUR), 1);
        let mut actions = bench.token(request, 2, false);
        loop {
            let due = std::mem::take(&mut actions);
            for action in due {
                match action {
                    Action::Connect(id) if up => {
                        actions.extend(bench.step(Event::TunnelUp { id }));
                    }
                    Action::Connect(id) => {
                        let fault = ConnectFault::Unreachable;
                        actions.extend(bench.step(Event::TunnelFailed { id, fault }));
                    }
                    Action::RequestToken(id) => {
                        request = id;
                        requests += 1;
                        actions.extend(bench.token(request, 2, false));
                    }
                    _ => {}
                }
            }
            if actions.is_empty() {
                match bench.until_action(end.saturating_sub(bench.elapsed)) {
                    Some((_, next)) => actions = next,
                    None => break,
                }
            }
        }
        assert!((50..=130).contains(&requests), "up {up}: {requests}");
    }
}

/// A broker ends a session for a request that its rules forbid. Other uses of the session must get their time.
#[test]
fn a_session_that_ends_with_each_request_is_spared_more_and_more() {
    let (mut bench, mut id) = Bench::online();
    let mut delays = Vec::new();
    for _ in 0..10 {
        let abandoned = Action::AbandonToken {
            id,
            timed_out: false,
        };
        assert_eq!(bench.step(Event::Messaging(false)), [abandoned]);
        bench.elapsed += secs(1);
        let lost = bench.elapsed;
        let mut actions = bench.step(Event::Messaging(true));
        if actions.is_empty() {
            actions = bench.expect(secs(600)).1;
        }
        let [Action::RequestToken(next)] = actions[..] else {
            panic!("{actions:?}")
        };
        delays.push(bench.elapsed - lost);
        id = next;
    }
    assert_eq!(delays[0], Duration::ZERO, "once may be chance");
    assert!(
        delays[9] >= secs(149) && delays[9] <= secs(300),
        "{delays:?}"
    );
    // An answer shows that it was not for the request.
    bench.step(Event::Token {
        id,
        result: Err(()),
    });
    let (_, actions) = bench.expect(secs(600));
    assert!(matches!(actions[..], [Action::RequestToken(_)]));
    bench.step(Event::Messaging(false));
    let actions = bench.step(Event::Messaging(true));
    assert!(matches!(actions[..], [Action::RequestToken(_)]));
}
