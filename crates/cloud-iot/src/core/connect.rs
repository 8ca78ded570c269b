//! Connecting, going online, and losing the connection: CONNACK, hooks, birth message, and the
//! back-off before the next attempt. Not here: [SUBSCRIBE](super::subscribe).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Core;
use super::connect_options::ConnectOptions;
use super::keep_alive::{KeepAlive, PROBE_TIMEOUT};
use super::pending_controls::PendingControls;
use super::phase::{Action, ConnectionState, Phase};
use super::recent_topics::RecentTopics;
use crate::core::backoff::Retry;
use crate::core::connection_event::ServerCapabilities;
use crate::error::cause::Cause;
use crate::mqtt::message::QoS;
use crate::mqtt::reason_code::ReasonCode;
use crate::outbox::{LogRecord, PacketIds};
use crate::session::event::{SessionEvent, SessionState};

/// Extra time beyond the connection's own limit, which reports a more specific cause.
const CONNECT_GRACE: Duration = Duration::from_secs(1);

/// AWS IoT Core accepts one CONNECT per second from a client, however often its network changes.
pub(super) const CONNECT_INTERVAL: Duration = Duration::from_secs(1);

/// The largest packet whose size does not depend on the session: a PUBREC with a reason code.
const MIN_PACKET_BYTES: u32 = 6;

/// A connection that the server closes within this time without a reason was probably taken over by
/// another client with the same ID.
const TAKEOVER_TIME: Duration = Duration::from_secs(10);

impl Core {
    pub(super) fn open(&mut self, now: Instant) {
        self.reconnect_by = None;
        self.attempt_started = now;
        self.phase = Phase::Connecting {
            due: now + self.config.timeouts.connect + CONNECT_GRACE,
            shortened: false,
        };
        let attempt = self.failures.count().saturating_add(1);
        self.actions
            .push_back(Action::State(SessionState::Connecting { attempt }));
        self.actions.push_back(Action::Open(ConnectOptions {
            endpoint: self.endpoints.current(),
            lenient: self.lenient,
            will_at_most_once: self.will_at_most_once,
            will_not_retained: self.will_not_retained,
        }));
    }

    /// Handles a jump of the wall clock by `gain`: the state of the network and of the connection
    /// is unknown.
    pub(crate) fn handle_clock_jump(&mut self, gain: Duration, now: Instant) {
        match &mut self.phase {
            Phase::Subscribing { .. } | Phase::RunningHooks { .. } | Phase::Online { .. } => {
                self.lost(Cause::ClockJump(gain), now);
            }
            // The suspended time counts towards the delay, except for the last part, which spreads
            // devices that resume together.
            Phase::Waiting { until, .. } => {
                *until = (*until).min(
                    now + self
                        .config
                        .backoff
                        .delay(Retry::Transient, 1, (self.random)()),
                );
            }
            // These have short limits of their own.
            Phase::Connecting { .. }
            | Phase::Reconnecting { .. }
            | Phase::Draining { .. }
            | Phase::Closing { .. }
            | Phase::Stopped => {}
        }
    }

    /// Handles a network change: an existing connection or attempt must respond soon, and a delay
    /// for a network failure ends.
    pub(crate) fn handle_network_change(&mut self, now: Instant) {
        match &mut self.phase {
            Phase::Subscribing { connection, .. }
            | Phase::RunningHooks { connection }
            | Phase::Online { connection } => {
                if connection.keep_alive.probe_now(now) {
                    self.actions.push_back(Action::Ping);
                }
            }
            // Not twice in a row: over a slow network that keeps changing, no attempt would ever
            // complete.
            Phase::Connecting { due, shortened } if !self.last_attempt_shortened => {
                *due = (*due).min(now + PROBE_TIMEOUT);
                *shortened = true;
            }
            Phase::Waiting {
                until,
                network: true,
                ..
            } => *until = (*until).min(now.max(self.attempt_started + CONNECT_INTERVAL)),
            // The server's refusals, and two clients with one ID, are the same on every network.
            Phase::Connecting { .. }
            | Phase::Waiting { .. }
            | Phase::Draining { .. }
            | Phase::Reconnecting { .. }
            | Phase::Closing { .. }
            | Phase::Stopped => {}
        }
    }

    /// Returns whether the session waits for its next attempt, with no other wake-up.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. })
    }

    pub(super) fn connected(&mut self, capabilities: ServerCapabilities, now: Instant) {
        if !matches!(self.phase, Phase::Connecting { .. }) {
            return;
        }
        if capabilities.receive_maximum == 0 {
            return self.lost(
                Cause::Protocol("CONNACK with a receive maximum of 0".into()),
                now,
            );
        }
        if let Some(limit) = (capabilities.maximum_packet).filter(|limit| *limit < MIN_PACKET_BYTES)
        {
            let fault = format!("CONNACK with a maximum packet size of {limit}");
            return self.lost(Cause::Protocol(fault), now);
        }
        // A server that was updated may support what it has refused before.
        self.will_at_most_once = !capabilities.at_least_once;
        self.will_not_retained = !capabilities.retain;
        self.endpoints.on_connected();
        if !capabilities.session_present || self.config.session_expiry.is_none() {
            self.granted = false;
            self.unacknowledged.session_gone();
            self.outbox.session_gone();
        }
        let in_flight = capabilities
            .receive_maximum
            .min(self.config.limits.in_flight);
        let packet_ids = PacketIds::new(in_flight, self.outbox.reserved());
        let connection = ConnectionState {
            since: now,
            keep_alive: KeepAlive::new(capabilities.keep_alive, now),
            capabilities,
            packet_ids,
            ack_not_due_before: None,
            recent: RecentTopics::default(),
            refused: Vec::new(),
            pending_controls: PendingControls::default(),
        };
        // Granted in this process: an earlier process may have subscribed to other filters.
        let from = if self.granted {
            self.subscriptions.len()
        } else {
            0
        };
        self.subscribe(connection, from, now);
    }

    pub(super) fn go_online(&mut self, mut connection: ConnectionState, now: Instant) {
        if let Some(mut birth) = self.config.birth.clone() {
            // Only its PUBACK shows that the birth message is not the cause, and releases the
            // suspect. Without QoS 1 no suspect is sent either.
            if self.outbox.has_suspect() && connection.capabilities.at_least_once {
                birth.qos = QoS::AtLeastOnce;
            }
            let birth = connection.capabilities.fit(birth);
            match connection.capabilities.check(&birth, false) {
                Ok(()) => {
                    let packet_ids = &mut connection.packet_ids;
                    connection.recent.publish(&birth.topic);
                    let (_, birth) = self.outbox.send_internal(birth, packet_ids, now);
                    self.actions.push_back(Action::Publish(birth));
                }
                Err(error) => self
                    .actions
                    .push_back(Action::Log(LogRecord::BirthRejected(error))),
            }
        }
        self.metrics.online(now);
        let since = connection.since.into_std();
        self.phase = Phase::Online { connection };
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
        let (cause, mut connection, hooks_started) =
            match std::mem::replace(&mut self.phase, Phase::Stopped) {
                Phase::Connecting { shortened, .. } => {
                    self.last_attempt_shortened = shortened && cause == Cause::ConnectTimeout;
                    (cause, None, false)
                }
                Phase::Subscribing { connection, .. } => (cause, Some(connection), false),
                Phase::RunningHooks { connection } | Phase::Online { connection } => {
                    (cause, Some(connection), true)
                }
                // The reconnection is planned, regardless of what ends the connection.
                Phase::Reconnecting { connection, .. } => {
                    (Cause::Reconnect, Some(connection), true)
                }
                phase @ Phase::Draining { .. } => {
                    self.phase = phase;
                    return self.close(now);
                }
                phase => {
                    self.phase = phase;
                    return;
                }
            };
        if connection.is_some() {
            self.last_attempt_shortened = false;
        }
        self.resume_at = None;
        if let Cause::Disconnected { reason, .. } = cause
            && reason.is_packet_error()
        {
            self.outbox.record_disconnect(reason, now);
        }
        self.outbox.connection_lost();
        self.unacknowledged.connection_lost();
        let topics = match (subscribing, connection.as_mut()) {
            (Some(asked), _) => {
                let filters = self.subscriptions.get(asked).unwrap_or_default();
                filters
                    .iter()
                    .map(|asked| asked.filter.to_string())
                    .collect()
            }
            (None, Some(connection)) => std::mem::take(&mut connection.recent).into_topics(),
            (None, None) => Vec::new(),
        };
        let cause = cause.about_topics(topics);
        let connected =
            connection.map(|connection| now.saturating_duration_since(connection.since));
        let cause = match (cause, connected) {
            (Cause::Closed { .. }, _) => Cause::Closed {
                soon: connected.is_some_and(|time| time < TAKEOVER_TIME),
            },
            // The system gave up on an established connection.
            (Cause::ConnectTimeout, Some(_)) => Cause::KeepAlive,
            (other, _) => other,
        };
        // Two clients with one ID take the session over from each other. Each is online while the
        // other waits, so the time spent connected must not reset the back-off.
        let credited = if cause.is_takeover() { None } else { connected };
        let another_service = connected.is_none()
            && !self.last_attempt_shortened
            && self.endpoints.on_failure(&cause);
        self.lenient |= matches!(cause, Cause::Protocol(_));
        let retry_in = if cause == Cause::Reconnect || self.fit_will(&cause) {
            self.failures.credit(&self.config.backoff, connected);
            (self.attempt_started + CONNECT_INTERVAL).saturating_duration_since(now)
        } else {
            let failures = self.failures.record(&self.config.backoff, credited);
            // A failure of another service says nothing about the server, which the next attempt
            // targets.
            let retry = if another_service {
                Retry::Transient
            } else {
                cause.retry()
            };
            (self.config.backoff).delay(retry, failures, (self.random)())
        };
        self.metrics.lost(&cause, now);
        let cause = Arc::new(cause);
        self.phase = Phase::Waiting {
            until: now + retry_in,
            hooks: hooks_started,
            network: cause.is_network_related(),
            identity: cause.is_identity_related(),
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
        if hooks_started {
            self.actions.push_back(Action::DisconnectHooks(Some(cause)));
        }
        self.remove_unused(now);
    }

    /// Adapts the will if the server has refused CONNECT because of it; returns whether it has, so
    /// that the next attempt differs from this one.
    fn fit_will(&mut self, cause: &Cause) -> bool {
        let (Cause::NotAccepted { reason, .. }, Some(will)) = (cause, &self.config.will) else {
            return false;
        };
        let (matters, lowered) = match *reason {
            ReasonCode::QOS_NOT_SUPPORTED => {
                (will.qos == QoS::AtLeastOnce, &mut self.will_at_most_once)
            }
            ReasonCode::RETAIN_NOT_SUPPORTED => (will.retain, &mut self.will_not_retained),
            _ => return false,
        };
        matters && !std::mem::replace(lowered, true)
    }
}
