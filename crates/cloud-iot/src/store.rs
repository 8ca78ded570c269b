//! Where accepted messages outlive the process: what a store must do, and what can go wrong with it.
//!
//! The session decides [what is written and when](crate::ledger); a store only writes it. The one that comes with the
//! crate is `DurableOutbox` (feature `durable`); another medium takes another implementation of [`OutboxStore`].
//!
//! See docs/protocol.md, "IoT messaging".

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::message::Message;

/// A medium on which messages outlive the process and the power supply; see
/// [`SessionBuilder::outbox_store`](crate::SessionBuilder::outbox_store).
///
/// Its methods may block; [`commit`](Self::commit) is called where that harms nobody.
pub trait OutboxStore: Send + 'static {
    /// What was committed and not removed, in ascending order of keys. Called once, before the first
    /// commit, when the session starts; it must not wait for the medium for long.
    fn restore(&mut self) -> Vec<StoredMessage>;

    /// Makes the batch last: all of it or nothing, and when this returns it survives the loss of
    /// power.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then nothing of the batch counts as done. The next batch may succeed.
    fn commit(&mut self, batch: &StoreBatch) -> Result<(), StoreError>;
}

/// A message as a store keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Its place: a message with a smaller key was accepted earlier.
    pub key: u64,
    /// The message, at QoS 1.
    pub message: Message,
    /// When it was accepted, by the clock on the wall.
    pub accepted: SystemTime,
    /// How long it was worth delivering from then on; `None`: for ever.
    pub expires_in: Option<Duration>,
}

/// Clocks that show less have not been set: boards without a battery begin in 1970 or at the date of their firmware.
/// This is 2024-01-01.
const PLAUSIBLE: Duration = Duration::from_secs(1_704_067_200);

impl StoredMessage {
    /// What is left of its time. Only time that both clocks vouch for counts: if the clock had not been set when the
    /// message was accepted, or has been set back since, all of its time is left.
    pub(crate) fn time_left(&self, now: SystemTime) -> Option<Duration> {
        let passed = match self.accepted.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) if since >= PLAUSIBLE => now.duration_since(self.accepted).ok(),
            _ => None,
        };
        self.expires_in
            .map(|time| time.saturating_sub(passed.unwrap_or_default()))
    }
}

/// What a store is to make last together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreBatch {
    /// New messages, in ascending order of keys.
    pub put: Vec<StoredMessage>,
    /// The keys of messages that need not be kept any longer.
    pub remove: Vec<u64>,
}

/// Why a message is not in the store.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The session has no store, or the message is not of the kind that is stored: QoS 1, and no
    /// [request](crate::SessionHandle::request).
    #[error("the message is held in memory only: it is not at QoS 1, or the session has no store")]
    NotKept,
    /// The medium has no room left.
    #[error("the outbox cannot be stored: no space is left on its disk; free some")]
    Full,
    /// Another process, or another session of this one, uses the store.
    #[error("the outbox is in use by another process or session; end it, or use another directory")]
    InUse,
    /// The store was found damaged. What it held could not be read.
    #[error("the stored outbox was damaged: {0}")]
    Damaged(Arc<str>),
    /// The medium failed.
    #[error(
        "the outbox cannot be stored: {message}; look at the disk and at the directory's rights"
    )]
    Io {
        /// What kind of failure it was.
        kind: io::ErrorKind,
        /// What the system says.
        message: Arc<str>,
    },
    /// The store failed in a way that it must not.
    #[error("the outbox cannot be stored: {0}")]
    Internal(Arc<str>),
    /// The session ended before the message was stored.
    #[error("the session ended before the message was stored")]
    Stopped,
}

impl StoreError {
    /// Whether storing may succeed later without anything being changed in the program.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Full | Self::Io { .. } | Self::InUse)
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            kind => Self::Io {
                kind,
                message: error.to_string().into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_that_both_clocks_vouch_for_counts() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let left = |accepted: u64, now: u64| {
            let stored = StoredMessage {
                key: 1,
                message: Message::new("t", ""),
                accepted: at(accepted),
                expires_in: Some(Duration::from_secs(100)),
            };
            stored.time_left(at(now)).unwrap().as_secs()
        };
        let set = PLAUSIBLE.as_secs() + 1000;
        assert_eq!(left(set, set + 30), 70);
        assert_eq!(left(set, set + 100), 0);
        assert_eq!(left(set, set + 1_000_000), 0);
        assert_eq!(left(set, set - 500), 100, "set back");
        assert_eq!(left(set, 10), 100, "not set after the restart");
        assert_eq!(left(10, 500), 100, "not set before it");
        assert_eq!(left(10, set), 100, "set in between");
        let for_ever = StoredMessage {
            key: 1,
            message: Message::new("t", ""),
            accepted: at(set),
            expires_in: None,
        };
        assert_eq!(for_ever.time_left(at(2 * set)), None);
    }
}
