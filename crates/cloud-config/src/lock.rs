//! One process per directory, by an advisory lock on a file that names the holder.
//!
//! The operating system releases the lock when its holder ends: a leftover file with a stale
//! process ID locks nothing. The lock excludes other writers; reading needs none.

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

/// Attempts while another process removes the file during a reset or holds the lock for one call:
/// nearly a second, because each search for the holder's process ID takes up to 50 ms.
const ATTEMPTS: usize = 16;
/// Reads, 5 ms apart, of the process ID of a holder that has just acquired the lock.
const PID_READS: usize = 10;

/// The lock of a directory, released on drop. Created by [`Store::lock`](crate::Store::lock).
///
/// [`Store::remove`](crate::Store::remove) ends the lock too, because it removes the lock file.
#[derive(Debug)]
#[must_use = "the directory is released when this is dropped"]
pub struct DirectoryLock {
    _guard: Arc<LockedDir>,
}

impl DirectoryLock {
    pub(crate) fn new(held: Arc<LockedDir>) -> Self {
        Self { _guard: held }
    }
}

/// An acquired lock with its directory.
pub(crate) struct LockedDir {
    file: File,
    pub(crate) dir: Dir,
}

impl std::fmt::Debug for LockedDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("LockedDir").field(&self.dir.path()).finish()
    }
}

impl LockedDir {
    /// Acquires the lock of the directory at `path`, creates the directory if necessary, and
    /// records the process ID.
    pub(crate) fn acquire(path: &Path) -> Result<Self, LockError> {
        let held = Self::acquire_for_call(path)?;
        held.write_pid();
        Ok(held)
    }

    /// Acquires the lock for the milliseconds of one call. Without a process ID in the file, other
    /// processes retry instead of failing.
    pub(crate) fn acquire_for_call(path: &Path) -> Result<Self, LockError> {
        for _ in 0..ATTEMPTS {
            let dir = Dir::open_or_create(path)?;
            let mut file = match dir.open_lock_file(LOCK_FILE) {
                Ok(file) => file,
                // The directory was removed in between.
                Err(Errno::NOENT) => continue,
                Err(Errno::LOOP) => return Err(AccessError::Symlink(dir.join(LOCK_FILE)).into()),
                Err(errno) => {
                    return Err(AccessError::io("open", dir.join(LOCK_FILE), errno).into());
                }
            };
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => match read_pid(&mut file) {
                    // LockedDir for a call, or just let go.
                    None => continue,
                    pid => return Err(in_use(path, pid)),
                },
                Err(errno) => {
                    return Err(AccessError::io("lock", dir.join(LOCK_FILE), errno).into());
                }
            }
            let held = Self { file, dir };
            if held.is_current(path)? {
                // Remove the process ID of a killed holder.
                let _ = held.file.set_len(0);
                return Ok(held);
            }
        }
        Err(in_use(path, None))
    }

    /// Reports whether the locked file is still the one at `path`.
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

    /// Writes the process ID. A failure, for example on a full disk, affects only messages and must
    /// not prevent locking.
    fn write_pid(&self) {
        let mut file = &self.file;
        let written = step("write", &self.dir.join(LOCK_FILE), || {
            file.set_len(0)?;
            file.write_all(format!("{}\n", std::process::id()).as_bytes())
        });
        if let Err(error) = written {
            tracing::debug!(%error, "cannot write the process ID into the lock file");
        }
    }
}

impl Drop for LockedDir {
    fn drop(&mut self) {
        // Another process must not read this ID before the next holder writes its own.
        let _ = step("write", &self.dir.join(LOCK_FILE), || self.file.set_len(0));
        // Closing alone would keep it locked while a concurrently forked process has a copy of the
        // descriptor.
        let _ = rustix::fs::flock(&self.file, FlockOperation::Unlock);
    }
}

/// Checks that the lock is free. A process that acquires it at the same moment retries, as after a
/// lock for one call.
pub(crate) fn ensure_unlocked_file(dir: &Dir) -> Result<(), LockError> {
    let failed = |action, errno| AccessError::io(action, dir.join(LOCK_FILE), errno);
    let opened = dir.open_to_read(LOCK_FILE);
    let Some(mut file) = opened.map_err(|errno| failed("open", errno))? else {
        return Ok(());
    };
    for _ in 0..ATTEMPTS {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => {
                // As in `drop`: closing alone may not release it.
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
