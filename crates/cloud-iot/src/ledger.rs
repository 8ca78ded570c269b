//! Which accepted messages are on disk, which are to be written, and when.
//!
//! The flash of a small board wears with every commit, so commits are few: one at a time, each with all that has come
//! together, at the earliest [`store_delay`](crate::SessionConfig::store_delay) after the first of it. A message that is
//! delivered before its turn is never written. What need not be kept any longer is removed along with the next write, or
//! after a while: a crash before that repeats it, which QoS 1 allows.
//!
//! Not here: the disk. What [`Ledger::collect`] gives is written by the driver, which tells how it went.
//!
//! Invariants: a message counts as stored when a commit that held it has succeeded, and no sooner; messages are
//! written in the order of their acceptance; one batch is out at a time; what is kept here is bounded by the outbox,
//! plus [`REMOVALS`] that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::message::Message;
use crate::outbox::MessageId;
use crate::store::StoreError;

/// What one commit writes at most, in bytes: a second's worth for a slow SD card.
const BATCH_BYTES: usize = 1 << 20;

/// Removals that wait for something to be written with at most; so many are repeated after a crash.
const REMOVALS: usize = 256;

/// How long they wait.
const REMOVE_DELAY: Duration = Duration::from_secs(10);

/// How long a store that has failed is left alone. Messages of that time are told at once that they are not stored.
const RETRY_DELAY: Duration = Duration::from_secs(5);

pub(crate) type Stage = oneshot::Sender<Result<(), StoreError>>;

/// A message to be written.
#[derive(Debug, Clone)]
pub(crate) struct Put {
    pub(crate) id: MessageId,
    pub(crate) message: Message,
    pub(crate) accepted: Instant,
    pub(crate) expires_in: Option<Duration>,
}

/// What to write together.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) put: Vec<Put>,
    pub(crate) remove: Vec<MessageId>,
}

/// A batch that is being written.
#[derive(Debug)]
struct Writing {
    put: Vec<(MessageId, Option<Stage>)>,
    remove: Vec<MessageId>,
}

/// What the end of a batch means beyond it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// The store fails, and did not before.
    pub(crate) news: Option<StoreError>,
    /// These were on disk and are not any more.
    pub(crate) lost: BTreeSet<MessageId>,
}

#[derive(Debug)]
pub(crate) struct Ledger {
    delay: Duration,
    /// Accepted and neither written nor being written.
    pending: BTreeMap<MessageId, (Put, Option<Stage>)>,
    writing: Option<Writing>,
    /// On disk and still needed.
    kept: BTreeSet<MessageId>,
    /// On disk, or being written, and not needed any more.
    gone: BTreeSet<MessageId>,
    put_at: Option<Instant>,
    remove_at: Option<Instant>,
    failing: Option<(StoreError, Instant)>,
}

impl Ledger {
    /// For a store that holds `kept`.
    pub(crate) fn new(delay: Duration, kept: BTreeSet<MessageId>) -> Self {
        Self {
            delay,
            pending: BTreeMap::new(),
            writing: None,
            kept,
            gone: BTreeSet::new(),
            put_at: None,
            remove_at: None,
            failing: None,
        }
    }

    /// A message was accepted that is to be stored. `stage` is told when it is, or why it is not.
    pub(crate) fn enter(&mut self, put: Put, stage: Option<Stage>) {
        let now = put.accepted;
        if let Some((error, until)) = &self.failing
            && now < *until
        {
            return tell(stage, Err(error.clone()));
        }
        self.put_at.get_or_insert(now + self.delay);
        self.pending.insert(put.id, (put, stage));
    }

    /// A message has come to its end, be it delivered or given up, and need not be kept any longer.
    pub(crate) fn settle(&mut self, id: MessageId, now: Instant) {
        if let Some((_, stage)) = self.pending.remove(&id) {
            // Nothing is left that could be lost.
            tell(stage, Ok(()));
            if self.pending.is_empty() {
                self.put_at = None;
            }
        } else if self.kept.remove(&id) || self.is_being_written(id) {
            self.gone.insert(id);
            let delay = if self.gone.len() < REMOVALS || self.failing.is_some() {
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

    /// Nothing more will come: what waits is written now.
    pub(crate) fn hurry(&mut self, now: Instant) {
        self.put_at = self.put_at.map(|at| at.min(now));
    }

    /// When [`collect`](Self::collect) has something to give.
    pub(crate) fn due(&self) -> Option<Instant> {
        match self.writing {
            Some(_) => None,
            None => self.put_at.into_iter().chain(self.remove_at).min(),
        }
    }

    /// What is to be written now.
    pub(crate) fn collect(&mut self, now: Instant) -> Option<Batch> {
        if self.due().is_none_or(|due| due > now) {
            return None;
        }
        Some(self.batch())
    }

    /// What is left to write when the session ends, whatever its time; `None` if that was all.
    pub(crate) fn collect_last(&mut self) -> Option<Batch> {
        let nothing = self.pending.is_empty() && self.gone.is_empty();
        (self.writing.is_none() && !nothing).then(|| self.batch())
    }

    fn batch(&mut self) -> Batch {
        let (mut put, mut stages, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some(next) = self.pending.first_entry() {
            bytes += next.get().0.message.cost();
            if bytes > BATCH_BYTES && !put.is_empty() {
                break;
            }
            let (id, (message, stage)) = next.remove_entry();
            put.push(message);
            stages.push((id, stage));
        }
        let remove: Vec<_> = std::mem::take(&mut self.gone).into_iter().collect();
        (self.put_at, self.remove_at) = (None, None);
        self.writing = Some(Writing {
            put: stages,
            remove: remove.clone(),
        });
        Batch { put, remove }
    }

    /// How the writing of a batch went.
    pub(crate) fn written(&mut self, outcome: Result<(), StoreError>, now: Instant) -> Written {
        let Some(Writing { put, remove }) = self.writing.take() else {
            return Written::default();
        };
        match outcome {
            Ok(()) => self.succeeded(put, now),
            Err(error) => self.failed(put, remove, error, now),
        }
    }

    fn succeeded(&mut self, put: Vec<(MessageId, Option<Stage>)>, now: Instant) -> Written {
        for (id, stage) in put {
            if !self.gone.contains(&id) {
                self.kept.insert(id);
            }
            tell(stage, Ok(()));
        }
        if !self.pending.is_empty() {
            // It has waited while the others were written.
            self.put_at = Some(now);
        }
        self.failing = None;
        Written::default()
    }

    fn failed(
        &mut self,
        put: Vec<(MessageId, Option<Stage>)>,
        remove: Vec<MessageId>,
        error: StoreError,
        now: Instant,
    ) -> Written {
        let mut written = Written::default();
        if self.failing.is_none() {
            written.news = Some(error.clone());
        }
        for (id, stage) in put {
            // What has come to its end meanwhile cannot be lost.
            let settled = self.gone.remove(&id);
            tell(stage, if settled { Ok(()) } else { Err(error.clone()) });
        }
        for (_, (_, stage)) in std::mem::take(&mut self.pending) {
            tell(stage, Err(error.clone()));
        }
        self.put_at = None;
        if matches!(error, StoreError::Damaged(_)) {
            // It has begun anew, empty, and is not to be left alone.
            written.lost = std::mem::take(&mut self.kept);
            self.gone.clear();
            (self.remove_at, self.failing) = (None, None);
            return written;
        }
        self.gone.extend(remove);
        self.remove_at = (!self.gone.is_empty()).then(|| now + REMOVE_DELAY);
        self.failing = Some((error, now + RETRY_DELAY));
        written
    }

    /// Messages on disk that are still to be delivered.
    pub(crate) fn kept(&self) -> usize {
        self.kept.len()
    }
}

/// The receipt may have been dropped; that is its owner's right.
fn tell(stage: Option<Stage>, outcome: Result<(), StoreError>) {
    if let Some(stage) = stage {
        let _ = stage.send(outcome);
    }
}

#[cfg(test)]
mod tests;
