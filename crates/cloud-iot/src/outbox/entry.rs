//! A message in the outbox, from its acceptance to its delivery.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::DeliveryError;
use crate::mqtt::message::{Message, MessageId, QoS};
use crate::outbox::write_behind::PendingWrite;
use crate::session::receipt::Ack;

pub(super) type Reply = oneshot::Sender<Result<Ack, DeliveryError>>;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: MessageId,
    pub(super) message: Message,
    pub(super) expires: Option<Instant>,
    pub(super) origin: Origin,
    /// Number of connections that the server has ended, possibly because of this message.
    pub(super) disconnects: u8,
    pub(super) refusals: Refusals,
    /// Packet identifier under which the server may have the message, as long as it may keep the
    /// session; 0 for none. The message is resent under it.
    pub(super) last_packet_id: u16,
    /// Withdrawn by its caller: it is not resent.
    pub(super) withdrawn: bool,
}

impl Entry {
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Returns whether it needs a new packet identifier.
    pub(super) fn needs_id(&self) -> bool {
        self.message.qos == QoS::AtLeastOnce && self.last_packet_id == 0
    }

    pub(super) fn put(&self, now: Instant) -> PendingWrite {
        PendingWrite {
            id: self.id,
            message: self.message.clone(),
            accepted: now,
            expires_in: self
                .expires
                .map(|expires| expires.saturating_duration_since(now)),
        }
    }
}

/// Refusals of one message.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Refusals {
    pub(super) counted: u8,
    /// Number of accepted messages at the last refusal.
    pub(super) last: Option<u64>,
}

/// A message from the store.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) id: MessageId,
    pub(crate) message: Message,
    pub(crate) expires: Option<Instant>,
}

/// A message for the connection.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) message: Message,
    /// Remaining time until it expires.
    pub(crate) expires_in: Option<Duration>,
    /// 0 at QoS 0.
    pub(crate) packet_id: u16,
    /// The server may already have the message under this packet identifier: sets the DUP flag.
    pub(crate) duplicate: bool,
}

/// The next message to send.
#[derive(Debug)]
pub(crate) enum Next {
    /// This message.
    Message(Outgoing),
    /// None before that time.
    At(Instant),
    /// None until something changes.
    Nothing,
}

/// Origin of a message.
#[derive(Debug)]
pub(super) enum Origin {
    /// A caller, which holds the receipt.
    Caller(Reply),
    /// A caller of an earlier process, through the store.
    Restored,
    /// The session itself. The message ends with its connection.
    Session,
}

#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) entry: Entry,
    /// 0 at QoS 0.
    pub(super) packet_id: u16,
    /// When its acknowledgement is overdue; `None` until it is written.
    pub(super) due: Option<Instant>,
}
