//! A durable outbox, which survives `kill -9` and power loss: a [store](OutboxStore) in one file.
//!
//! The file is a redb database. A commit writes new pages beside the old ones, syncs them, and only
//! then takes effect, so an interruption at any point leaves all earlier commits intact. Each page
//! has a checksum.
//!
//! Not here: [what is written and when](crate::outbox::write_behind).
//!
//! Invariants: the directory has mode 0700 and the file 0600; one process at a time uses the file,
//! and one at a time creates, opens or moves it; an unreadable file is moved aside and reported,
//! never deleted, and never prevents a start.

mod database;

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;

use self::database::{Database, OpenError};
use crate::outbox::store::{OutboxStore, StoreBatch, StoreError, StoredMessage};

const FILE: &str = "outbox.redb";

/// Name of the file until it is complete.
const NEW: &str = "outbox.redb.new";

/// Lock for creating, opening or moving the file. The lock that redb takes on the file itself is
/// too late: two processes that start together would each create a file, and the second would
/// truncate the first one's, or replace a file that is in use.
const LOCK: &str = "outbox.lock";

/// Where a damaged file is moved. Only one is kept, so that repeated damage does not fill the disk.
const DAMAGED: &str = "outbox.redb.damaged";

/// A [store](OutboxStore) in a file, for
/// [`SessionBuilder::outbox_store`](crate::SessionBuilder::outbox_store).
///
/// ```
/// use cloud_iot::DurableOutbox;
///
/// # let scratch = std::env::temp_dir().join(format!("cloud-iot-doc-{}", std::process::id()));
/// let outbox = DurableOutbox::open(&scratch)?;
/// if let Some(damage) = outbox.damage() {
///     eprintln!("{damage}");
/// }
/// println!("{} messages of the process before", outbox.waiting());
/// // session.outbox_store(outbox)
/// # drop(outbox);
/// # std::fs::remove_dir_all(&scratch).unwrap();
/// # Ok::<(), cloud_iot::StoreError>(())
/// ```
pub struct DurableOutbox {
    directory: PathBuf,
    /// `None` after a failure, until it is reopened.
    database: Option<Database>,
    restored: Vec<StoredMessage>,
    damage: Option<Damage>,
}

/// A damaged file, and where it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Damage {
    /// What is wrong with the file.
    pub reason: Arc<str>,
    /// Where it was moved to.
    pub moved_to: PathBuf,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the stored outbox was damaged ({}) and moved to {:?}; its messages are lost unless it can be repaired by hand",
            self.reason, self.moved_to
        )
    }
}

impl DurableOutbox {
    /// Opens the store in this directory, which is created if missing. Blocks for as long as the
    /// disk needs: it reads and checks the whole file, and writes a little.
    ///
    /// A damaged file is not an error; see [`damage`](Self::damage).
    ///
    /// # Errors
    ///
    /// [`StoreError`] if the store is in use, or the disk is full or fails.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let directory = directory.into();
        make_directory(&directory)?;
        let Opened {
            database,
            restored,
            damage,
        } = open(&directory)?;
        Ok(Self {
            directory,
            database: Some(database),
            restored,
            damage,
        })
    }

    /// Returns the number of messages from earlier processes.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.restored.len()
    }

    /// Returns the damage found on opening, if any.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// Reopens the database after a failure, which repairs an interrupted commit.
    fn reopen(&self) -> Result<Database, StoreError> {
        let opened = open(&self.directory)?;
        match opened.damage {
            None => Ok(opened.database),
            Some(damage) => Err(StoreError::Damaged(damage.to_string().into())),
        }
    }
}

impl fmt::Debug for DurableOutbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DurableOutbox")
            .field("directory", &self.directory)
            .field("waiting", &self.restored.len())
            .field("damage", &self.damage)
            .finish_non_exhaustive()
    }
}

impl OutboxStore for DurableOutbox {
    fn restore(&mut self) -> Vec<StoredMessage> {
        std::mem::take(&mut self.restored)
    }

    fn commit(&mut self, batch: &StoreBatch) -> Result<(), StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => self.reopen()?,
        };
        self.database = Some(database.commit(batch)?);
        Ok(())
    }
}

struct Opened {
    database: Database,
    restored: Vec<StoredMessage>,
    damage: Option<Damage>,
}

fn open(directory: &Path) -> Result<Opened, StoreError> {
    let _lock = lock(directory)?;
    let path = directory.join(FILE);
    let reason = match open_or_make(directory, &path) {
        Ok((database, restored)) => {
            return Ok(Opened {
                database,
                restored,
                damage: None,
            });
        }
        Err(OpenError::Store(error)) => return Err(error),
        Err(OpenError::Damaged(reason)) => reason,
    };
    let moved_to = directory.join(DAMAGED);
    fs::rename(&path, &moved_to)?;
    let damage = Damage { reason, moved_to };
    tracing::error!(%damage, "starting with an empty outbox");
    match open_or_make(directory, &path) {
        Ok((database, restored)) => Ok(Opened {
            database,
            restored,
            damage: Some(damage),
        }),
        Err(OpenError::Store(error)) => Err(error),
        Err(OpenError::Damaged(reason)) => Err(StoreError::Damaged(reason)),
    }
}

type Content = (Database, Vec<StoredMessage>);

fn open_or_make(directory: &Path, path: &Path) -> Result<Content, OpenError> {
    if path.try_exists()? {
        let file = open_file(path, OpenOptions::new().read(true))?;
        return Database::open(FileBackend::new(file)?);
    }
    // Created under another name, so that power loss in between does not look like damage.
    let new = directory.join(NEW);
    let mut options = OpenOptions::new();
    options.read(true).create(true).truncate(true);
    let file = open_file(&new, &mut options)?;
    let made = Database::open(FileBackend::new(file)?)?;
    fs::rename(&new, path)?;
    sync_directory(directory)?;
    Ok(made)
}

fn make_directory(directory: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory)
}

/// Locks the directory until the lock is dropped. Does not wait: the holder of the lock will use
/// the outbox.
fn lock(directory: &Path) -> Result<File, StoreError> {
    let path = directory.join(LOCK);
    let file = open_file(&path, OpenOptions::new().create(true).truncate(false))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn open_file(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.write(true).open(path)
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    // On other systems a directory cannot be opened.
    if cfg!(unix) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
