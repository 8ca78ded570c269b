//! Timers: the next deadline, and what to do when it has passed.

use tokio::time::Instant;

use super::Core;
use super::keep_alive::KeepAliveAction;
use super::phase::{Action, ConnectionState, DrainStep, Phase};
use crate::error::cause::Cause;

impl Core {
    /// Returns when to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        earliest([
            self.phase_deadline(),
            self.resume_at,
            self.outbox.next_expiry(),
            self.reconnect_by
                .filter(|_| matches!(self.phase, Phase::Online { .. })),
            self.outbox.store_due(),
        ])
    }

    fn phase_deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Connecting { due, .. } => Some(*due),
            Phase::Subscribing {
                connection, due, ..
            } => Some(connection.keep_alive.due().min(*due)),
            Phase::RunningHooks { connection } => Some(connection.keep_alive.due()),
            Phase::Online { connection } => earliest([
                Some(connection.keep_alive.due()),
                self.acknowledgement_due(connection),
                connection.pending_controls.due(),
            ]),
            Phase::Draining {
                connection,
                step,
                deadline,
                ..
            } => match step {
                DrainStep::Flushing(until) => {
                    Some(connection.keep_alive.due().min(*until).min(*deadline))
                }
                DrainStep::Goodbye(_) => Some(connection.keep_alive.due().min(*deadline)),
                DrainStep::Disconnecting => Some(*deadline),
            },
            Phase::Reconnecting { due, .. } => Some(*due),
            Phase::Closing { deadline } => Some(*deadline),
            Phase::Waiting { hooks: true, .. } | Phase::Stopped => None,
            Phase::Waiting {
                until,
                hooks: false,
                ..
            } => Some(*until),
        }
    }

    /// Returns when the next acknowledgement is overdue. Acknowledgements arrive in order.
    fn acknowledgement_due(&self, connection: &ConnectionState) -> Option<Instant> {
        let due = self.outbox.next_due()?;
        Some(
            connection
                .ack_not_due_before
                .map_or(due, |ack_not_due_before| ack_not_due_before.max(due)),
        )
    }

    /// Handles the deadlines that have passed.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.outbox.expire(now);
        if let Some(batch) = self
            .outbox
            .write_behind()
            .and_then(|write_behind| write_behind.collect(now))
        {
            self.actions.push_back(Action::Store(batch));
        }
        if self.resume_at.is_some_and(|time| time <= now) {
            self.resume_at = None;
            self.advance(now);
        }
        self.reconnect_if_idle(now);
        if self.phase_deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        let leaving = self.is_disconnecting() || matches!(self.phase, Phase::Reconnecting { .. });
        if !leaving && let Some(connection) = self.connection() {
            match connection.keep_alive.poll(now) {
                KeepAliveAction::Wait => {}
                KeepAliveAction::SendPing => self.actions.push_back(Action::Ping),
                KeepAliveAction::Disconnect(cause) => return self.lost(cause, now),
            }
        }
        match &self.phase {
            Phase::Connecting { .. } => self.lost(Cause::ConnectTimeout, now),
            Phase::Subscribing { due, .. } if *due <= now => {
                self.lost(Cause::SubscribeTimeout, now)
            }
            Phase::Online { connection }
                if self
                    .acknowledgement_due(connection)
                    .is_some_and(|due| due <= now) =>
            {
                self.lost(Cause::AcknowledgeTimeout, now);
            }
            Phase::Online { connection }
                if connection
                    .pending_controls
                    .due()
                    .is_some_and(|due| due <= now) =>
            {
                self.lost(Cause::SubscribeTimeout, now);
            }
            Phase::Subscribing { .. } | Phase::RunningHooks { .. } | Phase::Online { .. } => {}
            Phase::Draining {
                step: DrainStep::Flushing(_),
                deadline,
                ..
            } if *deadline > now => self.advance(now),
            Phase::Draining { deadline, .. } if *deadline <= now => self.close(now),
            Phase::Draining { .. } => {}
            Phase::Reconnecting { .. } => self.lost(Cause::Reconnect, now),
            Phase::Closing { .. } => self.end(),
            Phase::Waiting { .. } => self.open(now),
            Phase::Stopped => {}
        }
    }
}

fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    times.into_iter().flatten().min()
}
