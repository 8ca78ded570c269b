//! The interface of outbox stores, and their errors.
//!
//! The session decides [what is written and when](crate::outbox::write_behind). The crate provides
//! `DurableOutbox` (feature `durable`); other media need another implementation of [`OutboxStore`].

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thiserror::Error;

use crate::mqtt::message::Message;

/// A medium on which messages survive the process and power loss; see
/// [`SessionBuilder::outbox_store`](crate::SessionBuilder::outbox_store).
///
/// Its methods may block; [`commit`](Self::commit) runs on a thread for blocking work.
pub trait OutboxStore: Send + 'static {
    /// Returns the messages that were committed and not removed, in ascending order of keys. Called
    /// once, before the first commit, when the session starts; it must not block for long.
    fn restore(&mut self) -> Vec<StoredMessage>;

    /// Commits the whole batch or nothing. When this returns, the batch survives power loss.
    ///
    /// # Errors
    ///
    /// [`StoreError`]; then no part of the batch is committed. The next batch may succeed.
    fn commit(&mut self, batch: &StoreBatch) -> Result<(), StoreError>;
}

/// A message in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMessage {
    /// Position: a message with a smaller key was accepted earlier.
    pub key: u64,
    /// The message, at QoS 1.
    pub message: Message,
    /// When it was accepted, by the wall clock.
    pub accepted: SystemTime,
    /// Expiry interval from then on; `None` for no limit.
    pub expires_in: Option<Duration>,
}

/// Clocks before this time are not set: boards without a battery start in 1970 or at the date of
/// their firmware. This is 2024-01-01.
const PLAUSIBLE: Duration = Duration::from_secs(1_704_067_200);

impl StoredMessage {
    /// Returns the remaining time. Elapsed time counts only if both clock readings are plausible:
    /// if the clock was not set when the message was accepted, or has been set back since, the
    /// whole time remains.
    pub(crate) fn time_left(&self, now: SystemTime) -> Option<Duration> {
        let passed = match self.accepted.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) if since >= PLAUSIBLE => now.duration_since(self.accepted).ok(),
            _ => None,
        };
        self.expires_in
            .map(|time| time.saturating_sub(passed.unwrap_or_default()))
    }
}

/// A batch that a store commits atomically.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StoreBatch {
    /// New messages, in ascending order of keys.
    pub put: Vec<StoredMessage>,
    /// Keys of messages to remove.
    pub remove: Vec<u64>,
}

/// Why a message is not in the store.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The session has no store, or the message is not storable: it must be at QoS 1 and not a
    /// [request](crate::Session::request).
    #[error("the message is held in memory only: it is not at QoS 1, or the session has no store")]
    NotKept,
    /// The medium is full.
    #[error("the outbox cannot be stored: no space is left on its disk; free some")]
    Full,
    /// Another process, or another session of this process, uses the store.
    #[error("the outbox is in use by another process or session; end it, or use another directory")]
    InUse,
    /// The store is damaged, and its content could not be read.
    #[error("the stored outbox was damaged: {0}")]
    Damaged(Arc<str>),
    /// The medium failed.
    #[error(
        "the outbox cannot be stored: {message}; check the disk and the directory's permissions"
    )]
    Io {
        /// Kind of the I/O error.
        kind: io::ErrorKind,
        /// Message of the operating system.
        message: Arc<str>,
    },
    /// An internal error of the store.
    #[error("the outbox cannot be stored: {0}")]
    Internal(Arc<str>),
    /// The session ended before the message was stored.
    #[error("the session ended before the message was stored")]
    Stopped,
}

impl StoreError {
    /// Returns whether storing may succeed later without a change to the program.
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
    fn expiry_counts_only_plausible_clock_readings() {
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
        let unlimited = StoredMessage {
            key: 1,
            message: Message::new("t", ""),
            accepted: at(set),
            expires_in: None,
        };
        assert_eq!(unlimited.time_left(at(2 * set)), None);
    }
}
