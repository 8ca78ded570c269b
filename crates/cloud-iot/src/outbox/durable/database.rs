//! The table of stored messages, on a redb storage backend.
//!
//! Invariants: no panic of redb, which has assertions that a damaged file can fail, leaves this
//! module; a database that has failed is not used again, as redb requires.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use redb::{
    DatabaseError, ReadableDatabase, ReadableTable, StorageBackend, StorageError, TableDefinition,
};

use crate::mqtt::message::{Message, QoS};
use crate::mqtt::message_properties::MessageProperties;
use crate::outbox::store::{StoreBatch, StoreError, StoredMessage};

/// Time of acceptance and expiry interval, both in milliseconds, the retain flag, topic, payload,
/// and properties as in a PUBLISH.
type Row = (
    u64,
    Option<u64>,
    bool,
    &'static [u8],
    &'static [u8],
    &'static [u8],
);

/// A change of [`Row`] needs another table name.
const MESSAGES: TableDefinition<'_, u64, Row> = TableDefinition::new("messages-2");

/// Cache size of redb in bytes. The file is read once, at the start; the cache is for its tree.
const CACHE_BYTES: usize = 256 << 10;

/// A file of at most this size is not compacted.
const SMALL_FILE_BYTES: u64 = 1 << 20;

#[derive(Debug)]
pub(super) struct Database(redb::Database);

/// Why a database cannot be opened.
#[derive(Debug)]
pub(super) enum OpenError {
    /// The content of the file is damaged.
    Damaged(Arc<str>),
    Store(StoreError),
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> Self {
        use std::io::ErrorKind::{InvalidData, UnexpectedEof};
        match error.kind() {
            InvalidData | UnexpectedEof => Self::Damaged(error.to_string().into()),
            _ => Self::Store(error.into()),
        }
    }
}

impl From<redb::Error> for OpenError {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(error) => error.into(),
            redb::Error::DatabaseAlreadyOpen => Self::Store(StoreError::InUse),
            // All other errors are permanent.
            error => Self::Damaged(error.to_string().into()),
        }
    }
}

impl From<DatabaseError> for OpenError {
    fn from(error: DatabaseError) -> Self {
        redb::Error::from(error).into()
    }
}

impl From<StorageError> for OpenError {
    fn from(error: StorageError) -> Self {
        redb::Error::from(error).into()
    }
}

impl Database {
    /// Opens the database, or creates one in an empty file, and reads all messages.
    pub(super) fn open(
        backend: impl StorageBackend,
    ) -> Result<(Self, Vec<StoredMessage>), OpenError> {
        let open = || {
            let length = backend.len()?;
            let mut database = redb::Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create_with_backend(backend)?;
            let messages = read(&database)?;
            shrink(&mut database, length, &messages)?;
            Ok((Self(database), messages))
        };
        catch_unwind(AssertUnwindSafe(open))
            .unwrap_or_else(|_| Err(OpenError::Damaged("its structure is invalid".into())))
    }

    /// Commits the whole batch or nothing. After an error the file must be reopened.
    pub(super) fn commit(self, batch: &StoreBatch) -> Result<Self, StoreError> {
        let commit = || {
            write(&self.0, batch)?;
            Ok(self)
        };
        let panicked = || StoreError::Internal("the database panicked".into());
        catch_unwind(AssertUnwindSafe(commit)).unwrap_or_else(|_| Err(panicked()))
    }
}

fn read(database: &redb::Database) -> Result<Vec<StoredMessage>, OpenError> {
    let transaction = database.begin_read().map_err(redb::Error::from)?;
    let table = match transaction.open_table(MESSAGES) {
        Ok(table) => table,
        // A new file.
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
        Err(error) => return Err(redb::Error::from(error).into()),
    };
    let mut messages = Vec::new();
    for row in table.iter()? {
        let (key, row) = row?;
        let (accepted, expires_in, retain, topic, payload, properties) = row.value();
        let properties = MessageProperties::decode(properties)
            .map_err(|fault| OpenError::Damaged(fault.text.into()))?;
        let topic = String::from_utf8(topic.to_vec())
            .map_err(|_| OpenError::Damaged("a topic is not UTF-8".into()))?;
        messages.push(StoredMessage {
            key: key.value(),
            message: Message {
                topic,
                payload: Bytes::copy_from_slice(payload),
                qos: QoS::AtLeastOnce,
                retain,
                properties,
            },
            accepted: SystemTime::UNIX_EPOCH
                .checked_add(Duration::from_millis(accepted))
                .unwrap_or(SystemTime::UNIX_EPOCH),
            expires_in: expires_in.map(Duration::from_millis),
        });
    }
    Ok(messages)
}

/// Compacts the file, which grows as needed and does not shrink by itself.
fn shrink(
    database: &mut redb::Database,
    length: u64,
    messages: &[StoredMessage],
) -> Result<(), OpenError> {
    let held: usize = messages.iter().map(|stored| stored.message.cost()).sum();
    if length > SMALL_FILE_BYTES.max(4 * held as u64) {
        database.compact().map_err(redb::Error::from)?;
    }
    Ok(())
}

fn write(database: &redb::Database, batch: &StoreBatch) -> Result<(), StoreError> {
    let transaction = database.begin_write().map_err(failed)?;
    {
        let mut table = transaction.open_table(MESSAGES).map_err(failed)?;
        for stored in &batch.put {
            let accepted = stored.accepted.duration_since(SystemTime::UNIX_EPOCH);
            let message = &stored.message;
            let properties = message.properties.as_deref();
            let properties = properties.map_or_else(Vec::new, MessageProperties::encode);
            let row = (
                milliseconds(accepted.unwrap_or_default()),
                stored.expires_in.map(milliseconds),
                message.retain,
                message.topic.as_bytes(),
                &message.payload[..],
                &properties[..],
            );
            table.insert(stored.key, row).map_err(failed)?;
        }
        for key in &batch.remove {
            table.remove(key).map_err(failed)?;
        }
    }
    transaction.commit().map_err(failed)
}

fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn failed(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Io(error) => error.into(),
        error => StoreError::Internal(error.to_string().into()),
    }
}

#[cfg(test)]
mod tests;
