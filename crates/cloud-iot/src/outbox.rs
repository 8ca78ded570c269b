//! What was accepted and is not yet delivered, in order.
//!
//! A message is first *queued*, then *in flight*: handed over to the connection, later written by
//! it, and at QoS 1 acknowledged. When the connection is lost, what was in flight goes back to
//! the head of the queue in its old order, so that order survives and nothing is skipped.
//!
//! Not here: when to hand over (the [core](crate::core) asks), and anything that touches a socket.
//!
//! So does what the server [does not take now](deferral), which is published anew after a pause.
//!
//! A message that has expired, or that must make room for a later one, leaves the queue with its receipt resolved.
//! What is in flight stays.
//!
//! Invariants: messages and bytes stay within their limits; every accepted message's receipt is
//! resolved exactly once; in flight, what was written comes before what was not; no two messages
//! in flight have the same packet id.

mod admission;
mod deferral;
mod entry;
mod keeping;
mod loss;
mod note;
mod window;

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use self::deferral::{Deferral, Refusals};
use self::entry::{Entry, InFlight, Owner, Reply};
pub(crate) use self::entry::{MessageId, Next, Outgoing, Restored};
pub(crate) use self::note::Note;
pub(crate) use self::window::Window;
use crate::config::Overflow;
use crate::error::DeliveryError;
use crate::ledger::Ledger;
use crate::limits::Limits;
use crate::link::ServerTerms;
use crate::message::{Message, QoS};
use crate::pace::Pace;
use crate::reason::ReasonCode;
use crate::receipt::Ack;

/// The connection reported a packet that does not fit what it was given.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfStep;

/// What the server's answer to a message means beyond it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answered {
    /// It was the oldest one in flight, as it must be by the standard.
    pub(crate) oldest: bool,
    /// The server does not take it now.
    pub(crate) deferred: bool,
}

#[derive(Debug)]
pub(crate) struct Outbox {
    queue: VecDeque<Entry>,
    in_flight: VecDeque<InFlight>,
    /// How many at the end of `in_flight` are not written yet.
    unwritten: usize,
    messages: usize,
    bytes: usize,
    max_messages: usize,
    max_bytes: usize,
    overflow: Overflow,
    pace: Pace,
    deferral: Deferral,
    /// To be logged.
    notes: VecDeque<Note>,
    /// No message in the queue expires before this.
    next_expiry: Option<Instant>,
    next_id: MessageId,
    /// What of it is on disk, if there is a store.
    ledger: Option<Ledger>,
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
            pace: Pace::new(limits),
            deferral: Deferral::default(),
            notes: VecDeque::new(),
            next_expiry: None,
            next_id: 1,
            ledger: None,
        }
    }

    fn new_id(&mut self) -> MessageId {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    /// Takes the next message to hand over, if window and pace have room and the server takes any. Messages that have expired
    /// or that this server cannot take are failed on the way.
    pub(crate) fn hand_over(
        &mut self,
        window: &mut Window,
        terms: &ServerTerms,
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
                terms.check(&next.message, expires)
            };
            if fit.is_ok() {
                if let Some(end) = self.deferral.pause(now) {
                    return Next::At(end);
                }
                if !self.has_room(window, next.needs_id()) {
                    return Next::Nothing;
                }
                let ready = self.pace.ready_at(next.message.packet_bytes(expires), now);
                if ready > now {
                    return Next::At(ready);
                }
            }
            let Some(entry) = self.queue.pop_front() else {
                return Next::Nothing;
            };
            match fit {
                Ok(()) => return Next::Message(self.launch(entry, window, now)),
                Err(error) => self.resolve(entry, Err(error), now),
            }
        }
    }

    /// Hands over a message of the session's own, ahead of the queue and of the pace; at QoS 0 if the window has no
    /// room for it.
    pub(crate) fn hand_over_own(
        &mut self,
        mut message: Message,
        window: &mut Window,
        now: Instant,
    ) -> (MessageId, Outgoing) {
        if !self.has_room(window, message.qos == QoS::AtLeastOnce) {
            message.qos = QoS::AtMostOnce;
        }
        let id = self.new_id();
        let entry = Entry {
            id,
            message,
            expires: None,
            owner: Owner::Session,
            strikes: 0,
            refusals: Refusals::default(),
            sent_as: 0,
            withdrawn: false,
        };
        (id, self.launch(entry, window, now))
    }

    /// Whether one more message may be in flight, and if it needs a packet id, whether the next one is free.
    fn has_room(&self, window: &Window, needs_id: bool) -> bool {
        let taken = |id| self.in_flight.iter().any(|flight| flight.packet_id == id);
        self.in_flight.len() < self.room(window) && !(needs_id && taken(window.peek()))
    }

    /// How many messages may be in flight.
    fn room(&self, window: &Window) -> usize {
        let size = if self.is_under_suspicion() {
            1
        } else {
            window.size
        };
        usize::from(size)
    }

    fn launch(&mut self, entry: Entry, window: &mut Window, now: Instant) -> Outgoing {
        let message = entry.message.clone();
        let expires_in = entry
            .expires
            .map(|expires| expires.saturating_duration_since(now));
        self.pace
            .spend(message.packet_bytes(expires_in.is_some()), now);
        let again = entry.sent_as != 0;
        let packet_id = if entry.needs_id() {
            window.take()
        } else {
            entry.sent_as
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
            again,
        }
    }

    /// The connection has written the oldest message that it was given and had not written.
    pub(crate) fn written(
        &mut self,
        packet_id: u16,
        now: Instant,
        limit: Duration,
    ) -> Result<MessageId, OutOfStep> {
        let index = self
            .in_flight
            .len()
            .checked_sub(self.unwritten)
            .ok_or(OutOfStep)?;
        let flight = self.in_flight.get_mut(index).ok_or(OutOfStep)?;
        if flight.packet_id != packet_id {
            return Err(OutOfStep);
        }
        self.unwritten -= 1;
        let id = flight.entry.id;
        if packet_id == 0 {
            if let Some(flight) = self.in_flight.remove(index) {
                self.resolve(flight.entry, Ok(Ack::Sent), now);
            }
        } else {
            flight.due = Some(now + limit);
            flight.entry.sent_as = packet_id;
        }
        Ok(id)
    }

    /// The server answered a QoS 1 message.
    pub(crate) fn acknowledged(
        &mut self,
        packet_id: u16,
        reason: ReasonCode,
        now: Instant,
    ) -> Result<Answered, OutOfStep> {
        let written = self.in_flight.len() - self.unwritten;
        let index = self
            .in_flight
            .iter()
            .take(written)
            .position(|flight| flight.packet_id == packet_id && packet_id != 0)
            .ok_or(OutOfStep)?;
        let mut entry = self.in_flight.remove(index).ok_or(OutOfStep)?.entry;
        let oldest = index == 0;
        let own = matches!(entry.owner, Owner::Session);
        if reason.is_passing() && self.deferral.admits(&mut entry) {
            self.requeue(entry);
            return Ok(Answered {
                oldest,
                deferred: true,
            });
        }
        let outcome = if reason.is_failure() {
            if own {
                let topic = entry.message.topic.clone();
                self.notes.push_back(Note::OwnRefused { topic, reason });
            }
            Err(DeliveryError::Refused(reason))
        } else {
            if !own {
                self.deferral.took(now);
            }
            Ok(Ack::Acknowledged)
        };
        self.resolve(entry, outcome, now);
        Ok(Answered {
            oldest,
            deferred: false,
        })
    }

    /// When the oldest unacknowledged message is overdue.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.in_flight.iter().find_map(|flight| flight.due)
    }

    /// Whether nothing waits and nothing is in flight.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_empty()
    }

    /// Whether the message is still to be delivered.
    pub(crate) fn is_pending(&self, id: MessageId) -> bool {
        self.in_flight.iter().any(|flight| flight.entry.id == id)
            || self.queue.iter().any(|entry| entry.id == id)
    }

    /// Messages that wait, and those that were handed over to the connection.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.queue.len(), self.in_flight.len())
    }

    /// When the acknowledgement of this message is overdue.
    pub(crate) fn due(&self, packet_id: u16) -> Option<Instant> {
        let flight = self
            .in_flight
            .iter()
            .find(|flight| flight.packet_id == packet_id);
        flight?.due
    }

    /// Messages accepted from callers and not yet delivered.
    pub(crate) fn len(&self) -> usize {
        self.messages
    }

    /// What these count in bytes.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The next line for the log.
    pub(crate) fn take_note(&mut self) -> Option<Note> {
        self.notes.pop_front()
    }

    /// Ends the session's part in everything. What is on disk stays there for the next session.
    pub(crate) fn stop(&mut self) {
        self.connection_lost();
        while let Some(entry) = self.queue.pop_front() {
            if let Some(reply) = self.forget(entry) {
                // The caller may have dropped the receipt; that is its right.
                let _ = reply.send(Err(DeliveryError::Stopped));
            }
        }
    }

    fn forget(&mut self, entry: Entry) -> Option<Reply> {
        let reply = match entry.owner {
            Owner::Caller(reply) => Some(reply),
            Owner::Former => None,
            Owner::Session => return None,
        };
        self.messages -= 1;
        self.bytes -= entry.message.cost();
        reply
    }

    fn resolve(&mut self, entry: Entry, outcome: Result<Ack, DeliveryError>, now: Instant) {
        self.settle(entry.id, now);
        if let (Owner::Former, Err(error)) = (&entry.owner, &outcome) {
            self.notes.push_back(Note::FormerFailed {
                topic: entry.message.topic.clone(),
                error: *error,
            });
        }
        if let Some(reply) = self.forget(entry) {
            let _ = reply.send(outcome);
        }
    }
}

#[cfg(test)]
mod tests;
