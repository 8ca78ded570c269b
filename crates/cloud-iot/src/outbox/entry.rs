//! A message in the outbox, from its acceptance to its end.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::deferral::Refusals;
use crate::error::DeliveryError;
use crate::ledger::Put;
use crate::message::{Message, QoS};
use crate::receipt::Ack;

/// Names an accepted message for as long as the session lives.
pub(crate) type MessageId = u64;

pub(super) type Reply = oneshot::Sender<Result<Ack, DeliveryError>>;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) id: MessageId,
    pub(super) message: Message,
    pub(super) expires: Option<Instant>,
    pub(super) owner: Owner,
    /// How many connections the server has ended that it may have been the reason for.
    pub(super) strikes: u8,
    pub(super) refusals: Refusals,
    /// The packet id under which the server may have it, in a session that is not known to be gone; 0 for none. It is sent
    /// again under this one.
    pub(super) sent_as: u16,
    /// Nobody wants it any more: it is not sent again.
    pub(super) withdrawn: bool,
}

impl Entry {
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Whether it cannot be sent without a new packet id.
    pub(super) fn needs_id(&self) -> bool {
        self.message.qos == QoS::AtLeastOnce && self.sent_as == 0
    }

    pub(super) fn put(&self, now: Instant) -> Put {
        Put {
            id: self.id,
            message: self.message.clone(),
            accepted: now,
            expires_in: self
                .expires
                .map(|expires| expires.saturating_duration_since(now)),
        }
    }
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
    /// What is left of its time.
    pub(crate) expires_in: Option<Duration>,
    /// 0 at QoS 0.
    pub(crate) packet_id: u16,
    /// The server may have it already, under this packet id: it is to be marked as a duplicate.
    pub(crate) again: bool,
}

/// What can be handed over.
#[derive(Debug)]
pub(crate) enum Next {
    /// This.
    Message(Outgoing),
    /// Nothing before that time.
    At(Instant),
    /// Nothing before something changes.
    Nothing,
}

/// Whose message it is.
#[derive(Debug)]
pub(super) enum Owner {
    /// A caller's, who holds the receipt.
    Caller(Reply),
    /// A caller's of an earlier process, from the store.
    Former,
    /// The session's own, which ends with its connection.
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
