//! Where a session can be, and what its core can want.

use std::sync::Arc;

use tokio::time::Instant;

use crate::cause::Cause;
use crate::event::{SessionEvent, SessionState};
use crate::inbound::DeliveryId;
use crate::ledger::Batch;
use crate::link::ServerTerms;
use crate::message::{Message, Subscription};
use crate::outbox::{MessageId, Note, Outgoing, Window};

use super::pulse::Pulse;
use super::recent_topics::RecentTopics;
use super::way::Way;

/// What the driver is to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Make a new connection.
    Open(Way),
    /// Send a SUBSCRIBE with this packet id.
    Subscribe(u16, Vec<Subscription>),
    /// Start the on-connect hooks; report with [`hooks_finished`](super::Core::hooks_finished).
    ConnectHooks,
    /// Send a PUBLISH.
    Publish(Outgoing),
    /// Hand a received message to routes and streams.
    Deliver {
        message: Message,
        /// Whether a request has taken it as its answer.
        answered: bool,
        /// What to tell with [`handled`](super::Core::handled) when its handlers have ended.
        delivery: Option<DeliveryId>,
    },
    /// Write to the store; report with [`stored`](super::Core::stored).
    Store(Batch),
    /// Send a PUBACK.
    Acknowledge(u16),
    /// Send a PINGREQ.
    Ping,
    /// Send DISCONNECT.
    Disconnect,
    /// Drop the connection, and hooks that still run.
    Close,
    /// Start the on-disconnect hooks; report with [`hooks_finished`](super::Core::hooks_finished).
    DisconnectHooks(Option<Arc<Cause>>),
    /// Tell the state.
    State(SessionState),
    /// Tell what happened.
    Event(SessionEvent),
    /// Write a line to the log.
    Note(Note),
    /// Nothing is left to do.
    End,
}

/// What belongs to one connection.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) since: Instant,
    pub(super) terms: ServerTerms,
    pub(super) window: Window,
    /// Acknowledgements come one after the other; no message is overdue before this.
    pub(super) patience: Option<Instant>,
    pub(super) pulse: Pulse,
    pub(super) recent: RecentTopics,
}

#[derive(Debug)]
pub(super) enum Phase {
    /// Waiting for CONNACK until `due`; `hurried`: which is early, for the network has changed.
    Connecting {
        due: Instant,
        hurried: bool,
    },
    /// Waiting for the SUBACK of the filters `from..to` until `due`.
    Subscribing {
        link: Link,
        packet_id: u16,
        from: usize,
        to: usize,
        due: Instant,
    },
    /// The on-connect hooks run. Each has its own limit; the driver reports when all have ended.
    Greeting {
        link: Link,
    },
    /// Messages flow.
    Online {
        link: Link,
    },
    /// Leaving this connection for another one until `due`.
    Renewing {
        link: Link,
        step: Drain,
        due: Instant,
    },
    /// Saying goodbye until `deadline`. `greeted`: on-connect hooks have been started.
    Draining {
        link: Link,
        step: Drain,
        deadline: Instant,
        greeted: bool,
    },
    /// The on-disconnect hooks of a stop run until `deadline`.
    Closing {
        deadline: Instant,
    },
    /// Waiting before the next attempt: for the time, and for hooks that still run. `network`: another
    /// network may be the cure; `identity`: other TLS settings may be.
    Waiting {
        until: Instant,
        hooks: bool,
        network: bool,
        identity: bool,
    },
    Stopped,
}

/// How far a goodbye has come.
#[derive(Debug, Clone, Copy)]
pub(super) enum Drain {
    /// The outbox is being emptied, and handlers finish what is to be acknowledged, until then.
    Flushing(Instant),
    /// The goodbye is on its way.
    Goodbye(MessageId),
    /// DISCONNECT is on its way.
    Leaving,
}
