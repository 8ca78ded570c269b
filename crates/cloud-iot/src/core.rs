//! The pure state machine of a session, without sockets, tasks, clock or randomness.
//!
//! Time and random numbers are inputs. Events come in by the `handle_*` methods, and calls of the
//! session's handle as commands, such as [`Core::publish`] and [`Core::stop`]. The resulting
//! actions are taken in order from [`Core::poll_action`], and [`Core::handle_timeout`] is due at
//! [`Core::poll_timeout`]. The [driver](crate::driver) performs the actions.
//!
//! ```text
//! Connecting → Subscribing → RunningHooks → Online → Draining → Closing → Stopped
//!      ↑            ↓            ↓         ↓
//!      └───────── Waiting ←──────┴─────────┘
//! ```
//!
//! `Reconnecting` lies between `Online` and `Waiting` for a planned reconnection.
//!
//! Invariants: the core is in exactly one phase, which holds the state that belongs to it alone;
//! only the birth message is sent before the subscriptions are granted and the on-connect hooks
//! have ended; every phase but `Stopped` has a deadline (keep-alive in `Online`), or waits for
//! hooks, which have their own.
//!
//! The core runs under a lock, so neither it nor the outbox writes to the log: see
//! [`LogRecord`](crate::outbox::LogRecord).

pub(crate) mod acknowledgement_order;
mod added_subscriptions;
pub(crate) mod backoff;
mod connect;
pub(crate) mod connect_options;
pub(crate) mod connection_event;
pub(crate) mod endpoint;
mod keep_alive;
mod metrics;
mod pending_controls;
mod pending_requests;
mod phase;
mod publish;
mod receive;
mod recent_topics;
mod reconnect;
mod shutdown;
mod subscribe;
mod timers;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

use self::added_subscriptions::FilterUsers;
pub(crate) use self::added_subscriptions::Granted;
use self::endpoint::EndpointSelector;
pub(crate) use self::phase::Action;
use self::phase::{ConnectionState, DrainStep, Phase};
use crate::core::acknowledgement_order::{MAX_UNACKNOWLEDGED, UnacknowledgedMessages};
use crate::core::backoff::{Failures, Retry};
use crate::core::connection_event::ConnectionEvent;
use crate::core::metrics::Metrics;
use crate::core::pending_requests::PendingRequests;
use crate::error::cause::Cause;
use crate::mqtt::message::Subscription;
use crate::mqtt::reader::Packet;
use crate::mqtt::reason_code::ReasonCode;
use crate::outbox::store::StoreError;
use crate::outbox::write_behind::Batch;
use crate::outbox::{LogRecord, Next, Outbox, Restored, UnexpectedPacket};
use crate::session::config::SessionConfig;
use crate::session::event::{SessionEvent, StopReport};

/// Source of random numbers, uniform in 0–1.
pub(crate) type Random = Box<dyn FnMut() -> f64 + Send>;

pub(crate) struct Core {
    config: Arc<SessionConfig>,
    random: Random,
    phase: Phase,
    failures: Failures,
    /// Selects the endpoint of the next attempt.
    endpoints: EndpointSelector,
    /// When the last attempt started.
    attempt_started: Instant,
    /// Whether a connection has ended because the server violated the protocol.
    lenient: bool,
    /// Whether the server does not support QoS 1, or retained messages, for the will: by its last
    /// CONNACK, or by a refusal since.
    will_at_most_once: bool,
    will_not_retained: bool,
    /// Whether a network change cut the previous attempt short.
    last_attempt_shortened: bool,
    outbox: Outbox,
    /// When the pacer allows the next message, if the queue waits for the pacer.
    resume_at: Option<Instant>,
    requests: PendingRequests,
    unacknowledged: UnacknowledgedMessages,
    /// Deadline of a planned reconnection: until then it waits for the connection to be idle.
    reconnect_by: Option<Instant>,
    /// Whether the server has granted all subscriptions of the persistent session.
    granted: bool,
    /// Those of the configuration, and then the added ones.
    subscriptions: Vec<Subscription>,
    users: Vec<FilterUsers>,
    actions: VecDeque<Action>,
    report: StopReport,
    metrics: Metrics,
}

impl Core {
    /// Creates a core that opens its first connection at once.
    pub(crate) fn new(config: Arc<SessionConfig>, random: Random, now: Instant) -> Self {
        let outbox = Outbox::new(&config.limits, config.overflow);
        let unacknowledged = UnacknowledgedMessages::new(MAX_UNACKNOWLEDGED);
        let endpoints = EndpointSelector::new(
            config.port,
            config.fallback_port.for_port(config.port),
            config.preferred_port,
        );
        let metrics = Metrics::new(&config.client_id);
        let subscriptions = config.subscriptions.clone();
        let mut core = Self {
            config,
            metrics,
            random,
            phase: Phase::Stopped,
            failures: Failures::default(),
            endpoints,
            attempt_started: now,
            lenient: false,
            will_at_most_once: false,
            will_not_retained: false,
            last_attempt_shortened: false,
            outbox,
            resume_at: None,
            requests: PendingRequests::default(),
            unacknowledged,
            reconnect_by: None,
            granted: false,
            subscriptions,
            users: Vec::new(),
            actions: VecDeque::new(),
            report: StopReport::default(),
        };
        core.open(now);
        core
    }

    /// Restores messages from a store, and stores the messages that are accepted from now on.
    pub(crate) fn restore(&mut self, restored: Vec<Restored>) {
        self.outbox.restore(restored, self.config.store_delay);
    }

    /// Returns the next action, in order.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        let note = self.outbox.next_log_record().map(Action::Log);
        note.or_else(|| self.actions.pop_front())
    }

    /// Returns the port of the current connection, or of the next attempt.
    pub(crate) fn port(&self) -> u16 {
        self.endpoints.port()
    }

    /// Returns how the session ended, once it has.
    pub(crate) fn report(&mut self) -> StopReport {
        StopReport {
            stored: self
                .outbox
                .write_behind()
                .map_or(0, |write_behind| write_behind.stored_count()),
            ..self.report
        }
    }

    /// Returns whether the session is stopping.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(
            self.phase,
            Phase::Draining { .. } | Phase::Closing { .. } | Phase::Stopped
        )
    }

    /// Handles an event of the connection.
    pub(crate) fn handle_connection_event(&mut self, event: ConnectionEvent, now: Instant) {
        match event {
            ConnectionEvent::Connected(capabilities) => self.connected(capabilities, now),
            ConnectionEvent::Subscribed(suback) => self.subscribed(&suback, now),
            ConnectionEvent::Written(id) => {
                match self
                    .outbox
                    .written(id, now, self.config.timeouts.acknowledge)
                {
                    Ok(message) => {
                        self.requests.written(message);
                        self.advance(now);
                    }
                    Err(UnexpectedPacket) => {
                        let fault = "a PUBLISH was written that was not sent".into();
                        self.lost(Cause::Internal(fault), now);
                    }
                }
            }
            ConnectionEvent::Acknowledged(id, reason) => self.acknowledged(id, reason, now),
            ConnectionEvent::Message(incoming) => self.received(incoming, now),
            ConnectionEvent::Undeliverable {
                packet_id,
                duplicate,
            } => self.received_undeliverable(packet_id, duplicate, now),
            ConnectionEvent::Unexpected(Packet::UnsubAck, packet_id)
                if self.unsubscribed(packet_id, now) => {}
            ConnectionEvent::Unexpected(packet, packet_id) => {
                self.unexpected(packet, packet_id, now);
            }
            ConnectionEvent::Progress => self.progress(now),
            ConnectionEvent::PingWritten => {
                if let Some(connection) = self.connection() {
                    connection.keep_alive.on_ping_written();
                }
            }
            ConnectionEvent::PingResp => {
                if let Some(connection) = self.connection() {
                    connection.keep_alive.on_pingresp(now);
                }
            }
            ConnectionEvent::Disconnected => {
                if self.is_disconnecting() {
                    self.report.clean = true;
                    self.close(now);
                } else if matches!(self.phase, Phase::Reconnecting { .. }) {
                    self.lost(Cause::Reconnect, now);
                }
            }
            ConnectionEvent::Lost(cause) => self.lost(cause, now),
        }
        self.reconnect_if_idle(now);
    }

    /// Handles the result of writing a batch to the store.
    pub(crate) fn handle_stored(&mut self, outcome: Result<(), StoreError>, now: Instant) {
        if let Some(error) = self.outbox.stored(outcome, now) {
            let event = SessionEvent::StoreFailed { error };
            self.actions.push_back(Action::Event(event));
        }
    }

    /// Returns what is left to store when the session has ended. Call it until it returns `None`.
    pub(crate) fn poll_last_batch(&mut self) -> Option<Batch> {
        self.outbox.write_behind()?.collect_last()
    }

    fn acknowledged(&mut self, packet_id: u16, reason: ReasonCode, now: Instant) {
        let limit = self.config.timeouts.acknowledge;
        let due = self.outbox.due(packet_id);
        let Ok(answered) = self.outbox.acknowledged(packet_id, reason, now) else {
            return self.unexpected(Packet::PubAck, packet_id, now);
        };
        if answered.throttled {
            let (backoff, random) = (&self.config.backoff, &mut self.random);
            let wait = |pauses| backoff.delay(Retry::Busy, pauses, random());
            self.outbox.pause_sending(reason, now, wait);
        }
        // The message was written `limit` before its acknowledgement is due.
        let after = due.map(|due| (now + limit).saturating_duration_since(due));
        self.metrics.acknowledged(after, reason.is_failure());
        self.record_activity(now);
        if let Some(connection) = self.connection().filter(|_| answered.oldest) {
            connection.ack_not_due_before = Some(now + limit);
        }
        self.advance(now);
    }

    /// Extends the deadlines: the server receives, however slowly, so acknowledgements may take
    /// longer.
    fn progress(&mut self, now: Instant) {
        self.record_activity(now);
        let limit = self.config.timeouts.acknowledge;
        if let Some(connection) = self.connection() {
            connection.ack_not_due_before = Some(now + limit);
        }
    }

    /// Updates the metrics of the outbox.
    pub(crate) fn update_metrics(&mut self, now: Instant) {
        let (queued, in_flight) = self.outbox.counts();
        let dropped = self.outbox.take_dropped();
        self.metrics.update(queued, in_flight, &dropped, now);
    }

    /// Handles the end of all hooks that were started.
    pub(crate) fn handle_hooks_finished(&mut self, now: Instant) {
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::RunningHooks { connection } => {
                self.go_online(connection, now);
                self.reconnect_if_idle(now);
            }
            Phase::Waiting {
                until,
                network,
                identity,
                ..
            } => {
                self.phase = Phase::Waiting {
                    until,
                    hooks: false,
                    network,
                    identity,
                };
                self.handle_timeout(now);
            }
            Phase::Closing { .. } => self.end(),
            phase => self.phase = phase,
        }
    }

    /// Sends what the receive maximum and the pacer allow.
    fn send_queued(&mut self, now: Instant) {
        let connection = match &mut self.phase {
            Phase::Online { connection }
            | Phase::Draining {
                connection,
                step: DrainStep::Flushing(_),
                ..
            } => connection,
            _ => return,
        };
        self.resume_at = loop {
            match self.outbox.next_to_send(
                &mut connection.packet_ids,
                &connection.capabilities,
                now,
            ) {
                Next::Message(message) => {
                    connection.keep_alive.on_send(now);
                    connection.recent.publish(&message.message.topic);
                    self.actions.push_back(Action::Publish(message));
                }
                Next::At(time) => break Some(time),
                Next::Nothing => break None,
            }
        };
    }

    fn connection(&mut self) -> Option<&mut ConnectionState> {
        match &mut self.phase {
            Phase::Subscribing { connection, .. }
            | Phase::RunningHooks { connection }
            | Phase::Online { connection }
            | Phase::Reconnecting { connection, .. }
            | Phase::Draining { connection, .. } => Some(connection),
            _ => None,
        }
    }

    fn record_activity(&mut self, now: Instant) {
        if let Some(connection) = self.connection() {
            connection.keep_alive.on_receive(now);
        }
    }

    /// Returns whether DISCONNECT is queued or sent, after which nothing may follow.
    fn is_disconnecting(&self) -> bool {
        matches!(
            self.phase,
            Phase::Draining {
                step: DrainStep::Disconnecting,
                ..
            }
        )
    }

    /// Ignores an acknowledgement that belongs to nothing: a doubled one, or a late one. It does no
    /// harm, while the end of the connection would delay all messages.
    fn unexpected(&mut self, packet: Packet, packet_id: u16, now: Instant) {
        self.record_activity(now);
        let record = LogRecord::UnexpectedPacket { packet, packet_id };
        self.actions.push_back(Action::Log(record));
    }
}

#[cfg(test)]
mod tests;
