//! The tunnel state machine: reconnect delays, and when a token is dropped.

use std::time::Duration;

use super::{Action, ConnectFault, Core, Handover, Id, TokenPhase, TunnelPhase};
use crate::backoff::tunnel_delay;

/// Closed handshakes after which the token counts as refused: a single one may be a coincidence.
const REFUSALS: u32 = 2;
/// The time connected that resets the reconnect delays.
pub(super) const STABLE: Duration = Duration::from_secs(60);

impl Core {
    pub(super) fn tunnel_up(&mut self, now: Duration, id: Id) {
        let token = match self.tunnel {
            TunnelPhase::Connecting {
                id: current, token, ..
            }
            | TunnelPhase::Up {
                handover:
                    Handover::Connecting {
                        id: current, token, ..
                    },
                ..
            } if current == id => token,
            _ => return,
        };
        self.tunnel = TunnelPhase::Up {
            id,
            since: now,
            token,
            handover: Handover::None {
                not_before: now + self.timeouts.check_interval,
            },
        };
        self.handover_failures = 0;
        self.busy_attempts = 0;
        self.token_failures = 0;
        if let Some(held) = &mut self.held {
            held.refusals = 0;
        }
    }

    pub(super) fn tunnel_failed(
        &mut self,
        now: Duration,
        id: Id,
        fault: ConnectFault,
        actions: &mut Vec<Action>,
    ) {
        match self.tunnel {
            TunnelPhase::Connecting { id: current, .. } if current == id => {
                self.connect_failed(now, fault, actions);
            }
            TunnelPhase::Up {
                handover: Handover::Connecting { id: current, .. },
                ..
            } if current == id => self.handover_failed(now, fault, actions),
            _ => {}
        }
    }

    fn connect_failed(&mut self, now: Duration, fault: ConnectFault, actions: &mut Vec<Action>) {
        self.tunnel_failures += 1;
        if fault == ConnectFault::Unreachable {
            self.token_unused();
        }
        if fault == ConnectFault::Refused && self.token_refused(now, actions) {
            // The next token is tried at once.
            self.tunnel = TunnelPhase::Down;
        } else {
            self.tunnel_wait(now);
        }
    }

    /// Counts a refusal of the token. Returns whether the token was dropped.
    pub(super) fn token_refused(&mut self, now: Duration, actions: &mut Vec<Action>) -> bool {
        let Some(held) = &mut self.held else {
            return false;
        };
        held.refusals += 1;
        if held.refusals < REFUSALS {
            return false;
        }
        self.held = None;
        actions.push(Action::DropToken);
        // The request for the next token is delayed instead.
        if !matches!(self.token, TokenPhase::Requested { .. }) {
            self.token_failed(now);
        }
        true
    }

    pub(super) fn tunnel_lost(&mut self, now: Duration, id: Id) {
        let TunnelPhase::Up {
            id: current,
            since,
            handover,
            ..
        } = self.tunnel
        else {
            return;
        };
        if current != id {
            return;
        }
        if now.saturating_sub(since) >= STABLE {
            self.tunnel_failures = 0;
        }
        if let Handover::Connecting { id, until, token } = handover {
            // The replacement may still connect.
            self.tunnel = TunnelPhase::Connecting { id, until, token };
            return;
        }
        self.tunnel_failures += 1;
        self.tunnel_wait(now);
    }

    fn tunnel_wait(&mut self, now: Duration) {
        let until = now + tunnel_delay(self.tunnel_failures, &mut self.rng);
        self.tunnel = TunnelPhase::Waiting { until };
    }
}
