//! Writes to the outbox's store, away from the session's task: a commit may take as long as the disk likes.
//!
//! The store is lent to one blocking call at a time. Not here: what is written and when, see
//! [`ledger`](crate::ledger).

use std::time::SystemTime;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::ledger::Batch;
use crate::outbox::Restored;
use crate::store::{OutboxStore, StoreBatch, StoreError, StoredMessage};

type Store = Box<dyn OutboxStore>;

/// The store of a session; without one it does nothing.
pub(crate) struct Keeper {
    /// `None` while it is lent, and for good after a panic.
    store: Option<Store>,
    lent: JoinSet<(Option<Store>, Result<(), StoreError>)>,
}

impl Keeper {
    pub(crate) fn new(store: Option<Store>) -> Self {
        Self {
            store,
            lent: JoinSet::new(),
        }
    }

    /// What the store has kept; `None` without a store.
    pub(crate) fn restore(&mut self, now: Instant, wall: SystemTime) -> Option<Vec<Restored>> {
        let kept = self.store.as_mut()?.restore();
        let restored = kept.into_iter().map(|stored| Restored {
            id: stored.key,
            // A time too long to be counted is for ever.
            expires: stored
                .time_left(wall)
                .and_then(|time| now.checked_add(time)),
            message: stored.message,
        });
        Some(restored.collect())
    }

    pub(crate) fn is_writing(&self) -> bool {
        !self.lent.is_empty()
    }

    /// Begins to write; [`written`](Self::written) tells the end. One batch at a time.
    pub(crate) fn write(&mut self, batch: Batch) {
        let batch = on_the_wall(batch, Instant::now(), SystemTime::now());
        let mut store = self.store.take();
        self.lent.spawn_blocking(move || {
            let outcome = match &mut store {
                Some(store) => store.commit(&batch),
                None => Err(panicked()),
            };
            (store, outcome)
        });
    }

    /// How the writing went. Ends only when something is being written.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn written(&mut self) -> Result<(), StoreError> {
        match self.lent.join_next().await {
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
    StoreError::Internal("the store panicked; start the session anew".into())
}

/// In the terms of the store, which outlives what time is measured with here.
fn on_the_wall(batch: Batch, now: Instant, wall: SystemTime) -> StoreBatch {
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
