//! What time brings.

use tokio::time::Instant;

use super::Core;
use super::phase::{Action, Drain, Link, Phase};
use crate::cause::Cause;

impl Core {
    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        earliest([
            self.phase_deadline(),
            self.resume_at,
            self.outbox.next_expiry(),
            self.renew_by
                .filter(|_| matches!(self.phase, Phase::Online { .. })),
            self.outbox.store_due(),
        ])
    }

    fn phase_deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Connecting { due, .. } => Some(*due),
            Phase::Subscribing { link, due, .. } => Some(link.pulse.due().min(*due)),
            Phase::Greeting { link } => Some(link.pulse.due()),
            Phase::Online { link } => {
                earliest([Some(link.pulse.due()), self.acknowledgement_due(link)])
            }
            Phase::Draining {
                link,
                step,
                deadline,
                ..
            } => match step {
                Drain::Flushing(until) => Some(link.pulse.due().min(*until).min(*deadline)),
                Drain::Goodbye(_) => Some(link.pulse.due().min(*deadline)),
                Drain::Leaving => Some(*deadline),
            },
            Phase::Renewing { due, .. } => Some(*due),
            Phase::Closing { deadline } => Some(*deadline),
            Phase::Waiting { hooks: true, .. } | Phase::Stopped => None,
            Phase::Waiting {
                until,
                hooks: false,
                ..
            } => Some(*until),
        }
    }

    /// When the next acknowledgement is overdue. They come one after the other.
    fn acknowledgement_due(&self, link: &Link) -> Option<Instant> {
        let due = self.outbox.next_due()?;
        Some(link.patience.map_or(due, |patience| patience.max(due)))
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.outbox.expire(now);
        if let Some(batch) = self.outbox.ledger().and_then(|ledger| ledger.collect(now)) {
            self.actions.push_back(Action::Store(batch));
        }
        if self.resume_at.is_some_and(|time| time <= now) {
            self.resume_at = None;
            self.advance(now);
        }
        self.leave_if_quiet(now);
        if self.phase_deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        let leaving = self.is_leaving() || matches!(self.phase, Phase::Renewing { .. });
        if !leaving && let Some(link) = self.link() {
            match link.pulse.beat(now) {
                Ok(false) => {}
                Ok(true) => self.actions.push_back(Action::Ping),
                Err(cause) => return self.lost(cause, now),
            }
        }
        match &self.phase {
            Phase::Connecting { .. } => self.lost(Cause::ConnectTimeout, now),
            Phase::Subscribing { due, .. } if *due <= now => {
                self.lost(Cause::SubscribeTimeout, now)
            }
            Phase::Online { link }
                if self.acknowledgement_due(link).is_some_and(|due| due <= now) =>
            {
                self.lost(Cause::AcknowledgeTimeout, now);
            }
            Phase::Subscribing { .. } | Phase::Greeting { .. } | Phase::Online { .. } => {}
            Phase::Draining {
                step: Drain::Flushing(_),
                deadline,
                ..
            } if *deadline > now => self.advance(now),
            Phase::Draining { deadline, .. } if *deadline <= now => self.close(now),
            Phase::Draining { .. } => {}
            Phase::Renewing { .. } => self.lost(Cause::Renewed, now),
            Phase::Closing { .. } => self.end(),
            Phase::Waiting { .. } => self.open(now),
            Phase::Stopped => {}
        }
    }
}

fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    times.into_iter().flatten().min()
}
