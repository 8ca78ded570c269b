//! The core of remote access: decides when to request a token and when to connect the tunnel.
//!
//! Pure: `handle_event(now, event)` returns actions; there is no clock, socket, task or secret in
//! the core. The [driver](crate::driver) executes the actions and reports their results. Two small
//! state machines (token, tunnel) run side by side. The certificate has a [core of its
//! own](crate::rotation).
//!
//! Invariants:
//! - There is at most one token request and one connection attempt.
//! - A result carries the id of its request; the result of another request changes nothing.
//! - A new token closes no open connection, unless the relay itself would: see [`handover`].
//! - Each retry has a delay that grows and has jitter, independently of the wall clock: the core
//!   reads the wall clock once, when a token arrives, and uses monotonic time otherwise.

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

/// The limit for TCP connect, handshake and first pong together.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum TokenPhase {
    Idle,
    Requested { id: Id, until: Duration },
    Waiting { until: Duration },
}

/// The state of the tunnel, for the core and for the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TunnelPhase {
    /// Waits for a token.
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

/// The token of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct UsedToken {
    /// The id of the request that returned it.
    id: Id,
    /// `None` if only the relay knows the expiry.
    expires: Option<Duration>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Core {
    rng: StdRng,
    timeouts: Timeouts,
    last_id: u64,
    checked: Duration,
    online: bool,
    token: TokenPhase,
    token_failures: u32,
    /// Consecutive requests that were in progress when the session ended.
    cancelled_requests: u32,
    held: Option<HeldToken>,
    /// While the tunnel is up and there is no token, no request is made before this time.
    no_request_before: Duration,
    tunnel: TunnelPhase,
    tunnel_failures: u32,
    handover_failures: u32,
    /// Consecutive handovers that were cancelled because the tunnel was in use again.
    busy_attempts: u32,
}

impl Core {
    /// Creates a core in its initial state. The seed determines the jitter.
    pub(crate) fn new(seed: u64, timeouts: Timeouts) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            timeouts,
            last_id: 0,
            checked: Duration::ZERO,
            online: false,
            token: TokenPhase::Idle,
            token_failures: 0,
            cancelled_requests: 0,
            held: None,
            no_request_before: Duration::ZERO,
            tunnel: TunnelPhase::Down,
            tunnel_failures: 0,
            handover_failures: 0,
            busy_attempts: 0,
        }
    }

    /// Handles an event and returns the resulting actions.
    pub(crate) fn handle_event(&mut self, now: Now, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.checked = now.elapsed;
        self.apply(now, event, &mut actions);
        self.cancel_overdue(now.elapsed, &mut actions);
        self.start(now.elapsed, &mut actions);
        self.start_handover(now, &mut actions);
        actions
    }

    /// Returns when `handle_event` has to be called with [`Event::Tick`].
    pub(crate) fn poll_timeout(&self) -> Duration {
        let mut wake = self.checked + self.timeouts.check_interval;
        let mut by = |time: Duration| wake = wake.min(time);
        match self.token {
            TokenPhase::Requested { until, .. } => by(until),
            TokenPhase::Waiting { until } if self.online => by(until),
            TokenPhase::Idle if self.online => by(match &self.held {
                Some(held) => held.refresh_at,
                None => self
                    .no_request_before
                    .max(self.checked + IDLE_CHECK_INTERVAL),
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

    fn apply(&mut self, now: Now, event: Event, actions: &mut Vec<Action>) {
        match event {
            Event::Tick => {}
            Event::Online(online) => self.set_online(now.elapsed, online, actions),
            Event::Token { id, result } => self.token_received(now, id, result, actions),
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
        // The response would arrive on the lost connection.
        if let TokenPhase::Requested { id, .. } = self.token {
            actions.push(Action::CancelTokenRequest {
                id,
                timed_out: false,
            });
            self.token_request_cancelled(now);
        }
    }

    /// Cancels operations that have reached their timeout.
    fn cancel_overdue(&mut self, now: Duration, actions: &mut Vec<Action>) {
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

    /// Starts the operations that are due.
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
