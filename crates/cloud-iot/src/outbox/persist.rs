//! Persistence of the outbox through its [write-behind buffer](crate::outbox::write_behind).

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Outbox;
use super::entry::{Origin, Restored};
use crate::mqtt::message::{MessageId, QoS};
use crate::outbox::store::StoreError;
use crate::outbox::write_behind::{WriteBehind, Written};

impl Outbox {
    /// Restores messages from a store, in order, and stores accepted messages from now on. Call
    /// this before anything else. The messages count towards the limits even beyond them.
    pub(crate) fn restore(&mut self, restored: Vec<Restored>, store_delay: Duration) {
        self.write_behind = Some(WriteBehind::new(
            store_delay,
            restored.iter().map(|r| r.id).collect(),
        ));
        for Restored {
            id,
            message,
            expires,
        } in restored
        {
            self.next_id = self.next_id.max(id + 1);
            self.push(id, message, expires, Origin::Restored);
        }
    }

    /// Stores the message that was accepted last, if it is at QoS 1 and there is a store. The
    /// receiver reports the result.
    pub(crate) fn store_newest(
        &mut self,
        now: Instant,
    ) -> Option<oneshot::Receiver<Result<(), StoreError>>> {
        let write_behind = self.write_behind.as_mut()?;
        let entry = self.queue.back()?;
        if entry.message.qos == QoS::AtMostOnce {
            return None;
        }
        let (stored_sender, stored) = oneshot::channel();
        write_behind.insert(entry.put(now), Some(stored_sender));
        Some(stored)
    }

    pub(crate) fn write_behind(&mut self) -> Option<&mut WriteBehind> {
        self.write_behind.as_mut()
    }

    /// Returns when the write-behind buffer has a batch to write.
    pub(crate) fn store_due(&self) -> Option<Instant> {
        self.write_behind.as_ref().and_then(WriteBehind::due)
    }

    /// Handles the result of writing a batch. Returns a failure if it is new.
    pub(crate) fn stored(
        &mut self,
        outcome: Result<(), StoreError>,
        now: Instant,
    ) -> Option<StoreError> {
        let write_behind = self.write_behind.as_mut()?;
        let Written { new_failure, lost } = write_behind.written(outcome, now);
        if !lost.is_empty() {
            let in_flight = self.in_flight.iter().map(|flight| &flight.entry);
            for entry in in_flight.chain(&self.queue) {
                if lost.contains(&entry.id) {
                    write_behind.insert(entry.put(now), None);
                }
            }
        }
        new_failure
    }

    /// Removes a resolved message from the store.
    pub(super) fn remove_from_store(&mut self, id: MessageId, now: Instant) {
        if let Some(write_behind) = &mut self.write_behind {
            write_behind.remove(id, now);
        }
    }
}
