//! Background writer of the outbox store: a commit may take as long as the disk needs without
//! blocking the session task.
//!
//! One blocking call at a time owns the store. Not here: what is written and when, see
//! [`write_behind`](crate::outbox::write_behind).

use std::time::SystemTime;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::outbox::Restored;
use crate::outbox::store::{OutboxStore, StoreBatch, StoreError, StoredMessage};
use crate::outbox::write_behind::Batch;

type Store = Box<dyn OutboxStore>;

/// The store of a session; without a store it does nothing.
pub(crate) struct StoreWriter {
    /// `None` during a write, and permanently after a panic.
    store: Option<Store>,
    writing: JoinSet<(Option<Store>, Result<(), StoreError>)>,
}

impl StoreWriter {
    pub(crate) fn new(store: Option<Store>) -> Self {
        Self {
            store,
            writing: JoinSet::new(),
        }
    }

    /// Returns the stored messages; `None` without a store.
    pub(crate) fn restore(&mut self, now: Instant, wall: SystemTime) -> Option<Vec<Restored>> {
        let kept = self.store.as_mut()?.restore();
        let restored = kept.into_iter().map(|stored| Restored {
            id: stored.key,
            // A time that overflows the clock means no expiry.
            expires: stored
                .time_left(wall)
                .and_then(|time| now.checked_add(time)),
            message: stored.message,
        });
        Some(restored.collect())
    }

    pub(crate) fn is_writing(&self) -> bool {
        !self.writing.is_empty()
    }

    /// Starts a write; [`written`](Self::written) returns its result. Only one batch at a time.
    pub(crate) fn write(&mut self, batch: Batch) {
        let batch = to_wall_clock(batch, Instant::now(), SystemTime::now());
        let mut store = self.store.take();
        self.writing.spawn_blocking(move || {
            let outcome = match &mut store {
                Some(store) => store.commit(&batch),
                None => Err(panicked()),
            };
            (store, outcome)
        });
    }

    /// Returns the result of the write. Pending while no write runs.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn written(&mut self) -> Result<(), StoreError> {
        match self.writing.join_next().await {
            Some(Ok((store, outcome))) => {
                self.store = store;
                outcome
            }
            Some(Err(_)) => Err(panicked()),
            None => std::future::pending().await,
        }
    }
}

fn panicked() -> StoreError {
    StoreError::Internal("the store panicked; restart the session".into())
}

/// Converts monotonic times to wall clock times, which outlive the process.
fn to_wall_clock(batch: Batch, now: Instant, wall: SystemTime) -> StoreBatch {
    let put = batch.put.into_iter().map(|put| {
        let age = now.saturating_duration_since(put.accepted);
        StoredMessage {
            key: put.id,
            message: put.message,
            accepted: wall.checked_sub(age).unwrap_or(wall),
            expires_in: put.expires_in,
        }
    });
    StoreBatch {
        put: put.collect(),
        remove: batch.remove,
    }
}
