//! Poison messages: those that the server answers by ending the connection.
//!
//! A server answers some messages with DISCONNECT: a topic that the policy does not permit, or an
//! invalid payload. Resent on each connection, such a message would keep the device offline and
//! block all others forever. The DISCONNECT does not name the message, so the oldest unacknowledged
//! one is the suspect. From then on it is sent alone, after the session's own messages are
//! acknowledged, which clears an innocent message and blames no other; after the third
//! disconnection it is dropped. While there is a suspect, the birth message is sent at QoS 1: at
//! QoS 0 the suspect would follow at once, and be blamed for a birth message that the server
//! refuses.

use tokio::time::Instant;

use super::Outbox;
use super::entry::Origin;
use super::log_record::LogRecord;
use crate::error::DeliveryError;
use crate::mqtt::reason_code::ReasonCode;

/// Maximum disconnections because of one message. The first may be a coincidence, because other
/// messages were in flight; during the next two it was alone.
const MAX_DISCONNECTS: u8 = 3;

impl Outbox {
    /// Records that the server ended the connection because of a packet.
    pub(crate) fn record_disconnect(&mut self, reason: ReasonCode, now: Instant) {
        let written = self.in_flight.len() - self.unwritten;
        let suspect = self
            .in_flight
            .iter()
            .take(written)
            .position(|flight| !matches!(flight.entry.origin, Origin::Session));
        let Some(index) = suspect else {
            return;
        };
        if let Some(flight) = self.in_flight.get_mut(index) {
            flight.entry.disconnects += 1;
            if flight.entry.disconnects < MAX_DISCONNECTS {
                return;
            }
        }
        if let Some(flight) = self.in_flight.remove(index) {
            self.log_records.push_back(LogRecord::PoisonDropped {
                topic: flight.entry.message.topic.clone(),
                reason,
                connections: MAX_DISCONNECTS,
            });
            self.resolve(flight.entry, Err(DeliveryError::Refused(reason)), now);
        }
    }

    /// Returns whether the next message, or the one in flight, is a suspect.
    pub(crate) fn has_suspect(&self) -> bool {
        let first = self.in_flight.front().map(|flight| &flight.entry);
        first
            .into_iter()
            .chain(self.queue.front())
            .any(|entry| entry.disconnects > 0)
    }
}
