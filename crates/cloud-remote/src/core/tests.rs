//! One test per rule, on virtual time.

use super::*;

/// 2030-01-01: the initial wall clock of these tests.
const WALL: i64 = 1_893_456_000;
pub(super) const HOUR: u64 = 3_600;

/// A core with its clocks.
pub(super) struct Harness {
    pub(super) core: Core,
    pub(super) elapsed: Duration,
    wall_error: i64,
    /// Whether the tunnel has no open connections.
    pub(super) idle: bool,
}

impl Harness {
    fn new() -> Self {
        Self {
            core: Core::new(7, Timeouts::default()),
            elapsed: Duration::ZERO,
            wall_error: 0,
            idle: false,
        }
    }

    pub(super) fn online() -> (Self, Id) {
        let mut harness = Self::new();
        let actions = harness.step(Event::Online(true));
        let [Action::RequestToken(id)] = actions[..] else {
            panic!("{actions:?}")
        };
        (harness, id)
    }

    /// Returns a harness whose tunnel is up with a token valid for `seconds`.
    pub(super) fn up(seconds: u64, single_use: bool) -> (Self, Id) {
        let (mut harness, id) = Self::online();
        let actions = harness.accepted_token(id, seconds, single_use);
        let [Action::Connect(tunnel)] = actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(harness.step(Event::TunnelUp { id: tunnel }), []);
        (harness, tunnel)
    }

    pub(super) fn step(&mut self, event: Event) -> Vec<Action> {
        let unix = WALL + i64::try_from(self.elapsed.as_secs()).unwrap() + self.wall_error;
        self.core.handle_event(
            Now {
                elapsed: self.elapsed,
                unix,
                idle: self.idle,
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

    /// Delivers the requested token, which the core has to accept.
    pub(super) fn accepted_token(&mut self, id: Id, seconds: u64, single_use: bool) -> Vec<Action> {
        let actions = self.token(id, seconds, single_use);
        assert_eq!(self.core.held.as_ref().map(|held| held.id), Some(id));
        actions
    }

    /// Advances time, with a tick at each timeout of the core, until there is an action.
    pub(super) fn until_action(&mut self, limit: Duration) -> Option<(Duration, Vec<Action>)> {
        let (start, end) = (self.elapsed, self.elapsed + limit);
        loop {
            let wake = self.core.poll_timeout();
            assert!(wake > self.elapsed, "a timeout in the past never ends");
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
fn no_token_request_while_offline() {
    let mut harness = Harness::new();
    assert_eq!(harness.until_action(secs(24 * HOUR)), None);
}

#[test]
fn online_requests_token_and_connects_at_once() {
    let (mut harness, _) = Harness::up(24 * HOUR, false);
    assert!(matches!(harness.core.tunnel(), TunnelPhase::Up { .. }));
    assert_eq!(harness.until_action(secs(HOUR)), None);
}

#[test]
fn one_token_request_at_a_time() {
    let (mut harness, _) = Harness::online();
    for _ in 0..10 {
        harness.elapsed += secs(5);
        assert_eq!(harness.step(Event::Online(true)), []);
        assert_eq!(harness.step(Event::Tick), []);
    }
}

#[test]
fn token_request_timeout_retries_with_backoff_and_new_id() {
    let (mut harness, first) = Harness::online();
    let (after, actions) = harness.expect(secs(120));
    assert_eq!(
        (after, actions),
        (
            RESPONSE_TIMEOUT,
            vec![Action::CancelTokenRequest {
                id: first,
                timed_out: true
            }]
        )
    );
    let mut delays = Vec::new();
    let mut ids = vec![first];
    for _ in 0..12 {
        let (delay, actions) = harness.expect(secs(600));
        let [Action::RequestToken(id)] = actions[..] else {
            panic!("{actions:?}")
        };
        assert!(!ids.contains(&id));
        ids.push(id);
        delays.push(delay);
        assert_eq!(
            harness.step(Event::Token {
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
fn ignores_late_and_unsolicited_responses() {
    let (mut harness, late) = Harness::online();
    harness.expect(secs(120));
    assert_eq!(harness.token(late, HOUR, false), []);
    let (_, actions) = harness.expect(secs(10));
    let [Action::RequestToken(current)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(harness.token(late, HOUR, false), []);
    assert_eq!(harness.token(Id(999), HOUR, false), []);
    assert!(matches!(
        harness.accepted_token(current, HOUR, false)[..],
        [Action::Connect(_)]
    ));
    assert_eq!(
        harness.token(current, HOUR, false),
        [],
        "the second response to one request"
    );
}

#[test]
fn session_loss_cancels_request_and_return_retries() {
    let (mut harness, id) = Harness::online();
    assert_eq!(
        harness.step(Event::Online(false)),
        [Action::CancelTokenRequest {
            id,
            timed_out: false
        }]
    );
    assert_eq!(harness.token(id, HOUR, false), []);
    assert!(
        matches!(harness.step(Event::Online(true))[..], [Action::RequestToken(new)] if new != id)
    );
}

#[test]
fn token_refresh_15_min_before_expiry_keeps_tunnel() {
    let (mut harness, tunnel) = Harness::up(HOUR, false);
    let (after, actions) = harness.expect(secs(HOUR));
    assert_eq!(after, secs(HOUR) - Timeouts::default().refresh_before);
    let [Action::RequestToken(id)] = actions[..] else {
        panic!("{actions:?}")
    };
    assert_eq!(harness.accepted_token(id, HOUR, false), []);
    assert!(matches!(harness.core.tunnel(), TunnelPhase::Up { id, .. } if id == tunnel));
}

#[test]
fn token_expiry_while_offline_keeps_tunnel() {
    let (mut harness, _) = Harness::up(HOUR, false);
    harness.step(Event::Online(false));
    let (_, actions) = harness.expect(secs(2 * HOUR));
    assert_eq!(actions, [Action::DropToken]);
    assert!(matches!(harness.core.tunnel(), TunnelPhase::Up { .. }));
}

#[test]
fn fast_wall_clock_neither_blocks_nor_loops() {
    let (mut harness, id) = Harness::online();
    harness.wall_error = 100 * i64::try_from(HOUR).unwrap();
    let actions = harness.accepted_token(id, 24 * HOUR, false);
    assert!(
        matches!(actions[..], [Action::ClockSkewSuspected { left }, Action::Connect(_)] if left < 0)
    );
    let mut requests = 0;
    let end = harness.elapsed + secs(24 * HOUR);
    let [.., Action::Connect(tunnel)] = actions[..] else {
        unreachable!()
    };
    harness.step(Event::TunnelUp { id: tunnel });
    while harness.elapsed < end {
        let Some((_, actions)) = harness.until_action(end - harness.elapsed) else {
            break;
        };
        let [Action::RequestToken(id)] = actions[..] else {
            panic!("{actions:?}")
        };
        requests += 1;
        harness.token(id, 24 * HOUR, false);
    }
    assert!((20..=24).contains(&requests), "{requests}");
}

#[test]
fn wall_clock_at_epoch_still_refreshes_token() {
    let (mut harness, id) = Harness::online();
    harness.wall_error = -WALL;
    let actions = harness.accepted_token(id, HOUR, false);
    let [Action::ClockSkewSuspected { .. }, Action::Connect(tunnel)] = actions[..] else {
        panic!("{actions:?}")
    };
    harness.step(Event::TunnelUp { id: tunnel });
    let (after, actions) = harness.expect(secs(2 * HOUR));
    assert!(matches!(actions[..], [Action::RequestToken(_)]));
    assert!(after <= secs(HOUR));
}

#[test]
fn short_lived_tokens_refresh_at_most_every_5_min() {
    let (mut harness, _) = Harness::up(10 * 60, false);
    for _ in 0..10 {
        let (after, actions) = harness.expect(secs(HOUR));
        assert!(after >= Timeouts::default().check_interval);
        let [Action::RequestToken(id)] = actions[..] else {
            panic!("{actions:?}")
        };
        harness.token(id, 10 * 60, false);
    }
}

/// As when the device's clock is ahead of the platform's by nearly the lifetime of a token.
#[test]
fn token_expired_on_arrival_is_retried_with_delay() {
    for up in [true, false] {
        let (mut harness, mut request) = Harness::online();
        let (end, mut requests) = (secs(6 * HOUR), 1);
        let mut actions = harness.token(request, 2, false);
        loop {
            let due = std::mem::take(&mut actions);
            for action in due {
                match action {
                    Action::Connect(id) if up => {
                        actions.extend(harness.step(Event::TunnelUp { id }));
                    }
                    Action::Connect(id) => {
                        let fault = ConnectFault::Unreachable;
                        actions.extend(harness.step(Event::TunnelFailed { id, fault }));
                    }
                    Action::RequestToken(id) => {
                        request = id;
                        requests += 1;
                        actions.extend(harness.token(request, 2, false));
                    }
                    _ => {}
                }
            }
            if actions.is_empty() {
                match harness.until_action(end.saturating_sub(harness.elapsed)) {
                    Some((_, next)) => actions = next,
                    None => break,
                }
            }
        }
        assert!((50..=130).contains(&requests), "up {up}: {requests}");
    }
}

/// A broker ends a session for a request that its policy forbids. Other uses of the session must be
/// possible.
#[test]
fn backs_off_when_session_ends_with_each_request() {
    let (mut harness, mut id) = Harness::online();
    let mut delays = Vec::new();
    for _ in 0..10 {
        let cancelled = Action::CancelTokenRequest {
            id,
            timed_out: false,
        };
        assert_eq!(harness.step(Event::Online(false)), [cancelled]);
        harness.elapsed += secs(1);
        let lost = harness.elapsed;
        let mut actions = harness.step(Event::Online(true));
        if actions.is_empty() {
            actions = harness.expect(secs(600)).1;
        }
        let [Action::RequestToken(next)] = actions[..] else {
            panic!("{actions:?}")
        };
        delays.push(harness.elapsed - lost);
        id = next;
    }
    assert_eq!(delays[0], Duration::ZERO, "once may be a coincidence");
    assert!(
        delays[9] >= secs(149) && delays[9] <= secs(300),
        "{delays:?}"
    );
    // A response shows that the request was not the cause.
    harness.step(Event::Token {
        id,
        result: Err(()),
    });
    let (_, actions) = harness.expect(secs(600));
    assert!(matches!(actions[..], [Action::RequestToken(_)]));
    harness.step(Event::Online(false));
    let actions = harness.step(Event::Online(true));
    assert!(matches!(actions[..], [Action::RequestToken(_)]));
}
