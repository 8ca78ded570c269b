//! Decides what remote access does next: ask for a token, connect the tunnel.
//!
//! Pure: `handle_event(now, event)` returns actions; there is no clock, no socket, no task and no secret in here. The
//! [manager](crate::driver) carries the actions out and reports what came of them. Two small machines (token, tunnel)
//! run side by side, each with its own phase. The certificate has a [core of its own](crate::rotation).
//!
//! Invariants
//! - There is never more than one request for a token and one connection attempt.
//! - What comes back is tied to its request by an id; an answer to another one changes nothing.
//! - A new token cuts nothing that is open, as long as the relay itself would not: see [`handover`].
//! - Nothing is repeated without a delay that grows and has jitter, whatever the wall clock says: it is looked at once,
//!   when a token arrives; from then on only monotonic time counts.
//!
//! Protocol: `docs/protocol.md`, "Remote access".

mod event;
mod handover;
mod token_refresh;
mod tunnel;

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

pub(crate) use self::event::{Action, ConnectFault, Event, Id, Now, TokenFacts};
use self::handover::Handover;
pub(crate) use self::handover::IDLE_CHECK_INTERVAL;
use self::token_refresh::HeldToken;
use crate::timeouts::{RESPONSE_TIMEOUT, Timeouts};

/// TCP connect, handshake and first pong together.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum TokenPhase {
    Idle,
    Requested { id: Id, until: Duration },
    Waiting { until: Duration },
}

/// What the tunnel is doing, for the planner and for the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelPhase {
    /// Waits for a token, nothing else.
    Down,
    Connecting {
        id: Id,
        until: Duration,
        token: UsedToken,
    },
    Up {
        id: Id,
        since: Duration,
        token: UsedToken,
        handover: Handover,
    },
    Waiting {
        until: Duration,
    },
}

/// The token that a connection was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsedToken {
    /// Of the request that brought it.
    id: Id,
    /// `None` if only the relay can tell.
    expires: Option<Duration>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Core {
    rng: StdRng,
    timing: Timeouts,
    last_id: u64,
    checked: Duration,
    online: bool,
    token: TokenPhase,
    token_failures: u32,
    /// Requests in a row that were under way when the session ended.
    cancelled_requests: u32,
    held: Option<HeldToken>,
    /// With a tunnel that is up and no token, none is asked for before.
    no_need_before: Duration,
    tunnel: TunnelPhase,
    tunnel_failures: u32,
    handover_failures: u32,
    /// Moves in a row that were given up because the tunnel was in use again.
    busy_attempts: u32,
}

impl Core {
    /// A planner that knows nothing yet. The seed decides the jitter.
    pub(crate) fn new(seed: u64, timing: Timeouts) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            timing,
            last_id: 0,
            checked: Duration::ZERO,
            online: false,
            token: TokenPhase::Idle,
            token_failures: 0,
            cancelled_requests: 0,
            held: None,
            no_need_before: Duration::ZERO,
            tunnel: TunnelPhase::Down,
            tunnel_failures: 0,
            handover_failures: 0,
            busy_attempts: 0,
        }
    }

    /// Takes note of what has happened and says what to do about it.
    pub(crate) fn handle_event(&mut self, now: Now, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.checked = now.elapsed;
        self.note(now, event, &mut actions);
        self.give_up(now.elapsed, &mut actions);
        self.start(now.elapsed, &mut actions);
        self.start_handover(now, &mut actions);
        actions
    }

    /// When `handle_event` has to be called again even if nothing happens.
    pub(crate) fn poll_timeout(&self) -> Duration {
        let mut wake = self.checked + self.timing.check_interval;
        let mut by = |time: Duration| wake = wake.min(time);
        match self.token {
            TokenPhase::Requested { until, .. } => by(until),
            TokenPhase::Waiting { until } if self.online => by(until),
            TokenPhase::Idle if self.online => by(match &self.held {
                Some(held) => held.refresh_at,
                None => self.no_need_before.max(self.checked + IDLE_CHECK_INTERVAL),
            }),
            TokenPhase::Idle | TokenPhase::Waiting { .. } => {}
        }
        match self.tunnel {
            TunnelPhase::Connecting { until, .. } | TunnelPhase::Waiting { until } => by(until),
            TunnelPhase::Up { .. } => {
                if let Some(time) = self.handover_timeout() {
                    by(time);
                }
            }
            TunnelPhase::Down => {}
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
            Event::Online(online) => self.set_online(now.elapsed, online, actions),
            Event::Token { id, result } => self.token_answer(now, id, result, actions),
            Event::TunnelUp { id } => self.tunnel_up(now.elapsed, id),
            Event::TunnelFailed { id, fault } => {
                self.tunnel_failed(now.elapsed, id, fault, actions);
            }
            Event::TunnelLost { id } => self.tunnel_lost(now.elapsed, id),
        }
    }

    fn set_online(&mut self, now: Duration, online: bool, actions: &mut Vec<Action>) {
        self.online = online;
        if online {
            return;
        }
        // The answer would come on the connection that is gone.
        if let TokenPhase::Requested { id, .. } = self.token {
            actions.push(Action::CancelTokenRequest {
                id,
                timed_out: false,
            });
            self.token_request_cancelled(now);
        }
    }

    /// What has taken too long.
    fn give_up(&mut self, now: Duration, actions: &mut Vec<Action>) {
        match self.token {
            TokenPhase::Requested { id, until } if now >= until => {
                actions.push(Action::CancelTokenRequest {
                    id,
                    timed_out: true,
                });
                self.token_failed(now);
            }
            _ => {}
        }
        match self.tunnel {
            TunnelPhase::Connecting { id, until, .. }
            | TunnelPhase::Up {
                handover: Handover::Connecting { id, until, .. },
                ..
            } if now >= until => {
                actions.push(Action::CancelConnect(id));
                self.tunnel_failed(now, id, ConnectFault::Broken, actions);
            }
            _ => {}
        }
        let expired = |held: &mut HeldToken| held.expires.is_some_and(|expires| now >= expires);
        if let Some(held) = self.held.take_if(expired) {
            actions.push(Action::DropToken);
            self.token_expired(now, &held);
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
                    self.tunnel = TunnelPhase::Connecting {
                        id,
                        until: now + CONNECT_TIMEOUT,
                        token: held.take(),
                    };
                    actions.push(Action::Connect(id));
                }
                _ => self.tunnel = TunnelPhase::Down,
            }
        }
        let may_request = match self.token {
            TokenPhase::Idle => true,
            TokenPhase::Waiting { until } => now >= until,
            TokenPhase::Requested { .. } => false,
        };
        if self.online && may_request && self.token_needed(now) {
            let id = self.new_id();
            self.token = TokenPhase::Requested {
                id,
                until: now + RESPONSE_TIMEOUT,
            };
            actions.push(Action::RequestToken(id));
        }
    }
}

#[cfg(test)]
mod handover_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tunnel_tests;
