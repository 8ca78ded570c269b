//! Write-behind buffer: which accepted messages are stored, which are to be written, and when.
//!
//! Every commit wears the flash of a small board, so commits are few: one at a time, with all
//! changes that have accumulated, at the earliest
//! [`store_delay`](crate::SessionConfig::store_delay) after the first. A message that is delivered
//! earlier is never written. Removals accompany the next write, or follow after a delay: a crash
//! before that resends the message, which QoS 1 allows.
//!
//! Not here: the disk. The driver writes the batches of [`WriteBehind::collect`] and reports the
//! results.
//!
//! Invariants: a message counts as stored only when its commit has succeeded; messages are written
//! in the order of acceptance; one batch at a time is being written; the outbox bounds the size of
//! the buffer, plus [`REMOVALS`] pending removals.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::mqtt::message::Message;
use crate::mqtt::message::MessageId;
use crate::outbox::store::StoreError;

/// Maximum size of a commit in bytes: a second of a slow SD card.
const BATCH_BYTES: usize = 1 << 20;

/// Maximum removals that wait for a write; a crash resends as many messages.
const REMOVALS: usize = 256;

/// Maximum delay of removals.
const REMOVE_DELAY: Duration = Duration::from_secs(10);

/// Delay before a failed store is retried. Messages that are accepted meanwhile are reported as not
/// stored.
const RETRY_DELAY: Duration = Duration::from_secs(5);

pub(crate) type StoredSender = oneshot::Sender<Result<(), StoreError>>;

/// A message to be written.
#[derive(Debug, Clone)]
pub(crate) struct PendingWrite {
    pub(crate) id: MessageId,
    pub(crate) message: Message,
    pub(crate) accepted: Instant,
    pub(crate) expires_in: Option<Duration>,
}

/// Changes to commit together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) put: Vec<PendingWrite>,
    pub(crate) remove: Vec<MessageId>,
}

/// A batch that is being written.
#[derive(Debug)]
struct Writing {
    put: Vec<(MessageId, Option<StoredSender>)>,
    remove: Vec<MessageId>,
}

/// Effects of a result beyond its batch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// The first failure after a success.
    pub(crate) new_failure: Option<StoreError>,
    /// Messages that were stored and are lost.
    pub(crate) lost: BTreeSet<MessageId>,
}

#[derive(Debug)]
pub(crate) struct WriteBehind {
    delay: Duration,
    /// Accepted, not written yet.
    pending: BTreeMap<MessageId, (PendingWrite, Option<StoredSender>)>,
    writing: Option<Writing>,
    /// Stored and still needed.
    stored: BTreeSet<MessageId>,
    /// Stored or being written, and no longer needed.
    obsolete: BTreeSet<MessageId>,
    put_at: Option<Instant>,
    remove_at: Option<Instant>,
    failing: Option<(StoreError, Instant)>,
}

impl WriteBehind {
    /// Creates a buffer for a store that holds `stored`.
    pub(crate) fn new(delay: Duration, stored: BTreeSet<MessageId>) -> Self {
        Self {
            delay,
            pending: BTreeMap::new(),
            writing: None,
            stored,
            obsolete: BTreeSet::new(),
            put_at: None,
            remove_at: None,
            failing: None,
        }
    }

    /// Inserts an accepted message to be stored. `stored_sender` receives the result.
    pub(crate) fn insert(&mut self, put: PendingWrite, stored_sender: Option<StoredSender>) {
        let now = put.accepted;
        if let Some((error, until)) = &self.failing
            && now < *until
        {
            return notify(stored_sender, Err(error.clone()));
        }
        self.put_at.get_or_insert(now + self.delay);
        self.pending.insert(put.id, (put, stored_sender));
    }

    /// Removes a message that is delivered or dropped.
    pub(crate) fn remove(&mut self, id: MessageId, now: Instant) {
        if let Some((_, stored_sender)) = self.pending.remove(&id) {
            // It can no longer be lost.
            notify(stored_sender, Ok(()));
            if self.pending.is_empty() {
                self.put_at = None;
            }
        } else if self.stored.remove(&id) || self.is_being_written(id) {
            self.obsolete.insert(id);
            let delay = if self.obsolete.len() < REMOVALS || self.failing.is_some() {
                REMOVE_DELAY
            } else {
                Duration::ZERO
            };
            let remove_at = now + delay;
            self.remove_at = Some(self.remove_at.map_or(remove_at, |at| at.min(remove_at)));
        }
    }

    fn is_being_written(&self, id: MessageId) -> bool {
        self.writing
            .as_ref()
            .is_some_and(|writing| writing.put.iter().any(|(put, _)| *put == id))
    }

    /// Makes pending messages due now, because the session ends.
    pub(crate) fn flush_now(&mut self, now: Instant) {
        self.put_at = self.put_at.map(|at| at.min(now));
    }

    /// Returns when to call [`collect`](Self::collect).
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.writing {
            Some(_) => None,
            None => self.put_at.into_iter().chain(self.remove_at).min(),
        }
    }

    /// Returns the batch that is due.
    pub(crate) fn collect(&mut self, now: Instant) -> Option<Batch> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        Some(self.batch())
    }

    /// Returns the next batch when the session ends, due or not; `None` if nothing is left.
    pub(crate) fn collect_last(&mut self) -> Option<Batch> {
        let nothing = self.pending.is_empty() && self.obsolete.is_empty();
        (self.writing.is_none() && !nothing).then(|| self.batch())
    }

    fn batch(&mut self) -> Batch {
        let (mut put, mut stored_senders, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = self.pending.first_entry() {
            bytes += next.get().0.message.cost();
            if bytes > BATCH_BYTES && !put.is_empty() {
                break;
            }
            let (id, (message, stored_sender)) = next.remove_entry();
            put.push(message);
            stored_senders.push((id, stored_sender));
        }
        let remove: Vec<_> = std::mem::take(&mut self.obsolete).into_iter().collect();
        (self.put_at, self.remove_at) = (None, None);
        self.writing = Some(Writing {
            put: stored_senders,
            remove: remove.clone(),
        });
        Batch { put, remove }
    }

    /// Handles the result of writing a batch.
    pub(crate) fn written(&mut self, outcome: Result<(), StoreError>, now: Instant) -> Written {
        let Some(Writing { put, remove }) = self.writing.take() else {
            return Written::default();
        };
        match outcome {
            Ok(()) => self.succeeded(put, now),
            Err(error) => self.failed(put, remove, error, now),
        }
    }

    fn succeeded(&mut self, put: Vec<(MessageId, Option<StoredSender>)>, now: Instant) -> Written {
        for (id, stored_sender) in put {
            if !self.obsolete.contains(&id) {
                self.stored.insert(id);
            }
            notify(stored_sender, Ok(()));
        }
        if !self.pending.is_empty() {
            // These have waited for the previous write.
            self.put_at = Some(now);
        }
        self.failing = None;
        Written::default()
    }

    fn failed(
        &mut self,
        put: Vec<(MessageId, Option<StoredSender>)>,
        remove: Vec<MessageId>,
        error: StoreError,
        now: Instant,
    ) -> Written {
        let mut written = Written::default();
        if self.failing.is_none() {
            written.new_failure = Some(error.clone());
        }
        for (id, stored_sender) in put {
            // A message that was removed meanwhile cannot be lost.
            let settled = self.obsolete.remove(&id);
            notify(
                stored_sender,
                if settled { Ok(()) } else { Err(error.clone()) },
            );
        }
        for (_, (_, stored_sender)) in std::mem::take(&mut self.pending) {
            notify(stored_sender, Err(error.clone()));
        }
        self.put_at = None;
        if matches!(error, StoreError::Damaged(_)) {
            // The store starts empty again, so it needs no delay.
            written.lost = std::mem::take(&mut self.stored);
            self.obsolete.clear();
            (self.remove_at, self.failing) = (None, None);
            return written;
        }
        self.obsolete.extend(remove);
        self.remove_at = (!self.obsolete.is_empty()).then(|| now + REMOVE_DELAY);
        self.failing = Some((error, now + RETRY_DELAY));
        written
    }

    /// Returns the number of stored messages that are still to be delivered.
    pub(crate) fn stored_count(&self) -> usize {
        self.stored.len()
    }
}

/// Sends the result. An error means that the receipt was dropped.
fn notify(stored_sender: Option<StoredSender>, outcome: Result<(), StoreError>) {
    if let Some(stored_sender) = stored_sender {
        let _ = stored_sender.send(outcome);
    }
}

#[cfg(test)]
mod tests;
