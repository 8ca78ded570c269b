//! The tunnel's machine: how long to wait after which end, and when a token is given up.

use std::time::Duration;

use super::backoff::tunnel_delay;
use super::{Action, ConnectFault, Id, Planner, TokenPhase, TunnelPhase};

/// A relay that hangs up during the handshake may have had a bad moment once; twice means that it refuses the token.
const REFUSALS: u32 = 2;
/// A tunnel that held this long was a good one: its loss starts the delays anew.
pub(super) const STABLE: Duration = Duration::from_secs(60);

impl Planner {
    pub(super) fn tunnel_up(&mut self, now: Duration, id: Id) {
        if !matches!(self.tunnel, TunnelPhase::Connecting { id: current, .. } if current == id) {
            return;
        }
        self.tunnel = TunnelPhase::Up { id, since: now };
        self.token_failures = 0;
        if let Some(held) = &mut self.held {
            held.refusals = 0;
        }
    }

    pub(super) fn connect_failed(
        &mut self,
        now: Duration,
        fault: ConnectFault,
        actions: &mut Vec<Action>,
    ) {
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

    pub(super) fn tunnel_lost(&mut self, now: Duration, id: Id) {
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
        let until = now + tunnel_delay(self.tunnel_failures, &mut self.rng);
        self.tunnel = TunnelPhase::Waiting { until };
    }
}
