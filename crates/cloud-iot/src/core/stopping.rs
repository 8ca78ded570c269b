//! The end of a session: empty the outbox, say goodbye, disconnect, run the last hooks, each within
//! the time that is left.

use tokio::time::Instant;

use super::Core;
use super::phase::{Action, Drain, Phase};
use crate::event::{SessionEvent, SessionState};

/// The part of a stop's time that emptying the outbox may take; the rest is kept for the goodbye.
const FLUSH_SHARE: f64 = 0.75;

/// Until when the outbox may be emptied.
fn flush_until(deadline: Instant, now: Instant) -> Instant {
    now + deadline.saturating_duration_since(now).mul_f64(FLUSH_SHARE)
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StopReport {
    /// Whether the session left in order: DISCONNECT was written after all else, or there was no
    /// connection to leave.
    pub clean: bool,
    /// Accepted messages that were not delivered; their receipts say so.
    pub undelivered: usize,
    /// Of these, how many are [stored](crate::SessionBuilder::outbox_store): the next session with
    /// the same store sends them.
    pub kept: usize,
}

impl Core {
    /// Stops the session, `deadline` being when it must have ended. Again, it may only be sooner.
    pub(crate) fn stop(&mut self, deadline: Instant, now: Instant) {
        let (link, step, greeted) = match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Online { link } => {
                let until = flush_until(deadline, now);
                (link, Drain::Flushing(until), true)
            }
            // Its goodbye and DISCONNECT are on their way already.
            Phase::Renewing { link, step, .. } => {
                self.actions
                    .push_back(Action::State(SessionState::Stopping));
                self.phase = Phase::Draining {
                    link,
                    step,
                    deadline,
                    greeted: true,
                };
                return;
            }
            Phase::Greeting { link } => (link, Drain::Leaving, true),
            Phase::Subscribing { link, .. } => (link, Drain::Leaving, false),
            Phase::Waiting { hooks: true, .. } => {
                self.actions
                    .push_back(Action::State(SessionState::Stopping));
                self.report.clean = true;
                self.phase = Phase::Closing { deadline };
                return;
            }
            Phase::Connecting { .. } | Phase::Waiting { .. } => {
                self.actions.push_back(Action::Close);
                self.report.clean = true;
                return self.end();
            }
            mut phase => {
                if let Phase::Draining { deadline: end, .. } | Phase::Closing { deadline: end } =
                    &mut phase
                {
                    *end = deadline.min(*end);
                }
                // A shorter time is for the goodbye as well.
                if let Phase::Draining {
                    step: Drain::Flushing(until),
                    deadline,
                    ..
                } = &mut phase
                {
                    *until = (*until).min(flush_until(*deadline, now));
                }
                self.phase = phase;
                return;
            }
        };
        self.actions
            .push_back(Action::State(SessionState::Stopping));
        if let Some(ledger) = self.outbox.ledger() {
            ledger.hurry(now);
        }
        if matches!(step, Drain::Leaving) {
            self.actions.push_back(Action::Disconnect);
        }
        self.phase = Phase::Draining {
            link,
            step,
            deadline,
            greeted,
        };
        self.advance(now);
    }

    /// The driver ended without being told to: nobody is left to deliver anything.
    pub(crate) fn abandon(&mut self) {
        if !matches!(self.phase, Phase::Stopped) {
            self.end();
        }
    }

    /// Takes the next step after something was delivered.
    pub(super) fn advance(&mut self, now: Instant) {
        self.send_queued(now);
        let (Phase::Draining { link, step, .. } | Phase::Renewing { link, step, .. }) =
            &mut self.phase
        else {
            return;
        };
        if let Drain::Flushing(until) = *step
            && (until <= now || self.outbox.rests_until(until) && self.inbound.is_idle())
        {
            *step = Drain::Leaving;
            if let Some(goodbye) = self.config.goodbye.clone()
                && link.terms.check(&goodbye, false).is_ok()
            {
                let window = &mut link.window;
                let (id, goodbye) = self.outbox.hand_over_own(goodbye, window, now);
                self.actions.push_back(Action::Publish(goodbye));
                *step = Drain::Goodbye(id);
                return;
            }
            self.actions.push_back(Action::Disconnect);
        } else if let Drain::Goodbye(id) = *step
            && !self.outbox.is_pending(id)
        {
            *step = Drain::Leaving;
            self.actions.push_back(Action::Disconnect);
        }
    }

    /// Drops the connection of a stop and runs the last hooks.
    pub(super) fn close(&mut self, now: Instant) {
        self.actions.push_back(Action::Close);
        match self.phase {
            Phase::Draining {
                deadline,
                greeted: true,
                ..
            } if deadline > now => {
                self.actions.push_back(Action::DisconnectHooks(None));
                self.phase = Phase::Closing { deadline };
            }
            _ => self.end(),
        }
    }

    pub(super) fn end(&mut self) {
        self.report.undelivered = self.outbox.len();
        self.outbox.stop();
        self.measures.ended();
        self.requests.clear();
        self.phase = Phase::Stopped;
        self.actions.push_back(Action::Event(SessionEvent::Stopped));
        self.actions.push_back(Action::End);
    }
}
