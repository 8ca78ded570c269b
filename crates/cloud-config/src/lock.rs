//! One process per directory, by an advisory lock on a file that names the holder.
//!
//! The operating system releases the lock when its holder ends, in whatever way: the file alone, with the id of a
//! process that is gone, locks nothing. The lock keeps writers apart; reading needs none.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::dir::{Dir, step};
use crate::error::{AccessError, LockError};

pub(crate) const LOCK_FILE: &str = ".lock";

/// How often to try when the file is removed under our hands by a process that resets the directory, or is held by
/// somebody for one call: nearly a second, as each look for the holder's process id takes up to 50 ms.
const ATTEMPTS: usize = 16;
/// How often, 5 ms apart, to look for the process id of a holder that has only just taken the lock.
const PID_READS: usize = 10;

/// The directory is this process's until this is dropped. From [`Store::lock`](crate::Store::lock).
///
/// Ends with [`Store::remove`](crate::Store::remove) too, which removes the lock file with the rest.
#[derive(Debug)]
#[must_use = "the directory is released when this is dropped"]
pub struct DirectoryLock {
    _held: Arc<Held>,
}

impl DirectoryLock {
    pub(crate) fn new(held: Arc<Held>) -> Self {
        Self { _held: held }
    }
}

/// An acquired lock with the directory it belongs to.
pub(crate) struct Held {
    file: File,
    pub(crate) dir: Dir,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Held").field(&self.dir.path()).finish()
    }
}

impl Held {
    /// Takes the lock of the directory at `path`, which is made if it is not there, and says whose it is.
    pub(crate) fn acquire(path: &Path) -> Result<Self, LockError> {
        let held = Self::acquire_for_a_call(path)?;
        held.write_pid();
        Ok(held)
    }

    /// The same for the milliseconds that one call takes. Without a process id in it, whoever finds it taken looks again
    /// rather than giving up.
    pub(crate) fn acquire_for_a_call(path: &Path) -> Result<Self, LockError> {
        for _ in 0..ATTEMPTS {
            let dir = Dir::open_or_create(path)?;
            let mut file = match dir.open_lock_file(LOCK_FILE) {
                Ok(file) => file,
                // The directory went away in between.
                Err(Errno::NOENT) => continue,
                Err(Errno::LOOP) => return Err(AccessError::Symlink(dir.join(LOCK_FILE)).into()),
                Err(errno) => {
                    return Err(AccessError::io("open", dir.join(LOCK_FILE), errno).into());
                }
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => match read_pid(&mut file) {
                    // Held for a call, or just let go.
                    None => continue,
                    pid => return Err(in_use(path, pid)),
                },
                Err(errno) => {
                    return Err(AccessError::io("lock", dir.join(LOCK_FILE), errno).into());
                }
            }
            let held = Self { file, dir };
            if held.is_current(path)? {
                // Of a holder that was killed: it would be taken for ours.
                let _ = held.file.set_len(0);
                return Ok(held);
            }
        }
        Err(in_use(path, None))
    }

    /// Whether the locked file is still the one that others would find.
    pub(crate) fn is_current(&self, path: &Path) -> Result<bool, AccessError> {
        let Some(found) = Dir::open(path)? else {
            return Ok(false);
        };
        let mine = rustix::fs::fstat(&self.file)
            .map_err(|errno| AccessError::io("look at", self.dir.join(LOCK_FILE), errno))?;
        Ok(found
            .stat(LOCK_FILE)?
            .is_some_and(|stat| (stat.st_dev, stat.st_ino) == (mine.st_dev, mine.st_ino)))
    }

    /// A full disk must not keep us from locking: then the file stays without an id, and only the message suffers.
    fn write_pid(&self) {
        let mut file = &self.file;
        let written = step("write", &self.dir.join(LOCK_FILE), || {
            file.set_len(0)?;
            file.write_all(format!("{}\n", std::process::id()).as_bytes())
        });
        if let Err(error) = written {
            tracing::debug!(%error, "the process id could not be written into the lock file");
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // So that nobody reads our id while the next holder has not written its own yet.
        let _ = step("write", &self.dir.join(LOCK_FILE), || self.file.set_len(0));
        // Closing alone would leave it locked for as long as a process that another thread just forks has a copy.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Whether nobody has the lock. Whoever wants it in the same moment finds it taken for a call, and looks again.
pub(crate) fn ensure_free(dir: &Dir) -> Result<(), LockError> {
    let failed = |action, errno| AccessError::io(action, dir.join(LOCK_FILE), errno);
    let opened = dir.open_to_read(LOCK_FILE);
    let Some(mut file) = opened.map_err(|errno| failed("open", errno))? else {
        return Ok(());
    };
    for _ in 0..ATTEMPTS {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                // As above: closing alone may not be enough.
                let _ = rustix::fs::flock(&file, FlockOperation::Unlock);
                return Ok(());
            }
            Err(Errno::WOULDBLOCK) => match read_pid(&mut file) {
                None => continue,
                pid => return Err(in_use(dir.path(), pid)),
            },
            Err(errno) => return Err(failed("lock", errno).into()),
        }
    }
    Err(in_use(dir.path(), None))
}

fn in_use(directory: &Path, pid: Option<u32>) -> LockError {
    LockError::InUse {
        directory: directory.to_owned(),
        pid,
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    for attempt in 0..PID_READS {
        if attempt > 0 {
            thread::sleep(Duration::from_millis(5));
        }
        let mut text = String::new();
        file.seek(SeekFrom::Start(0)).ok()?;
        Read::by_ref(file).take(32).read_to_string(&mut text).ok()?;
        if let Some(pid) = text.strip_suffix('\n').and_then(|text| text.parse().ok()) {
            return Some(pid);
        }
    }
    None
}
