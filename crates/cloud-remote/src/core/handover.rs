//! Handover from a running tunnel to a new one, before the relay ends it for its expired token.
//!
//! The relay keeps one tunnel per host name: a new tunnel replaces the old one, which is closed
//! with all its connections. Open connections cannot be transferred, so a handover takes place when
//! there are none. The relay checks the token of a running tunnel rarely, counted from its
//! connection, so a tunnel may outlive its token by hours. Hence the rules:
//!
//! 1. Once there is a newer token, the handover starts at the first moment without open
//!    connections.
//! 2. Without such a moment, the tunnel stays until shortly before the relay's check that would
//!    find its token expired. Open connections are closed either way; handing over first leaves no
//!    gap for new ones.
//! 3. The new tunnel is connected while the old one serves, and the old one is closed only once the
//!    new one is up.
//!
//! A caller that connects between the last idle check and the relay's switch to the new tunnel (one
//! or two round trips) is disconnected and has to retry, as browsers do. So handovers are not more
//! frequent than token refreshes.

use std::time::Duration;

use super::{Action, CONNECT_TIMEOUT, ConnectFault, Core, Id, Now, TunnelPhase, UsedToken};
use crate::backoff::tunnel_delay;

/// The interval of the checks for a moment without open connections.
pub(crate) const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Consecutive handovers cancelled as busy that are retried at once. Each further retry doubles the
/// delay, at most [`MAX_DOUBLINGS`] times. All of them together leave enough of [`MARGIN`].
const FAST_RETRIES: u32 = 3;
const MAX_DOUBLINGS: u32 = 4;
/// The handover starts at the latest this long before the relay's check: connecting may take half
/// of it. Also the tolerance for a relay's clock that is ahead of the platform's.
const MARGIN: Duration = Duration::from_secs(60);

/// The handover state of a connected tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handover {
    /// No handover is in progress, and none starts before `not_before`.
    None { not_before: Duration },
    /// The next tunnel is being connected.
    Connecting {
        id: Id,
        until: Duration,
        token: UsedToken,
    },
}

impl Core {
    /// Returns the time from which a handover may start; `None` without a newer token.
    fn handover_due(&self, now: Duration) -> Option<Duration> {
        let TunnelPhase::Up {
            token,
            handover: Handover::None { not_before },
            ..
        } = self.tunnel
        else {
            return None;
        };
        let held = self.held.as_ref()?;
        (held.id != token.id && held.usable(now)).then_some(not_before)
    }

    pub(super) fn handover_timeout(&self) -> Option<Duration> {
        if let TunnelPhase::Up {
            handover: Handover::Connecting { until, .. },
            ..
        } = self.tunnel
        {
            return Some(until);
        }
        self.handover_due(self.checked)
            .map(|due| due.max(self.checked + IDLE_CHECK_INTERVAL))
    }

    pub(super) fn start_handover(&mut self, now: Now, actions: &mut Vec<Action>) {
        if self
            .handover_due(now.elapsed)
            .is_none_or(|due| now.elapsed < due)
        {
            return;
        }
        let forced = !now.idle;
        if forced && !self.relay_check_due(now.elapsed) {
            return;
        }
        let id = self.new_id();
        if let (TunnelPhase::Up { handover, .. }, Some(held)) = (&mut self.tunnel, &mut self.held) {
            *handover = Handover::Connecting {
                id,
                until: now.elapsed + CONNECT_TIMEOUT,
                token: held.take(),
            };
            actions.push(Action::StartHandover { id, forced });
        }
    }

    /// Returns whether the relay is about to find that the running tunnel's token has expired.
    fn relay_check_due(&self, now: Duration) -> bool {
        let TunnelPhase::Up { since, token, .. } = self.tunnel else {
            return false;
        };
        let Some(expires) = token.expires else {
            return false;
        };
        let interval = self.timeouts.relay_check;
        let margin = MARGIN.min(interval / 2);
        // Lifetimes are often a multiple of `interval`: the result must not depend on the relay's
        // clock.
        let lifetime = expires.saturating_sub(since).saturating_sub(margin);
        let checks = lifetime.as_nanos().div_ceil(interval.as_nanos().max(1));
        let checks = u32::try_from(checks).unwrap_or(u32::MAX);
        now + margin >= since.saturating_add(interval.saturating_mul(checks.max(1)))
    }

    /// Handles a failed handover. The running tunnel stays.
    pub(super) fn handover_failed(
        &mut self,
        now: Duration,
        fault: ConnectFault,
        actions: &mut Vec<Action>,
    ) {
        match fault {
            ConnectFault::Refused => {
                self.token_refused(now, actions);
            }
            ConnectFault::Unreachable | ConnectFault::Busy => self.token_unused(),
            ConnectFault::Broken => {}
        }
        let not_before = match fault {
            ConnectFault::Busy => {
                self.busy_attempts += 1;
                let doublings = self.busy_attempts.saturating_sub(FAST_RETRIES);
                now + IDLE_CHECK_INTERVAL * (1 << doublings.min(MAX_DOUBLINGS))
            }
            ConnectFault::Unreachable | ConnectFault::Broken | ConnectFault::Refused => {
                self.handover_failures += 1;
                now + tunnel_delay(self.handover_failures, &mut self.rng)
            }
        };
        if let TunnelPhase::Up { handover, .. } = &mut self.tunnel {
            *handover = Handover::None { not_before };
        }
    }
}
