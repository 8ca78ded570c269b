//! The outbox beside its [ledger](crate::ledger): what of it is to be on disk.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Outbox;
use super::entry::{MessageId, Owner, Restored};
use crate::ledger::{Ledger, Written};
use crate::message::QoS;
use crate::store::StoreError;

impl Outbox {
    /// Takes over what a store has kept, in order, and keeps the store's ledger from now on. It comes
    /// before anything else, and counts towards the limits even if it passes them.
    pub(crate) fn restore(&mut self, former: Vec<Restored>, store_delay: Duration) {
        self.ledger = Some(Ledger::new(
            store_delay,
            former.iter().map(|r| r.id).collect(),
        ));
        for Restored {
            id,
            message,
            expires,
        } in former
        {
            self.next_id = self.next_id.max(id + 1);
            self.enter(id, message, expires, Owner::Former);
        }
    }

    /// Has the message that was accepted last stored, if it is of that kind and there is a store. What
    /// is returned tells when that is done.
    pub(crate) fn keep_newest(
        &mut self,
        now: Instant,
    ) -> Option<oneshot::Receiver<Result<(), StoreError>>> {
        let ledger = self.ledger.as_mut()?;
        let entry = self.queue.back()?;
        if entry.message.qos == QoS::AtMostOnce {
            return None;
        }
        let (stage, stored) = oneshot::channel();
        ledger.enter(entry.put(now), Some(stage));
        Some(stored)
    }

    pub(crate) fn ledger(&mut self) -> Option<&mut Ledger> {
        self.ledger.as_mut()
    }

    /// When the ledger has something to write.
    pub(crate) fn store_due(&self) -> Option<Instant> {
        self.ledger.as_ref().and_then(Ledger::due)
    }

    /// How the writing of a batch went. Tells of a failure if it is news.
    pub(crate) fn stored(
        &mut self,
        outcome: Result<(), StoreError>,
        now: Instant,
    ) -> Option<StoreError> {
        let ledger = self.ledger.as_mut()?;
        let Written { news, lost } = ledger.written(outcome, now);
        if !lost.is_empty() {
            let in_flight = self.in_flight.iter().map(|flight| &flight.entry);
            for entry in in_flight.chain(&self.queue) {
                if lost.contains(&entry.id) {
                    ledger.enter(entry.put(now), None);
                }
            }
        }
        news
    }

    /// The message has come to its end and need not be kept on disk.
    pub(super) fn settle(&mut self, id: MessageId, now: Instant) {
        if let Some(ledger) = &mut self.ledger {
            ledger.settle(id, now);
        }
    }
}
