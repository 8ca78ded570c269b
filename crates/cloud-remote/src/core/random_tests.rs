//! Random schedules: a platform, a relay and a clock that misbehave by seed. After each step the
//! core's invariants hold; after the faults end, the tunnel is up.

use rand::RngExt;

use super::*;

struct World {
    rng: StdRng,
    core: Core,
    elapsed: Duration,
    wall_error: i64,
    token_asked: Option<Id>,
    connecting: Option<Id>,
    up: Option<Id>,
    idle: bool,
    kept: bool,
    /// All ids so far, for late responses.
    stale: Vec<Id>,
    requests: u32,
    single_use: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        Self {
            core: Core::new(seed, Timeouts::default()),
            elapsed: Duration::ZERO,
            wall_error: rng.random_range(-2_000_000_000..2_000_000_000),
            single_use: rng.random_bool(0.3),
            rng,
            token_asked: None,
            connecting: None,
            up: None,
            idle: false,
            kept: false,
            stale: Vec::new(),
            requests: 0,
        }
    }

    fn step(&mut self, event: Event) {
        let unix = 1_893_456_000 + i64::try_from(self.elapsed.as_secs()).unwrap() + self.wall_error;
        let actions = self.core.handle_event(
            Now {
                elapsed: self.elapsed,
                unix,
                idle: self.idle && self.up.is_some(),
            },
            event,
        );
        for action in actions {
            self.execute(action);
        }
        assert!(
            self.core.poll_timeout() > self.elapsed,
            "a timeout that is already due would spin"
        );
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::RequestToken(id) => {
                assert!(
                    self.token_asked.replace(id).is_none(),
                    "two concurrent token requests"
                );
                self.requests += 1;
            }
            Action::CancelTokenRequest { id, .. } => {
                assert_eq!(self.token_asked.take(), Some(id));
                self.stale.push(id);
            }
            Action::DropToken => {
                assert!(std::mem::take(&mut self.kept), "there was no token to drop")
            }
            Action::ClockSkewSuspected { .. } => {}
            Action::Connect(id) => {
                assert!(self.kept, "connected without a token");
                assert!(self.up.is_none(), "a running tunnel was replaced");
                assert!(
                    self.connecting.replace(id).is_none(),
                    "two concurrent attempts"
                );
            }
            Action::StartHandover { id, .. } => {
                assert!(self.kept, "handed over without a token");
                assert!(self.up.is_some(), "there is nothing to replace");
                assert!(
                    self.connecting.replace(id).is_none(),
                    "two concurrent attempts"
                );
            }
            Action::CancelConnect(id) => {
                assert_eq!(self.connecting.take(), Some(id));
                self.stale.push(id);
            }
        }
    }

    fn token_facts(&mut self, plausible: bool) -> TokenFacts {
        let lifetime = if plausible {
            86_400
        } else {
            self.rng.random_range(-100..100_000)
        };
        let valid = 1_893_456_000 + i64::try_from(self.elapsed.as_secs()).unwrap() + lifetime;
        TokenFacts {
            valid,
            single_use: self.single_use,
        }
    }

    /// Completes the pending operations, successfully if `good`.
    fn complete(&mut self, good: bool) {
        if let Some(id) = self.token_asked.take() {
            let facts = self.token_facts(good);
            self.stale.push(id);
            self.kept |= good;
            self.step(Event::Token {
                id,
                result: if good { Ok(facts) } else { Err(()) },
            });
        }
        if let Some(id) = self.connecting.take() {
            if good {
                self.stale.extend(self.up.replace(id));
                self.step(Event::TunnelUp { id });
            } else {
                self.stale.push(id);
                let fault = match self.rng.random_range(0..4) {
                    2 => ConnectFault::Broken,
                    0 => ConnectFault::Refused,
                    1 if self.up.is_some() => ConnectFault::Busy,
                    _ => ConnectFault::Unreachable,
                };
                self.step(Event::TunnelFailed { id, fault });
            }
        }
    }

    fn disturb(&mut self) {
        match self.rng.random_range(0..10) {
            0 => {
                let online = self.rng.random();
                self.step(Event::Online(online));
            }
            1 => {
                if let Some(id) = self.up.take() {
                    self.stale.push(id);
                    self.step(Event::TunnelLost { id });
                }
            }
            2 | 3 => self.wall_error = self.rng.random_range(-2_000_000_000..2_000_000_000),
            4 => {
                // Delivers a result with an old id.
                if !self.stale.is_empty() {
                    let id = self.stale[self.rng.random_range(0..self.stale.len())];
                    let facts = self.token_facts(true);
                    // Runs what is due anyway, so that it is not attributed to the old result.
                    self.step(Event::Tick);
                    let before = format!("{:?} {:?}", self.core.tunnel(), self.core.held);
                    self.step(Event::Token {
                        id,
                        result: Ok(facts),
                    });
                    self.step(Event::TunnelUp { id });
                    self.step(Event::TunnelLost { id });
                    assert_eq!(
                        before,
                        format!("{:?} {:?}", self.core.tunnel(), self.core.held),
                        "an old response had an effect"
                    );
                }
            }
            5 => self.idle = self.rng.random(),
            6 | 7 => {
                let good = self.rng.random();
                self.complete(good);
            }
            _ => {
                let wake = self.core.poll_timeout();
                let jump = self.elapsed + Duration::from_secs(self.rng.random_range(0..4_000));
                self.elapsed = if self.rng.random() {
                    wake.max(self.elapsed)
                } else {
                    jump
                };
                self.step(Event::Tick);
            }
        }
    }
}

#[test]
fn random_schedules_keep_invariants_and_reconnect() {
    for seed in 0..500 {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.disturb();
        }
        // The faults end.
        world.wall_error = 0;
        world.step(Event::Online(true));
        let end = world.elapsed + Duration::from_secs(3 * 3_600);
        let before = world.requests;
        while world.elapsed < end {
            world.complete(true);
            world.elapsed = world.core.poll_timeout();
            world.step(Event::Tick);
        }
        world.complete(true);
        assert!(
            matches!(world.core.tunnel(), TunnelPhase::Up { .. }),
            "seed {seed}: {:?}",
            world.core
        );
        assert!(
            world.requests - before <= 40,
            "seed {seed}: {} requests in three hours",
            world.requests - before
        );
    }
}
