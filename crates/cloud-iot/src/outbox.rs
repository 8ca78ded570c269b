//! The outbox: accepted messages that are not delivered yet, in order.
//!
//! A message is first *queued*, then *in flight*: passed to the connection, written, and at QoS 1
//! acknowledged. When the connection is lost, messages in flight [return](requeue) to the head of
//! the queue in their original order, as do messages that the server [defers](throttle). The
//! exception are messages that [end connections](poison).
//!
//! Not here: when to send (the [core](crate::core) decides), and sockets.
//!
//! A message that expires, or is dropped for a later one, leaves the queue and resolves its
//! receipt. Messages in flight stay.
//!
//! Invariants: messages and bytes stay within their limits; the receipt of every accepted message
//! is resolved exactly once; in flight, written messages precede unwritten ones; no two messages in
//! flight have the same packet identifier.

#[cfg(feature = "durable")]
pub(crate) mod durable;
mod enqueue;
mod entry;
mod log_record;
mod pacer;
mod packet_identifiers;
mod persist;
mod poison;
mod requeue;
pub(crate) mod store;
pub(crate) mod store_writer;
mod throttle;
pub(crate) mod write_behind;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use self::entry::{Entry, InFlight, Origin, Refusals, Reply};
pub(crate) use self::entry::{Next, Outgoing, Restored};
pub(crate) use self::log_record::LogRecord;
pub(crate) use self::packet_identifiers::PacketIds;
use self::throttle::Throttle;
use crate::core::connection_event::ServerCapabilities;
use crate::error::DeliveryError;
use crate::mqtt::message::{Message, MessageId, QoS};
use crate::mqtt::reason_code::ReasonCode;
use crate::outbox::pacer::Pacer;
use crate::outbox::write_behind::WriteBehind;
use crate::session::config::Overflow;
use crate::session::limits::Limits;
use crate::session::receipt::Ack;

/// The connection reported a packet that does not match the messages in flight.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UnexpectedPacket;

/// Effects of a PUBACK beyond its message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PubAckOutcome {
    /// The message was the oldest in flight, as MQTT requires.
    pub(crate) oldest: bool,
    /// The server does not accept the message now.
    pub(crate) throttled: bool,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<Entry>,
    in_flight: VecDeque<InFlight>,
    /// Number of messages at the end of `in_flight` that are not written yet.
    unwritten: usize,
    messages: usize,
    bytes: usize,
    max_messages: usize,
    max_bytes: usize,
    overflow: Overflow,
    pacer: Pacer,
    throttle: Throttle,
    /// Records that the driver writes to the log.
    log_records: VecDeque<LogRecord>,
    /// Accepted messages that were not delivered since they were last taken, by reason.
    dropped: BTreeMap<&'static str, u64>,
    /// No message in the queue expires before this.
    next_expiry: Option<Instant>,
    next_id: MessageId,
    /// The messages that are stored, if there is a store.
    write_behind: Option<WriteBehind>,
}

impl Outbox {
    pub(crate) fn new(limits: &Limits, overflow: Overflow) -> Self {
        Self {
            queue: VecDeque::new(),
            in_flight: VecDeque::new(),
            unwritten: 0,
            messages: 0,
            bytes: 0,
            max_messages: limits.outbox_messages,
            max_bytes: limits.outbox_bytes,
            overflow,
            pacer: Pacer::new(limits),
            throttle: Throttle::default(),
            log_records: VecDeque::new(),
            dropped: BTreeMap::new(),
            next_expiry: None,
            next_id: 1,
            write_behind: None,
        }
    }

    fn new_id(&mut self) -> MessageId {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Returns the next message to send, if the receive maximum and the pacer allow one and the
    /// server accepts messages. Drops expired messages and messages that this server does not
    /// support.
    pub(crate) fn next_to_send(
        &mut self,
        packet_ids: &mut PacketIds,
        capabilities: &ServerCapabilities,
        now: Instant,
    ) -> Next {
        loop {
            let Some(next) = self.queue.front() else {
                return Next::Nothing;
            };
            let expires = next.expires.is_some();
            let fit = if next.has_expired(now) {
                Err(DeliveryError::Expired)
            } else {
                capabilities.check(&next.message, expires)
            };
            if fit.is_ok() {
                if let Some(end) = self.throttle.pause(now) {
                    return Next::At(end);
                }
                if !self.has_room(packet_ids, next.needs_id()) {
                    return Next::Nothing;
                }
                let ready = self.pacer.ready_at(next.message.packet_bytes(expires), now);
                if ready > now {
                    return Next::At(ready);
                }
            }
            let Some(entry) = self.queue.pop_front() else {
                return Next::Nothing;
            };
            match fit {
                Ok(()) => return Next::Message(self.send(entry, packet_ids, now)),
                Err(error) => self.resolve(entry, Err(error), now),
            }
        }
    }

    /// Sends one of the session's own messages, ahead of the queue and the pacer; at QoS 0 if the
    /// receive maximum does not allow QoS 1.
    pub(crate) fn send_internal(
        &mut self,
        mut message: Message,
        packet_ids: &mut PacketIds,
        now: Instant,
    ) -> (MessageId, Outgoing) {
        if !self.has_room(packet_ids, message.qos == QoS::AtLeastOnce) {
            message.qos = QoS::AtMostOnce;
        }
        let id = self.new_id();
        let entry = Entry {
            id,
            message,
            expires: None,
            origin: Origin::Session,
            disconnects: 0,
            refusals: Refusals::default(),
            last_packet_id: 0,
            withdrawn: false,
        };
        (id, self.send(entry, packet_ids, now))
    }

    /// Returns whether another message may be in flight, with a free packet identifier if it needs
    /// one.
    fn has_room(&self, packet_ids: &PacketIds, needs_id: bool) -> bool {
        let taken = |id| self.in_flight.iter().any(|flight| flight.packet_id == id);
        self.in_flight.len() < self.room(packet_ids) && !(needs_id && taken(packet_ids.peek()))
    }

    /// Returns the maximum number of messages in flight.
    fn room(&self, packet_ids: &PacketIds) -> usize {
        let size = if self.has_suspect() {
            1
        } else {
            packet_ids.max_in_flight
        };
        usize::from(size)
    }

    fn send(&mut self, entry: Entry, packet_ids: &mut PacketIds, now: Instant) -> Outgoing {
        let message = entry.message.clone();
        let expires_in = entry
            .expires
            .map(|expires| expires.saturating_duration_since(now));
        self.pacer
            .on_transmit(message.packet_bytes(expires_in.is_some()), now);
        let duplicate = entry.last_packet_id != 0;
        let packet_id = if entry.needs_id() {
            packet_ids.allocate()
        } else {
            entry.last_packet_id
        };
        self.in_flight.push_back(InFlight {
            entry,
            packet_id,
            due: None,
        });
        self.unwritten += 1;
        Outgoing {
            message,
            expires_in,
            packet_id,
            duplicate,
        }
    }

    /// Records that the connection has written the oldest unwritten message.
    pub(crate) fn written(
        &mut self,
        packet_id: u16,
        now: Instant,
        limit: Duration,
    ) -> Result<MessageId, UnexpectedPacket> {
        let index = self
            .in_flight
            .len()
            .checked_sub(self.unwritten)
            .ok_or(UnexpectedPacket)?;
        let flight = self.in_flight.get_mut(index).ok_or(UnexpectedPacket)?;
        if flight.packet_id != packet_id {
            return Err(UnexpectedPacket);
        }
        self.unwritten -= 1;
        let id = flight.entry.id;
        if packet_id == 0 {
            if let Some(flight) = self.in_flight.remove(index) {
                self.resolve(flight.entry, Ok(Ack::Sent), now);
            }
        } else {
            flight.due = Some(now + limit);
            flight.entry.last_packet_id = packet_id;
        }
        Ok(id)
    }

    /// Handles a PUBACK.
    pub(crate) fn acknowledged(
        &mut self,
        packet_id: u16,
        reason: ReasonCode,
        now: Instant,
    ) -> Result<PubAckOutcome, UnexpectedPacket> {
        let written = self.in_flight.len() - self.unwritten;
        let index = self
            .in_flight
            .iter()
            .take(written)
            .position(|flight| flight.packet_id == packet_id && packet_id != 0)
            .ok_or(UnexpectedPacket)?;
        let mut entry = self.in_flight.remove(index).ok_or(UnexpectedPacket)?.entry;
        let oldest = index == 0;
        let own = matches!(entry.origin, Origin::Session);
        if reason.is_transient() && self.throttle.should_retry(&mut entry) {
            self.requeue(entry);
            return Ok(PubAckOutcome {
                oldest,
                throttled: true,
            });
        }
        let outcome = if reason.is_failure() {
            if own {
                let topic = entry.message.topic.clone();
                self.log_records
                    .push_back(LogRecord::SessionMessageRefused { topic, reason });
            }
            Err(DeliveryError::Refused(reason))
        } else {
            if !own {
                self.throttle.on_accepted(now);
            }
            Ok(Ack::Acknowledged)
        };
        self.resolve(entry, outcome, now);
        Ok(PubAckOutcome {
            oldest,
            throttled: false,
        })
    }

    /// Returns when the oldest unacknowledged message is overdue.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.in_flight.iter().find_map(|flight| flight.due)
    }

    /// Returns whether the outbox is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// Returns whether the message is still to be delivered.
    pub(crate) fn is_pending(&self, id: MessageId) -> bool {
        self.in_flight.iter().any(|flight| flight.entry.id == id)
            || self.queue.iter().any(|entry| entry.id == id)
    }

    /// Returns the number of queued messages, and of messages in flight.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.queue.len(), self.in_flight.len())
    }

    /// Returns when the acknowledgement of this message is overdue.
    pub(crate) fn due(&self, packet_id: u16) -> Option<Instant> {
        let flight = self
            .in_flight
            .iter()
            .find(|flight| flight.packet_id == packet_id);
        flight?.due
    }

    /// Returns the number of accepted messages that are not delivered yet.
    pub(crate) fn len(&self) -> usize {
        self.messages
    }

    /// Returns their cost in bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes the numbers of accepted messages that were not delivered, by reason.
    pub(crate) fn take_dropped(&mut self) -> BTreeMap<&'static str, u64> {
        std::mem::take(&mut self.dropped)
    }

    /// Returns the next record for the log.
    pub(crate) fn next_log_record(&mut self) -> Option<LogRecord> {
        self.log_records.pop_front()
    }

    /// Resolves all receipts. Stored messages stay in the store for the next session.
    pub(crate) fn stop(&mut self) {
        self.connection_lost();
        while let Some(entry) = self.queue.pop_front() {
            if let Some(reply) = self.release(entry) {
                // An error means that the caller has dropped the receipt.
                let _ = reply.send(Err(DeliveryError::Stopped));
            }
        }
    }

    fn release(&mut self, entry: Entry) -> Option<Reply> {
        let reply = match entry.origin {
            Origin::Caller(reply) => Some(reply),
            Origin::Restored => None,
            Origin::Session => return None,
        };
        self.messages -= 1;
        self.bytes -= entry.message.cost();
        reply
    }

    fn resolve(&mut self, entry: Entry, outcome: Result<Ack, DeliveryError>, now: Instant) {
        self.remove_from_store(entry.id, now);
        if let Err(error) = &outcome {
            *self.dropped.entry(error.name()).or_default() += 1;
        }
        if let (Origin::Restored, Err(error)) = (&entry.origin, &outcome) {
            self.log_records.push_back(LogRecord::RestoredFailed {
                topic: entry.message.topic.clone(),
                error: *error,
            });
        }
        if let Some(reply) = self.release(entry) {
            let _ = reply.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests;
