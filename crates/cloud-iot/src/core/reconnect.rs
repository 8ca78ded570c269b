//! Planned reconnection: when the connection is idle, it is closed with the goodbye message and
//! DISCONNECT, and reopened without back-off.

use std::time::Duration;

use tokio::time::Instant;

use super::Core;
use super::connect::CONNECT_INTERVAL;
use super::phase::{DrainStep, Phase};

/// How long to wait for the connection to be idle. After that, pending messages are resent on the
/// new connection.
const PATIENCE: Duration = Duration::from_secs(60);

/// Time to write the goodbye message and DISCONNECT.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

impl Core {
    /// Requests a planned reconnection, because the TLS settings have changed. It applies to the
    /// current connection or attempt, not to one that starts later.
    pub(crate) fn reconnect(&mut self, now: Instant) {
        // The session may wait because of the old settings.
        if let Phase::Waiting {
            until,
            identity: true,
            ..
        } = &mut self.phase
        {
            *until = (*until).min(now.max(self.attempt_started + CONNECT_INTERVAL));
        }
        if matches!(
            self.phase,
            Phase::Connecting { .. }
                | Phase::Subscribing { .. }
                | Phase::RunningHooks { .. }
                | Phase::Online { .. }
        ) {
            self.reconnect_by.get_or_insert(now + PATIENCE);
            self.reconnect_if_idle(now);
        }
    }

    /// Starts a requested reconnection if the connection is idle or its deadline has passed.
    pub(super) fn reconnect_if_idle(&mut self, now: Instant) {
        let Some(ack_not_due_before) = self.reconnect_by else {
            return;
        };
        let quiet =
            self.outbox.is_empty() && self.unacknowledged.is_idle() && self.requests.is_empty();
        if !quiet && ack_not_due_before > now {
            return;
        }
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Online { connection } => {
                self.reconnect_by = None;
                self.phase = Phase::Reconnecting {
                    connection,
                    step: DrainStep::Flushing(now),
                    due: now + LEAVE_LIMIT,
                };
                self.advance(now);
            }
            phase => self.phase = phase,
        }
    }
}
