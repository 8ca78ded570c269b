//! An outbox that survives `kill -9` and the loss of power: a [store](OutboxStore) in one file.
//!
//! The file is a database of the redb crate. A commit writes new pages beside the old ones, makes them last, and only
//! then counts; so whatever interrupts it, the file holds all that was committed before. Each page carries a checksum.
//!
//! Not here: [what is written and when](crate::ledger).
//!
//! Invariants: the directory is made with mode 0700 and the file with 0600; one process uses it at a time, and one at a
//! time makes the file, opens it or moves it aside; a file that cannot be read is moved aside and told of, never deleted and
//! never in the way of a start.

mod database;

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;

use self::database::{Database, OpenError};
use crate::store::{OutboxStore, StoreBatch, StoreError, StoredMessage};

const FILE: &str = "outbox.redb";

/// What it is called until it is whole.
const NEW: &str = "outbox.redb.new";

/// Locked by whoever makes the outbox, opens it or moves it aside. The lock that redb puts on the file itself is too late for
/// that: two that begin together would each make a file, and the second would cut off what the first has written, or put its
/// own in the place of one that is in use.
const LOCK: &str = "outbox.lock";

/// Where a damaged file goes. One is kept, so that damage again and again does not fill the disk.
const DAMAGED: &str = "outbox.redb.damaged";

/// A [store](OutboxStore) in a file, for [`SessionBuilder::outbox_store`](crate::SessionBuilder::outbox_store).
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
    /// `None` after a failure, until it is opened anew.
    database: Option<Database>,
    restored: Vec<StoredMessage>,
    damage: Option<Damage>,
}

/// What was damaged and where it is now.
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
    /// Opens the store in this directory, which is made if there is none. Blocks for as long as the
    /// disk needs: it reads and checks all of the file, and writes a little.
    ///
    /// A damaged file does not fail this; see [`damage`](Self::damage).
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

    /// How many messages of earlier processes wait in it.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.restored.len()
    }

    /// What was found damaged when it was opened, if anything was.
    #[must_use]
    pub fn damage(&self) -> Option<&Damage> {
        self.damage.as_ref()
    }

    /// After a failure the database has to be opened anew, which repairs what a commit has left half done.
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
    tracing::error!(%damage, "an outbox without its messages is begun");
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
    // Made under another name, so that a loss of power in the middle does not look like damage.
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

/// The lock of the directory, held until it is dropped. Nobody is waited for: whoever has it will have the outbox.
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
    // Elsewhere a directory cannot be opened.
    if cfg!(unix) {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
