//! A connection that is left for a new one because its owner wants so, at a quiet moment: with the
//! goodbye and DISCONNECT, and without the wait that a failure has.

use std::time::Duration;

use tokio::time::Instant;

use super::Core;
use super::connecting::CONNECT_INTERVAL;
use super::phase::{Drain, Phase};

/// How long a quiet moment is waited for. What is under way by then is sent again on the new
/// connection, as after any loss.
const PATIENCE: Duration = Duration::from_secs(60);

/// For goodbye and DISCONNECT to be written.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

impl Core {
    /// From now on connections are to be made in another way: the one that is there, or is being
    /// made, is left for a new one. One that is made after this call is such a new one.
    pub(crate) fn renew(&mut self, now: Instant) {
        // The old settings may be what it waits for.
        if let Phase::Waiting {
            until,
            identity: true,
            ..
        } = &mut self.phase
        {
            *until = (*until).min(now.max(self.opened + CONNECT_INTERVAL));
        }
        if matches!(
            self.phase,
            Phase::Connecting { .. }
                | Phase::Subscribing { .. }
                | Phase::Greeting { .. }
                | Phase::Online { .. }
        ) {
            self.renew_by.get_or_insert(now + PATIENCE);
            self.leave_if_quiet(now);
        }
    }

    /// Begins to leave if that is wanted, and nothing is under way or the patience is at its end.
    pub(super) fn leave_if_quiet(&mut self, now: Instant) {
        let Some(patience) = self.renew_by else {
            return;
        };
        let quiet = self.outbox.is_empty() && self.inbound.is_idle() && self.requests.is_empty();
        if !quiet && patience > now {
            return;
        }
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Online { link } => {
                self.renew_by = None;
                self.phase = Phase::Renewing {
                    link,
                    step: Drain::Flushing(now),
                    due: now + LEAVE_LIMIT,
                };
                self.advance(now);
            }
            phase => self.phase = phase,
        }
    }
}
