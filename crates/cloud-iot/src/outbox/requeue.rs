//! Requeueing: messages that a connection did not deliver are resent on the next one.

use super::Outbox;
use super::enqueue::earlier;
use super::entry::{Entry, Origin};

impl Outbox {
    /// Forgets the packet identifiers, because the server has dropped the session.
    pub(crate) fn session_gone(&mut self) {
        for entry in &mut self.queue {
            entry.last_packet_id = 0;
        }
    }

    /// Returns the packet identifiers that a new connection must not allocate.
    pub(crate) fn reserved(&self) -> Vec<u16> {
        let sent = self.queue.iter().map(|entry| entry.last_packet_id);
        sent.filter(|id| *id != 0).collect()
    }

    /// Returns undelivered messages to the head of the queue.
    pub(crate) fn connection_lost(&mut self) {
        self.unwritten = 0;
        while let Some(flight) = self.in_flight.pop_back() {
            match flight.entry.origin {
                Origin::Caller(_) | Origin::Restored if flight.entry.withdrawn => {
                    self.release(flight.entry);
                }
                Origin::Caller(_) | Origin::Restored => self.requeue(flight.entry),
                Origin::Session => {}
            }
        }
    }

    /// Returns a message to the queue, at its original position near the head.
    pub(super) fn requeue(&mut self, entry: Entry) {
        self.next_expiry = earlier(self.next_expiry, entry.expires);
        let place = self.queue.partition_point(|other| other.id < entry.id);
        self.queue.insert(place, entry);
    }
}
