//! Decides what remote access does next: ask for a token, connect the tunnel, ask for a certificate.
//!
//! Pure: `step(now, event)` returns actions; there is no clock, no socket, no task and no secret in here. The
//! [manager](crate::manager) carries the actions out and reports what came of them. Three small machines (token, tunnel,
//! rotation) run side by side, each with its own phase.
//!
//! Invariants
//! - There is never more than one request for a token, one connection attempt and one request for a certificate.
//! - What comes back is tied to its request by an id; an answer to another one changes nothing.
//! - A new token never touches a running tunnel.
//! - Nothing is repeated without a delay that grows and has jitter, whatever the wall clock says: it is looked at once,
//!   when a token arrives; from then on only monotonic time counts.
//!
//! Protocol: `docs/protocol.md`, "Remote access".

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::serial::CertificateSerial;

/// The platform's answer to any request is waited for this long (as the other implementation does).
pub(crate) const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// TCP connect, handshake and first pong together.
pub(crate) const CONNECT_LIMIT: Duration = Duration::from_secs(30);
/// A token is replaced when no more than this is left of it.
pub(crate) const REFRESH_BEFORE: Duration = Duration::from_secs(15 * 60);
/// Everything is looked at again this often even if nothing happens, in case a timer was off (a suspended board).
/// Also the least time between two refreshes, however short-lived the tokens are.
pub(crate) const CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// A token whose `valid` makes no sense by our clock is replaced after this time.
const BLIND_REFRESH: Duration = Duration::from_secs(60 * 60);
/// No token is made for longer than this; if `valid` says so, it is our clock that is wrong.
const LONGEST_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
/// A relay that hangs up during the handshake may have had a bad moment once; twice means that it refuses the token.
const REFUSALS: u32 = 2;
/// A tunnel that held this long was a good one: its loss starts the delays anew.
const STABLE: Duration = Duration::from_secs(60);

const TOKEN_RETRY: Backoff = Backoff {
    first: Duration::from_secs(5),
    longest: Duration::from_secs(300),
};
const ROTATION_RETRY: Backoff = Backoff {
    first: Duration::from_secs(30),
    longest: Duration::from_secs(3_600),
};
/// The first retry of the tunnel comes after a random time in this range, in seconds; the range doubles with each failure in
/// a row, up to [`TUNNEL_DOUBLINGS`] times: two minutes are bearable for an owner, and gentle enough for a relay that
/// has lost all its devices at once.
const TUNNEL_RETRY: std::ops::RangeInclusive<f64> = 1.0..=15.0;
const TUNNEL_DOUBLINGS: u32 = 3;

/// What time it is: on a clock that only goes forward, and on the wall.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    /// Since the planner was made.
    pub elapsed: Duration,
    /// Unix seconds, as far as this device knows.
    pub unix: i64,
}

/// Ties an answer to its request. Unique over all requests of a planner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Id(u64);

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// Time has passed.
    Tick,
    /// The session to the platform is up, or is not.
    Messaging(bool),
    /// A token came, or the request failed.
    Token {
        id: Id,
        result: Result<TokenFacts, ()>,
    },
    /// The tunnel is connected: the relay has answered a ping.
    TunnelUp { id: Id },
    /// The tunnel could not be connected.
    TunnelFailed { id: Id, fault: ConnectFault },
    /// A tunnel that was up has ended.
    TunnelLost { id: Id },
    /// The platform wishes this certificate to be served.
    Desired(CertificateSerial),
    /// A certificate came, or the request failed.
    Certificate { id: Id, result: Result<(), ()> },
    /// The certificate that came is checked, stored and served, or was not good.
    Installed { id: Id, result: Result<(), ()> },
}

/// What the planner has to know of a token. (The token itself stays with the manager.)
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenFacts {
    /// Unix seconds, by the platform's clock.
    pub valid: i64,
    /// The cipher demands fresh keys, so a fresh token, for each connection.
    pub single_use: bool,
}

/// Why a connection attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectFault {
    /// The relay could not be reached or did not answer.
    Unreachable,
    /// The relay was there and hung up during the handshake.
    Refused,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make fresh keys and ask for a token.
    RequestToken(Id),
    /// Give the request up, and its keys with it: no answer came in time, or none can come any more.
    AbandonToken { id: Id, timed_out: bool },
    /// Keep the token of this answer, in place of the one before.
    KeepToken(Id),
    /// Forget the token, and its keys with it.
    DropToken,
    /// By our clock the fresh token is valid for this many seconds, which makes no sense: the clock must be wrong.
    ClockDoubted { left: i64 },
    /// Connect the tunnel with the token that is kept.
    Connect(Id),
    /// Give the attempt up: it takes too long.
    AbandonConnect(Id),
    /// Ask for a certificate.
    RequestCertificate(Id, CertificateSerial),
    /// Give the request up, likewise.
    AbandonCertificate { id: Id, timed_out: bool },
    /// Check, store and serve the certificate that came.
    Install(Id, CertificateSerial),
}

#[derive(Debug)]
enum TokenPhase {
    Idle,
    Asked { id: Id, until: Duration },
    Waiting { until: Duration },
}

#[derive(Debug)]
struct HeldToken {
    /// `None` if only the relay can tell.
    expires: Option<Duration>,
    refresh_at: Duration,
    single_use: bool,
    used: bool,
    refusals: u32,
}

impl HeldToken {
    fn usable(&self, now: Duration) -> bool {
        self.expires.is_none_or(|expires| now < expires) && !(self.single_use && self.used)
    }
}

/// What the tunnel is doing, for the planner and for the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelPhase {
    /// Waits for a token, nothing else.
    Down,
    Connecting {
        id: Id,
        until: Duration,
    },
    Up {
        id: Id,
        since: Duration,
    },
    Waiting {
        until: Duration,
    },
}

#[derive(Debug)]
enum RotationPhase {
    Idle,
    Asked {
        id: Id,
        serial: CertificateSerial,
        until: Duration,
    },
    Installing {
        id: Id,
        serial: CertificateSerial,
    },
    Waiting {
        until: Duration,
    },
}

struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Half to all of `first`, doubled for each failure in a row after the first one, at most `longest`.
    fn delay(&self, failures: u32, rng: &mut StdRng) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        full.mul_f64(rng.random_range(0.5..=1.0))
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Planner {
    rng: StdRng,
    last_id: u64,
    checked: Duration,
    online: bool,
    token: TokenPhase,
    token_failures: u32,
    held: Option<HeldToken>,
    tunnel: TunnelPhase,
    tunnel_failures: u32,
    rotation: RotationPhase,
    rotation_failures: u32,
    desired: Option<CertificateSerial>,
    served: CertificateSerial,
}

impl Planner {
    /// A planner that serves the certificate `served` and knows nothing else yet. The seed decides the jitter.
    pub(crate) fn new(served: CertificateSerial, seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            last_id: 0,
            checked: Duration::ZERO,
            online: false,
            token: TokenPhase::Idle,
            token_failures: 0,
            held: None,
            tunnel: TunnelPhase::Down,
            tunnel_failures: 0,
            rotation: RotationPhase::Idle,
            rotation_failures: 0,
            desired: None,
            served,
        }
    }

    /// Takes note of what has happened and says what to do about it.
    pub(crate) fn step(&mut self, now: Now, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.checked = now.elapsed;
        self.note(now, event, &mut actions);
        self.give_up(now.elapsed, &mut actions);
        self.start(now.elapsed, &mut actions);
        actions
    }

    /// When `step` has to be called again even if nothing happens.
    pub(crate) fn next_wake(&self) -> Duration {
        let mut wake = self.checked + CHECK_INTERVAL;
        let mut by = |time: Duration| wake = wake.min(time);
        match self.token {
            TokenPhase::Asked { until, .. } => by(until),
            TokenPhase::Waiting { until } if self.online => by(until),
            TokenPhase::Idle if self.online => {
                if let Some(held) = &self.held {
                    by(held.refresh_at);
                }
            }
            TokenPhase::Idle | TokenPhase::Waiting { .. } => {}
        }
        match self.tunnel {
            TunnelPhase::Connecting { until, .. } | TunnelPhase::Waiting { until } => by(until),
            TunnelPhase::Down | TunnelPhase::Up { .. } => {}
        }
        match self.rotation {
            RotationPhase::Asked { until, .. } => by(until),
            RotationPhase::Waiting { until } if self.online => by(until),
            RotationPhase::Waiting { .. }
            | RotationPhase::Idle
            | RotationPhase::Installing { .. } => {}
        }
        wake
    }

    pub(crate) fn tunnel(&self) -> TunnelPhase {
        self.tunnel
    }

    fn new_id(&mut self) -> Id {
        self.last_id += 1;
        Id(self.last_id)
    }

    fn note(&mut self, now: Now, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Messaging(online) => self.messaging(online, actions),
            Event::Token { id, result } => self.token_answer(now, id, result, actions),
            Event::TunnelUp { id } => self.tunnel_up(now.elapsed, id),
            Event::TunnelFailed { id, fault } => {
                if matches!(self.tunnel, TunnelPhase::Connecting { id: current, .. } if current == id)
                {
                    self.connect_failed(now.elapsed, fault, actions);
                }
            }
            Event::TunnelLost { id } => self.tunnel_lost(now.elapsed, id),
            Event::Desired(serial) => {
                if self.desired.as_ref() != Some(&serial) {
                    self.desired = Some(serial);
                    self.rotation_failures = 0;
                    self.abandon_certificate(actions);
                }
            }
            Event::Certificate { id, result } => {
                self.certificate_answer(now.elapsed, id, result, actions)
            }
            Event::Installed { id, result } => self.installed(now.elapsed, id, result),
        }
    }

    fn messaging(&mut self, online: bool, actions: &mut Vec<Action>) {
        self.online = online;
        if online {
            return;
        }
        // The answer would come on the connection that is gone. Ask again at once on the next one.
        if let TokenPhase::Asked { id, .. } = self.token {
            actions.push(Action::AbandonToken {
                id,
                timed_out: false,
            });
            self.token = TokenPhase::Idle;
        }
        if matches!(self.rotation, RotationPhase::Asked { .. }) {
            self.abandon_certificate(actions);
        }
    }

    fn token_answer(
        &mut self,
        now: Now,
        id: Id,
        result: Result<TokenFacts, ()>,
        actions: &mut Vec<Action>,
    ) {
        if !matches!(self.token, TokenPhase::Asked { id: current, .. } if current == id) {
            return;
        }
        let Ok(facts) = result else {
            return self.token_failed(now.elapsed);
        };
        let left = facts.valid.saturating_sub(now.unix);
        let trusted = u64::try_from(left)
            .ok()
            .filter(|left| *left > 0)
            .map(Duration::from_secs);
        let (expires, refresh_in) = match trusted.filter(|left| *left <= LONGEST_LIFETIME) {
            Some(left) => (
                Some(now.elapsed + left),
                left.saturating_sub(REFRESH_BEFORE).max(CHECK_INTERVAL),
            ),
            None => {
                actions.push(Action::ClockDoubted { left });
                (None, BLIND_REFRESH)
            }
        };
        self.held = Some(HeldToken {
            expires,
            refresh_at: now.elapsed + refresh_in,
            single_use: facts.single_use,
            used: false,
            refusals: 0,
        });
        self.token = TokenPhase::Idle;
        actions.push(Action::KeepToken(id));
        if matches!(self.tunnel, TunnelPhase::Up { .. }) {
            self.token_failures = 0;
        }
    }

    fn token_failed(&mut self, now: Duration) {
        self.token_failures += 1;
        let until = now + TOKEN_RETRY.delay(self.token_failures, &mut self.rng);
        self.token = TokenPhase::Waiting { until };
    }

    fn tunnel_up(&mut self, now: Duration, id: Id) {
        if !matches!(self.tunnel, TunnelPhase::Connecting { id: current, .. } if current == id) {
            return;
        }
        self.tunnel = TunnelPhase::Up { id, since: now };
        self.token_failures = 0;
        if let Some(held) = &mut self.held {
            held.refusals = 0;
        }
    }

    fn connect_failed(&mut self, now: Duration, fault: ConnectFault, actions: &mut Vec<Action>) {
        self.tunnel_failures += 1;
        if fault == ConnectFault::Refused
            && let Some(held) = &mut self.held
        {
            held.refusals += 1;
            if held.refusals >= REFUSALS {
                self.held = None;
                actions.push(Action::DropToken);
                // The request for the next token has the delay; that token is tried at once.
                if !matches!(self.token, TokenPhase::Asked { .. }) {
                    self.token_failed(now);
                }
                self.tunnel = TunnelPhase::Down;
                return;
            }
        }
        self.tunnel_wait(now);
    }

    fn tunnel_lost(&mut self, now: Duration, id: Id) {
        let TunnelPhase::Up { id: current, since } = self.tunnel else {
            return;
        };
        if current != id {
            return;
        }
        if now.saturating_sub(since) >= STABLE {
            self.tunnel_failures = 0;
        }
        self.tunnel_failures += 1;
        self.tunnel_wait(now);
    }

    fn tunnel_wait(&mut self, now: Duration) {
        let doublings = self.tunnel_failures.saturating_sub(1).min(TUNNEL_DOUBLINGS);
        let seconds = self.rng.random_range(TUNNEL_RETRY) * f64::from(1_u32 << doublings);
        self.tunnel = TunnelPhase::Waiting {
            until: now + Duration::from_secs_f64(seconds),
        };
    }

    fn certificate_answer(
        &mut self,
        now: Duration,
        id: Id,
        result: Result<(), ()>,
        actions: &mut Vec<Action>,
    ) {
        let RotationPhase::Asked {
            id: current,
            serial,
            ..
        } = &self.rotation
        else {
            return;
        };
        if *current != id {
            return;
        }
        if result.is_ok() {
            let serial = serial.clone();
            actions.push(Action::Install(id, serial.clone()));
            self.rotation = RotationPhase::Installing { id, serial };
        } else {
            self.rotation_failed(now);
        }
    }

    fn installed(&mut self, now: Duration, id: Id, result: Result<(), ()>) {
        let RotationPhase::Installing {
            id: current,
            serial,
        } = &self.rotation
        else {
            return;
        };
        if *current != id {
            return;
        }
        if result.is_ok() {
            self.served = serial.clone();
            self.rotation_failures = 0;
            self.rotation = RotationPhase::Idle;
        } else if self.desired.as_ref() == Some(serial) {
            self.rotation_failed(now);
        } else {
            self.rotation = RotationPhase::Idle;
        }
    }

    fn rotation_failed(&mut self, now: Duration) {
        self.rotation_failures += 1;
        let until = now + ROTATION_RETRY.delay(self.rotation_failures, &mut self.rng);
        self.rotation = RotationPhase::Waiting { until };
    }

    /// Gives up a request, or the wait for the next one. An installation is never cut short.
    fn abandon_certificate(&mut self, actions: &mut Vec<Action>) {
        match self.rotation {
            RotationPhase::Asked { id, .. } => {
                actions.push(Action::AbandonCertificate {
                    id,
                    timed_out: false,
                });
                self.rotation = RotationPhase::Idle;
            }
            RotationPhase::Waiting { .. } => self.rotation = RotationPhase::Idle,
            RotationPhase::Idle | RotationPhase::Installing { .. } => {}
        }
    }

    /// What has taken too long.
    fn give_up(&mut self, now: Duration, actions: &mut Vec<Action>) {
        match self.token {
            TokenPhase::Asked { id, until } if now >= until => {
                actions.push(Action::AbandonToken {
                    id,
                    timed_out: true,
                });
                self.token_failed(now);
            }
            _ => {}
        }
        match self.tunnel {
            TunnelPhase::Connecting { id, until } if now >= until => {
                actions.push(Action::AbandonConnect(id));
                self.connect_failed(now, ConnectFault::Unreachable, actions);
            }
            _ => {}
        }
        match self.rotation {
            RotationPhase::Asked { id, until, .. } if now >= until => {
                actions.push(Action::AbandonCertificate {
                    id,
                    timed_out: true,
                });
                self.rotation_failed(now);
            }
            _ => {}
        }
        if self
            .held
            .as_ref()
            .is_some_and(|held| held.expires.is_some_and(|expires| now >= expires))
        {
            self.held = None;
            actions.push(Action::DropToken);
        }
    }

    /// What is due now.
    fn start(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let connect_due = match self.tunnel {
            TunnelPhase::Down => true,
            TunnelPhase::Waiting { until } => now >= until,
            TunnelPhase::Connecting { .. } | TunnelPhase::Up { .. } => false,
        };
        if connect_due {
            let id = self.new_id();
            match &mut self.held {
                Some(held) if held.usable(now) => {
                    held.used = true;
                    self.tunnel = TunnelPhase::Connecting {
                        id,
                        until: now + CONNECT_LIMIT,
                    };
                    actions.push(Action::Connect(id));
                }
                _ => self.tunnel = TunnelPhase::Down,
            }
        }
        let may_ask = match self.token {
            TokenPhase::Idle => true,
            TokenPhase::Waiting { until } => now >= until,
            TokenPhase::Asked { .. } => false,
        };
        if self.online && may_ask && self.token_needed(now) {
            let id = self.new_id();
            self.token = TokenPhase::Asked {
                id,
                until: now + ANSWER_LIMIT,
            };
            actions.push(Action::RequestToken(id));
        }
        let may_ask = match self.rotation {
            RotationPhase::Idle => true,
            RotationPhase::Waiting { until } => now >= until,
            RotationPhase::Asked { .. } | RotationPhase::Installing { .. } => false,
        };
        if self.online
            && may_ask
            && let Some(serial) = self
                .desired
                .clone()
                .filter(|desired| *desired != self.served)
        {
            let id = self.new_id();
            self.rotation = RotationPhase::Asked {
                id,
                serial: serial.clone(),
                until: now + ANSWER_LIMIT,
            };
            actions.push(Action::RequestCertificate(id, serial));
        }
    }

    fn token_needed(&self, now: Duration) -> bool {
        match &self.held {
            None => true,
            Some(held) if now >= held.refresh_at => true,
            // A used token for a single connection is of no use any more once that connection is gone.
            Some(held) => {
                !held.usable(now)
                    && matches!(self.tunnel, TunnelPhase::Down | TunnelPhase::Waiting { .. })
            }
        }
    }
}

#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
