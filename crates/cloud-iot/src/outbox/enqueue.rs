//! Enqueueing messages, and removing them from the queue unsent: dropped for a later one, expired,
//! or withdrawn.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::Outbox;
use super::entry::{Entry, Origin, Refusals, Reply};
use crate::error::{DeliveryError, PublishError};
use crate::mqtt::message::{Message, MessageId, QoS};
use crate::session::config::Overflow;

impl Outbox {
    /// Accepts a caller's message, or refuses it because of the limits.
    pub(crate) fn accept(
        &mut self,
        message: Message,
        expires: Option<Instant>,
        reply: Reply,
        now: Instant,
    ) -> Result<MessageId, PublishError> {
        self.make_room(message.cost(), now)?;
        let id = self.new_id();
        self.push(id, message, expires, Origin::Caller(reply));
        Ok(id)
    }

    pub(super) fn push(
        &mut self,
        id: MessageId,
        message: Message,
        expires: Option<Instant>,
        origin: Origin,
    ) {
        self.messages += 1;
        self.bytes += message.cost();
        self.next_expiry = earlier(self.next_expiry, expires);
        self.queue.push_back(Entry {
            id,
            message,
            expires,
            origin,
            disconnects: 0,
            refusals: Refusals::default(),
            last_packet_id: 0,
            withdrawn: false,
        });
    }

    /// Makes room for one message of this cost by the overflow policy, or changes nothing.
    fn make_room(&mut self, cost: usize, now: Instant) -> Result<(), PublishError> {
        let fits = |messages: usize, bytes: usize| {
            messages < self.max_messages && bytes.saturating_add(cost) <= self.max_bytes
        };
        if fits(self.messages, self.bytes) {
            return Ok(());
        }
        let overflow = self.overflow;
        let droppable = |entry: &Entry| match overflow {
            Overflow::Refuse => false,
            Overflow::DropOldest => true,
            Overflow::DropAtMostOnce => entry.message.qos == QoS::AtMostOnce,
        };
        let (mut messages, mut bytes, mut drop) = (self.messages, self.bytes, 0);
        for entry in self.queue.iter().filter(|entry| droppable(entry)) {
            messages -= 1;
            bytes -= entry.message.cost();
            drop += 1;
            if fits(messages, bytes) {
                for _ in 0..drop {
                    let oldest = self.queue.iter().position(droppable);
                    if let Some(entry) = oldest.and_then(|index| self.queue.remove(index)) {
                        self.resolve(entry, Err(DeliveryError::Displaced), now);
                    }
                }
                return Ok(());
            }
        }
        Err(PublishError::OutboxFull {
            messages: self.messages,
            bytes: self.bytes,
        })
    }

    /// Returns when to call [`expire`](Self::expire).
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.next_expiry
    }

    /// Drops the queued messages that have expired.
    pub(crate) fn expire(&mut self, now: Instant) {
        if self.next_expiry.is_none_or(|expiry| expiry > now) {
            return;
        }
        let (expired, left) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(|entry: &Entry| entry.has_expired(now));
        self.queue = left;
        let expired: VecDeque<Entry> = expired;
        for entry in expired {
            self.resolve(entry, Err(DeliveryError::Expired), now);
        }
        self.next_expiry = self.queue.iter().filter_map(|entry| entry.expires).min();
    }

    /// Withdraws a message: a queued one is never sent, one in flight is not resent.
    pub(crate) fn withdraw(&mut self, id: MessageId, now: Instant) -> bool {
        let Some(index) = self.queue.iter().position(|entry| entry.id == id) else {
            let mut flights = self.in_flight.iter_mut();
            if let Some(flight) = flights.find(|flight| flight.entry.id == id) {
                flight.entry.withdrawn = true;
                self.remove_from_store(id, now);
            }
            return false;
        };
        if let Some(entry) = self.queue.remove(index) {
            self.remove_from_store(id, now);
            self.release(entry);
        }
        true
    }
}

/// Returns the earlier of two optional times.
pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    one.into_iter().chain(other).min()
}
