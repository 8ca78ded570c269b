//! The phases of a session, and the actions that the core requests.

use std::sync::Arc;

use tokio::time::Instant;

use crate::core::acknowledgement_order::DeliveryId;
use crate::core::connection_event::ServerCapabilities;
use crate::error::cause::Cause;
use crate::mqtt::message::{Message, MessageId, Subscription};
use crate::mqtt::topic::TopicFilter;
use crate::outbox::write_behind::Batch;
use crate::outbox::{LogRecord, Outgoing, PacketIds};
use crate::session::event::{SessionEvent, SessionState};

use super::connect_options::ConnectOptions;
use super::keep_alive::KeepAlive;
use super::pending_controls::PendingControls;
use super::recent_topics::RecentTopics;

/// An action for the driver.
#[derive(Debug)]
pub(crate) enum Action {
    /// Open a connection.
    Open(ConnectOptions),
    /// Send a SUBSCRIBE with this packet id.
    Subscribe(u16, Vec<Subscription>),
    /// Send an UNSUBSCRIBE with this packet id.
    Unsubscribe(u16, TopicFilter),
    /// Start the on-connect hooks; report with
    /// [`handle_hooks_finished`](super::Core::handle_hooks_finished).
    ConnectHooks,
    /// Send a PUBLISH.
    Publish(Outgoing),
    /// Pass a received message to routes and streams.
    Deliver {
        message: Message,
        /// Whether a request has taken it as its response.
        answered: bool,
        /// Identifies the delivery for
        /// [`handle_handlers_finished`](super::Core::handle_handlers_finished).
        delivery: Option<DeliveryId>,
    },
    /// Write to the store; report with [`handle_stored`](super::Core::handle_stored).
    Store(Batch),
    /// Send a PUBACK.
    Acknowledge(u16),
    /// Send a PINGREQ.
    Ping,
    /// Send DISCONNECT.
    Disconnect { keep_will: bool },
    /// Drop the connection, and abort hooks that still run.
    Close,
    /// Start the on-disconnect hooks; report with
    /// [`handle_hooks_finished`](super::Core::handle_hooks_finished).
    DisconnectHooks(Option<Arc<Cause>>),
    /// Publish the session state.
    State(SessionState),
    /// Publish an event.
    Event(SessionEvent),
    /// Write a log record.
    Log(LogRecord),
    /// The session has ended.
    End,
}

/// State of one connection.
#[derive(Debug)]
pub(super) struct ConnectionState {
    pub(super) since: Instant,
    pub(super) capabilities: ServerCapabilities,
    pub(super) packet_ids: PacketIds,
    /// Acknowledgements arrive in order; no message is overdue before this time.
    pub(super) ack_not_due_before: Option<Instant>,
    pub(super) keep_alive: KeepAlive,
    pub(super) recent: RecentTopics,
    /// Subscriptions that the server has refused.
    pub(super) refused: Vec<TopicFilter>,
    /// SUBSCRIBE and UNSUBSCRIBE of callers that are not acknowledged, oldest first.
    pub(super) pending_controls: PendingControls,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Waiting for CONNACK until `due`. `shortened`: a network change made `due` earlier.
    Connecting {
        due: Instant,
        shortened: bool,
    },
    /// Waiting for the SUBACK of the filters `from..to` until `due`.
    Subscribing {
        connection: ConnectionState,
        packet_id: u16,
        from: usize,
        to: usize,
        due: Instant,
    },
    /// The on-connect hooks run. Each has its own timeout; the driver reports when all have ended.
    RunningHooks {
        connection: ConnectionState,
    },
    /// Messages are sent and received.
    Online {
        connection: ConnectionState,
    },
    /// A planned reconnection closes this connection until `due`.
    Reconnecting {
        connection: ConnectionState,
        step: DrainStep,
        due: Instant,
    },
    /// Shutting down until `deadline`. `hooks_started`: the on-connect hooks were started.
    Draining {
        connection: ConnectionState,
        step: DrainStep,
        deadline: Instant,
        hooks_started: bool,
    },
    /// The on-disconnect hooks run until `deadline`.
    Closing {
        deadline: Instant,
    },
    /// Waiting before the next attempt, for the delay and for running hooks. `network`: a network
    /// change may help; `identity`: other TLS settings may help.
    Waiting {
        until: Instant,
        hooks: bool,
        network: bool,
        identity: bool,
    },
    Stopped,
}

/// Progress of a clean disconnect.
#[derive(Debug, Clone, Copy)]
pub(super) enum DrainStep {
    /// The outbox is flushed, and handlers finish messages to acknowledge, until then.
    Flushing(Instant),
    /// The goodbye message is sent.
    Goodbye(MessageId),
    /// DISCONNECT is sent.
    Disconnecting,
}
