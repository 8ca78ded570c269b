//! Moving from a running tunnel to a new one before the relay ends it for its token.
//!
//! The relay keeps one connection for a host name: a new one takes the place of the old one, which is shut down with all
//! that is open in it. So open connections cannot be carried over; what can be done is to move when there are none. And
//! the relay looks at a running tunnel's token seldom, counted from when it was connected, so a tunnel may outlive its
//! token for hours. Hence the order:
//!
//! 1. Once a newer token is there, the first moment at which nothing is open is used.
//! 2. If there is none, the tunnel is left alone up to shortly before the look at which the relay would find its token
//!    expired. What is open then is cut either way; moving first leaves no gap for what comes next.
//! 3. The new tunnel is connected while the old one serves, and only when it is up the old one is let go.
//!
//! A caller that comes in the moment between the last look at what is open and the relay's taking the new tunnel (one or
//! two round trips) is cut and has to try again, as browsers do by themselves. So moves are not made more often than the
//! token is refreshed.
//!
//! Protocol: `docs/protocol.md`, "SniTun" (a newer connection, expiry) and "Remote access" (token).

use std::time::Duration;

use super::{Action, CONNECT_TIMEOUT, ConnectFault, Core, Id, Now, TunnelPhase, UsedToken};
use crate::backoff::tunnel_delay;

/// How often a moment without open connections is looked for.
pub(crate) const IDLE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks that had the relay called in vain, one after the other, that are made in a row; each further one is waited for twice
/// as long, this often at most. All of them together leave enough of [`MARGIN`].
const FAST_RETRIES: u32 = 3;
const MAX_DOUBLINGS: u32 = 4;
/// A tunnel is left at the latest this long before the relay's look: connecting may take half of it. Also how far the
/// relay's clock may be ahead of the platform's.
const MARGIN: Duration = Duration::from_secs(60);

/// Of a tunnel that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Handover {
    /// Nothing under way, and nothing is to be before `not_before`.
    None { not_before: Duration },
    /// The next tunnel is being connected.
    Connecting {
        id: Id,
        until: Duration,
        token: UsedToken,
    },
}

impl Core {
    /// From when on a move may begin; `None` if there is nothing to move to.
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

    /// Whether the relay is about to find that the running tunnel's token has expired.
    fn relay_check_due(&self, now: Duration) -> bool {
        let TunnelPhase::Up { since, token, .. } = self.tunnel else {
            return false;
        };
        let Some(expires) = token.expires else {
            return false;
        };
        let every = self.timing.relay_check;
        let margin = MARGIN.min(every / 2);
        // Lifetimes are often a multiple of `every`: which look it is must not hang on the relay's clock.
        let lifetime = expires.saturating_sub(since).saturating_sub(margin);
        let looks = lifetime.as_nanos().div_ceil(every.as_nanos().max(1));
        let looks = u32::try_from(looks).unwrap_or(u32::MAX);
        now + margin >= since.saturating_add(every.saturating_mul(looks.max(1)))
    }

    /// The running tunnel goes on.
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
