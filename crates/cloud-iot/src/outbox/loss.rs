//! What the end of a connection means for what it did not deliver: it is sent again, unless it is the reason of the end.
//!
//! A server answers some messages with DISCONNECT: a topic that the policy does not allow, a payload it cannot take. Sent
//! again on each connection, such a message would keep the device offline and all others waiting for ever. Whose fault
//! it was is not told, so the oldest message that the server had not acknowledged is suspected. It leaves alone from then
//! on, after the session's own messages were acknowledged, which clears the innocent and convicts no other; and at the third
//! time it is given up. For that the birth message is sent at QoS 1 as long as anything is suspected: at QoS 0 the suspect
//! would leave right behind it, and be convicted where the birth message is what the server cannot take.

use tokio::time::Instant;

use super::Outbox;
use super::admission::earlier;
use super::entry::{Entry, Owner};
use super::note::Note;
use crate::error::DeliveryError;
use crate::reason::ReasonCode;

/// So many connections may end for one message. One may be chance, as others were on their way with it; the next two
/// carried it alone.
const STRIKES: u8 = 3;

impl Outbox {
    /// The server has ended the connection because of some packet.
    pub(crate) fn blame(&mut self, reason: ReasonCode, now: Instant) {
        let written = self.in_flight.len() - self.unwritten;
        let suspect = self
            .in_flight
            .iter()
            .take(written)
            .position(|flight| !matches!(flight.entry.owner, Owner::Session));
        let Some(index) = suspect else {
            return;
        };
        if let Some(flight) = self.in_flight.get_mut(index) {
            flight.entry.strikes += 1;
            if flight.entry.strikes < STRIKES {
                return;
            }
        }
        if let Some(flight) = self.in_flight.remove(index) {
            self.notes.push_back(Note::Convicted {
                topic: flight.entry.message.topic.clone(),
                reason,
                connections: STRIKES,
            });
            self.resolve(flight.entry, Err(DeliveryError::Refused(reason)), now);
        }
    }

    /// Whether the next message, or the one in flight, is suspected.
    pub(crate) fn is_under_suspicion(&self) -> bool {
        let first = self.in_flight.front().map(|flight| &flight.entry);
        first
            .into_iter()
            .chain(self.queue.front())
            .any(|entry| entry.strikes > 0)
    }

    /// The server does not have the session any more, and knows nothing that it was sent there.
    pub(crate) fn session_gone(&mut self) {
        for entry in &mut self.queue {
            entry.sent_as = 0;
        }
    }

    /// The packet ids that a new connection must not give to anything else.
    pub(crate) fn reserved(&self) -> Vec<u16> {
        let sent = self.queue.iter().map(|entry| entry.sent_as);
        sent.filter(|id| *id != 0).collect()
    }

    /// The connection is gone: what it did not deliver goes back to the head of the queue.
    pub(crate) fn connection_lost(&mut self) {
        self.unwritten = 0;
        while let Some(flight) = self.in_flight.pop_back() {
            match flight.entry.owner {
                Owner::Caller(_) | Owner::Former if flight.entry.withdrawn => {
                    self.forget(flight.entry);
                }
                Owner::Caller(_) | Owner::Former => self.requeue(flight.entry),
                Owner::Session => {}
            }
        }
    }

    /// Puts a message that was in flight back into the queue, at its old place: that is near the head, if not before all others.
    pub(super) fn requeue(&mut self, entry: Entry) {
        self.next_expiry = earlier(self.next_expiry, entry.expires);
        let place = self.queue.partition_point(|other| other.id < entry.id);
        self.queue.insert(place, entry);
    }
}
