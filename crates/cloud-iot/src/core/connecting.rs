//! From nothing to online, and back: CONNACK, hooks, birth message; the loss of the connection and the wait before the
//! next one. Not here: [SUBSCRIBE](super::subscribing).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Core;
use super::phase::{Action, Link, Phase};
use super::pulse::{PROBE, Pulse};
use super::recent_topics::RecentTopics;
use crate::backoff::Retry;
use crate::cause::Cause;
use crate::event::{SessionEvent, SessionState};
use crate::link::ServerTerms;
use crate::message::QoS;
use crate::outbox::{Note, Window};

/// How long the core waits beyond the connection's own limit, which knows better what took the time.
const CONNECT_GRACE: Duration = Duration::from_secs(1);

/// AWS IoT Core takes one CONNECT a second from a client, however often its network changes.
pub(super) const CONNECT_INTERVAL: Duration = Duration::from_secs(1);

/// A connection that ends within this time without a word is likely to have been ended in favour
/// of another client with the same id.
const SOON: Duration = Duration::from_secs(10);

impl Core {
    pub(super) fn open(&mut self, now: Instant) {
        self.renew_by = None;
        self.opened = now;
        self.phase = Phase::Connecting {
            due: now + self.config.timeouts.connect + CONNECT_GRACE,
            hurried: false,
        };
        let attempt = self.failures.count().saturating_add(1);
        self.actions
            .push_back(Action::State(SessionState::Connecting { attempt }));
        self.actions.push_back(Action::Open(self.ways.current()));
    }

    /// The wall clock has gained so much: what was known of the network and of the connection is out of date.
    pub(crate) fn clock_jumped(&mut self, gain: Duration, now: Instant) {
        match &mut self.phase {
            Phase::Subscribing { .. } | Phase::Greeting { .. } | Phase::Online { .. } => {
                self.lost(Cause::ClockJump(gain), now);
            }
            // The time that was slept through counts, all but the last bit, which spreads the devices that woke
            // together.
            Phase::Waiting { until, .. } => {
                *until = (*until).min(
                    now + self
                        .config
                        .backoff
                        .delay(Retry::Ordinary, 1, (self.random)()),
                );
            }
            // These have short limits of their own.
            Phase::Connecting { .. }
            | Phase::Renewing { .. }
            | Phase::Draining { .. }
            | Phase::Closing { .. }
            | Phase::Stopped => {}
        }
    }

    /// The device may be on another network now. What is under way must show life soon, and a wait for the network
    /// to come back is over.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Subscribing { link, .. } | Phase::Greeting { link } | Phase::Online { link } => {
                if link.pulse.hurry(now) {
                    self.actions.push_back(Action::Ping);
                }
            }
            // Not two in a row: over a slow network that keeps changing none would ever come to its end.
            Phase::Connecting { due, hurried } if !self.cut_short => {
                *due = (*due).min(now + PROBE);
                *hurried = true;
            }
            Phase::Waiting {
                until,
                network: true,
                ..
            } => *until = (*until).min(now.max(self.opened + CONNECT_INTERVAL)),
            // The server's refusals, and two clients with one id, are the same on every network.
            Phase::Connecting { .. }
            | Phase::Waiting { .. }
            | Phase::Draining { .. }
            | Phase::Renewing { .. }
            | Phase::Closing { .. }
            | Phase::Stopped => {}
        }
    }

    /// Whether it waits for its next attempt and nothing else would wake it up in time.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. })
    }

    pub(super) fn connected(&mut self, terms: ServerTerms, now: Instant) {
        if !matches!(self.phase, Phase::Connecting { .. }) {
            return;
        }
        if terms.receive_maximum == 0 {
            return self.lost(
                Cause::Protocol("CONNACK with a receive maximum of 0".into()),
                now,
            );
        }
        if terms.maximum_packet == Some(0) {
            return self.lost(
                Cause::Protocol("CONNACK with a maximum packet size of 0".into()),
                now,
            );
        }
        self.ways.led_through();
        if !terms.session_present || self.config.session_expiry.is_none() {
            self.granted = false;
            self.inbound.session_gone();
            self.outbox.session_gone();
        }
        let in_flight = terms.receive_maximum.min(self.config.limits.in_flight);
        let window = Window::new(in_flight, self.outbox.reserved());
        let link = Link {
            since: now,
            pulse: Pulse::new(terms.keep_alive, now),
            terms,
            window,
            patience: None,
            recent: RecentTopics::default(),
        };
        // Granted in this process, that is: one before it may have asked for others.
        let from = if self.granted {
            self.config.subscriptions.len()
        } else {
            0
        };
        self.subscribe(link, from, now);
    }

    pub(super) fn go_online(&mut self, mut link: Link, now: Instant) {
        if let Some(mut birth) = self.config.birth.clone() {
            // Only its acknowledgement tells that it is not what ends the connections, and lets the suspect leave. Without
            // QoS 1 there, no suspect leaves either.
            if self.outbox.is_under_suspicion() && link.terms.at_least_once {
                birth.qos = QoS::AtLeastOnce;
            }
            match link.terms.check(&birth, false) {
                Ok(()) => {
                    let window = &mut link.window;
                    link.recent.publish(&birth.topic);
                    let (_, birth) = self.outbox.hand_over_own(birth, window, now);
                    self.actions.push_back(Action::Publish(birth));
                }
                Err(error) => self.actions.push_back(Action::Note(Note::Unborn(error))),
            }
        }
        self.measures.online(now);
        let since = link.since.into_std();
        self.phase = Phase::Online { link };
        self.send_queued(now);
        self.actions
            .push_back(Action::State(SessionState::Online { since }));
        self.actions
            .push_back(Action::Event(SessionEvent::Connected));
    }

    pub(super) fn lost(&mut self, cause: Cause, now: Instant) {
        let subscribing = match &self.phase {
            Phase::Subscribing { from, to, .. } => Some(*from..*to),
            _ => None,
        };
        let (cause, mut link, greeted) = match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Connecting { hurried, .. } => {
                self.cut_short = hurried && cause == Cause::ConnectTimeout;
                (cause, None, false)
            }
            Phase::Subscribing { link, .. } => (cause, Some(link), false),
            Phase::Greeting { link } | Phase::Online { link } => (cause, Some(link), true),
            // However it ends, it was to end.
            Phase::Renewing { link, .. } => (Cause::Renewed, Some(link), true),
            phase @ Phase::Draining { .. } => {
                self.phase = phase;
                return self.close(now);
            }
            phase => {
                self.phase = phase;
                return;
            }
        };
        if link.is_some() {
            self.cut_short = false;
        }
        self.resume_at = None;
        if let Cause::Disconnected { reason, .. } = cause
            && reason.blames_a_packet()
        {
            self.outbox.blame(reason, now);
        }
        self.outbox.connection_lost();
        self.inbound.connection_lost();
        let topics = match (subscribing, link.as_mut()) {
            (Some(asked), _) => {
                let filters = self.config.subscriptions.get(asked).unwrap_or_default();
                filters
                    .iter()
                    .map(|asked| asked.filter.to_string())
                    .collect()
            }
            (None, Some(link)) => std::mem::take(&mut link.recent).into_topics(),
            (None, None) => Vec::new(),
        };
        let cause = cause.about_topics(topics);
        let connected = link.map(|link| now.saturating_duration_since(link.since));
        let cause = match (cause, connected) {
            (Cause::Closed { .. }, _) => Cause::Closed {
                soon: connected.is_some_and(|time| time < SOON),
            },
            // The system gave up on a connection that had been made.
            (Cause::ConnectTimeout, Some(_)) => Cause::KeepAlive,
            (other, _) => other,
        };
        // Two clients with one id take the session from each other. Each is online in the other's
        // wait, so that time spent connected must not count, or this would go on at full pace.
        let credited = if cause.is_takeover() { None } else { connected };
        let stranger = connected.is_none() && !self.cut_short && self.ways.failed(&cause);
        let retry_in = if cause == Cause::Renewed {
            self.failures.credit(&self.config.backoff, connected);
            (self.opened + CONNECT_INTERVAL).saturating_duration_since(now)
        } else {
            let failures = self.failures.record(&self.config.backoff, credited);
            // A stranger's fault says nothing about the server, to which the next attempt goes.
            let retry = if stranger {
                Retry::Ordinary
            } else {
                cause.retry()
            };
            (self.config.backoff).delay(retry, failures, (self.random)())
        };
        self.measures.lost(&cause, now);
        let cause = Arc::new(cause);
        self.phase = Phase::Waiting {
            until: now + retry_in,
            hooks: greeted,
            network: cause.is_of_the_network(),
            identity: cause.is_of_the_identity(),
        };
        self.actions.push_back(Action::Close);
        let state = SessionState::Waiting {
            retry_in,
            cause: Arc::clone(&cause),
        };
        self.actions.push_back(Action::State(state));
        let event = SessionEvent::Disconnected {
            reason: Arc::clone(&cause),
            retry_in,
        };
        self.actions.push_back(Action::Event(event));
        if greeted {
            self.actions.push_back(Action::DisconnectHooks(Some(cause)));
        }
    }
}
