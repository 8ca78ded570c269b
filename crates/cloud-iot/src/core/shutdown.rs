//! Shutdown: flush the outbox, send the goodbye message, disconnect, and run the last hooks, each
//! within the remaining time.

use tokio::time::Instant;

use super::Core;
use super::phase::{Action, DrainStep, Phase};
use crate::session::event::{SessionEvent, SessionState};

/// Share of the remaining time for flushing the outbox; the rest is reserved for the goodbye
/// message.
const FLUSH_SHARE: f64 = 0.75;

/// Returns the deadline for flushing the outbox.
fn flush_until(deadline: Instant, now: Instant) -> Instant {
    now + deadline.saturating_duration_since(now).mul_f64(FLUSH_SHARE)
}

impl Core {
    /// Stops the session by `deadline`. Another call can only shorten the deadline.
    pub(crate) fn stop(&mut self, deadline: Instant, now: Instant) {
        let (connection, step, hooks_started) =
            match std::mem::replace(&mut self.phase, Phase::Stopped) {
                Phase::Online { connection } => {
                    let until = flush_until(deadline, now);
                    (connection, DrainStep::Flushing(until), true)
                }
                // Its goodbye message and DISCONNECT are already queued.
                Phase::Reconnecting {
                    connection, step, ..
                } => {
                    self.actions
                        .push_back(Action::State(SessionState::Stopping));
                    self.phase = Phase::Draining {
                        connection,
                        step,
                        deadline,
                        hooks_started: true,
                    };
                    return;
                }
                Phase::RunningHooks { connection } => (connection, DrainStep::Disconnecting, true),
                Phase::Subscribing { connection, .. } => {
                    (connection, DrainStep::Disconnecting, false)
                }
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
                    if let Phase::Draining { deadline: end, .. }
                    | Phase::Closing { deadline: end } = &mut phase
                    {
                        *end = deadline.min(*end);
                    }
                    // The goodbye message needs its share of the shorter time, too.
                    if let Phase::Draining {
                        step: DrainStep::Flushing(until),
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
        if let Some(write_behind) = self.outbox.write_behind() {
            write_behind.flush_now(now);
        }
        if matches!(step, DrainStep::Disconnecting) {
            self.actions
                .push_back(Action::Disconnect { keep_will: false });
        }
        self.phase = Phase::Draining {
            connection,
            step,
            deadline,
            hooks_started,
        };
        self.advance(now);
    }

    /// Ends the session because the driver ended without a stop.
    pub(crate) fn abandon(&mut self) {
        if !matches!(self.phase, Phase::Stopped) {
            self.end();
        }
    }

    /// Takes the next step of a flush after a change.
    pub(super) fn advance(&mut self, now: Instant) {
        self.send_queued(now);
        // The status stays, as in any other break that is shorter than the delay of the will.
        let keep_will = self.config.will_delay.is_some()
            && self.config.will.is_some()
            && matches!(self.phase, Phase::Reconnecting { .. });
        let (Phase::Draining {
            connection, step, ..
        }
        | Phase::Reconnecting {
            connection, step, ..
        }) = &mut self.phase
        else {
            return;
        };
        if let DrainStep::Flushing(until) = *step
            && (until <= now || self.outbox.is_idle_until(until) && self.unacknowledged.is_idle())
        {
            *step = DrainStep::Disconnecting;
            let goodbye = self.config.goodbye.clone().filter(|_| !keep_will);
            let goodbye = goodbye.map(|goodbye| connection.capabilities.fit(goodbye));
            if let Some(goodbye) = goodbye
                && connection.capabilities.check(&goodbye, false).is_ok()
            {
                let packet_ids = &mut connection.packet_ids;
                let (id, goodbye) = self.outbox.send_internal(goodbye, packet_ids, now);
                self.actions.push_back(Action::Publish(goodbye));
                *step = DrainStep::Goodbye(id);
                return;
            }
            self.actions.push_back(Action::Disconnect { keep_will });
        } else if let DrainStep::Goodbye(id) = *step
            && !self.outbox.is_pending(id)
        {
            *step = DrainStep::Disconnecting;
            self.actions
                .push_back(Action::Disconnect { keep_will: false });
        }
    }

    /// Drops the connection and runs the last hooks.
    pub(super) fn close(&mut self, now: Instant) {
        self.actions.push_back(Action::Close);
        match self.phase {
            Phase::Draining {
                deadline,
                hooks_started: true,
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
        self.metrics.ended();
        self.requests.clear();
        self.users.clear();
        self.phase = Phase::Stopped;
        self.actions.push_back(Action::Event(SessionEvent::Stopped));
        self.actions.push_back(Action::End);
    }
}
