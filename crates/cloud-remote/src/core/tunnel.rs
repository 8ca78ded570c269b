//! The tunnel's machine: how long to wait after which end, and when a token is given up.

use std::time::Duration;

use super::{Action, ConnectFault, Core, Handover, Id, TokenPhase, TunnelPhase};
use crate::backoff::tunnel_delay;

/// A relay that hangs up during the handshake may have had a bad moment once; twice means that it refuses the token.
const REFUSALS: u32 = 2;
/// A tunnel that held this long was a good one: its loss starts the delays anew.
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
                not_before: now + self.timing.check_interval,
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
            // That token is tried at once.
            self.tunnel = TunnelPhase::Down;
        } else {
            self.tunnel_wait(now);
        }
    }

    /// The relay seems to refuse the token. Returns whether it was given up.
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
        // The request for the next token has the delay.
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
            // What was to take its place may still come up.
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
