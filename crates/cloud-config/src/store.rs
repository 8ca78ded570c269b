//! The directory `.clesydecloud`: loading, storing, replacing, removing.
//!
//! Invariants: a reader gets a complete configuration or none, with matching certificates and keys;
//! only one process writes at a time; the Python library can read everything written. Reading takes
//! no lock and works concurrently with a writer. This module decides *what* is read and written;
//! the journal makes it atomic.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use zeroize::Zeroizing;

use crate::credentials::{Credentials, MAX_PEM, PairReport};
use crate::device::DeviceConfig;
use crate::dir::{Dir, step};
use crate::error::{AccessError, LoadError, LockError, OtherDevice, StoreError};
use crate::file_names::{
    CLOUD_CONFIG, COMMITTED, FILES, IOT_CA, IOT_CERT, IOT_KEY, REMOTE_CERT, REMOTE_KEY,
    SERIAL_NUMBER,
};
use crate::journal;
use crate::load::{Fingerprint, Source, read_device, read_partial, read_serial_number};
use crate::lock::{self, DirectoryLock, LOCK_FILE, LockedDir};
use crate::names::SerialNumber;
use crate::pending::{effective_source, is_provisioned};
use crate::repair::Repair;
use crate::serial_record;

/// The directory's name below the base path.
pub const DIRECTORY: &str = ".clesydecloud";

/// Bytes written by a preflight: more than the six files of a usual configuration, each rounded up
/// to a 4 KiB block.
const PREFLIGHT_SIZE: usize = 64 * 1024;

/// Attempts to read while another process replaces files. A replacement takes milliseconds and
/// happens a few times a year.
const READ_ATTEMPTS: usize = 8;

/// Result of [`Store::load`].
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded<R = Credentials> {
    /// The validated configuration.
    pub device: DeviceConfig<R>,
    /// Repairs made while loading.
    pub repairs: Vec<Repair>,
    /// The directory contains an interrupted change, which is unmodified: the next start with the
    /// lock finishes or discards it. Until then, a program without the journal, such as the Python
    /// library, may read other files than these.
    pub is_change_pending: bool,
}

/// One of a device's two pairs of certificate and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialSlot {
    /// The client certificate for the broker.
    Iot,
    /// The server certificate for remote access.
    Remote,
}

/// A device's directory. Cheap to clone; clones share the lock.
///
/// All calls block on disk I/O; from async code, use `spawn_blocking`.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    /// Serializes this process's calls, and refers to the lock while it is held.
    held: Mutex<Weak<LockedDir>>,
}

impl Store {
    /// Creates a store for the directory in `base_path`. Accesses no files.
    #[must_use]
    pub fn new(base_path: impl AsRef<Path>) -> Self {
        let inner = Inner {
            directory: base_path.as_ref().join(DIRECTORY),
            held: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns the directory: `<base path>/.clesydecloud`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Locks the directory for this process (and this `Store` with its clones) until the lock is
    /// dropped. Creates the directory if necessary. Writing calls acquire the lock themselves if it
    /// is not held.
    ///
    /// # Errors
    /// [`LockError::InUse`], with the holder's process ID, if it is locked, even by this `Store`.
    pub fn lock(&self) -> Result<DirectoryLock, LockError> {
        let mut slot = self.slot();
        if self.current(&slot)?.is_some() {
            return Err(LockError::InUse {
                directory: self.directory().to_owned(),
                pid: Some(std::process::id()),
            });
        }
        let held = Arc::new(LockedDir::acquire(self.directory())?);
        *slot = Arc::downgrade(&held);
        Ok(DirectoryLock::new(held))
    }

    /// Checks that the directory is not locked at this moment. Takes no lock and changes nothing.
    ///
    /// # Errors
    /// [`LockError::InUse`], with the holder's process ID, if it is locked, even by this `Store`.
    pub fn ensure_unlocked(&self) -> Result<(), LockError> {
        match self.open()? {
            Some(dir) => lock::ensure_unlocked_file(&dir),
            None => Ok(()),
        }
    }

    /// Reports whether a configuration exists, valid or not.
    ///
    /// # Errors
    /// [`AccessError`] if the directory cannot be read.
    pub fn is_provisioned(&self) -> Result<bool, AccessError> {
        let Some(dir) = self.open()? else {
            return Ok(false);
        };
        is_provisioned(&dir)
    }

    /// Reads and validates the configuration. Restricts the modes of files that other users could
    /// access. If this store holds the lock, finishes or discards an interrupted replacement;
    /// without the lock, takes it into account and changes nothing except modes.
    ///
    /// # Errors
    /// [`LoadError::NotProvisioned`] if there is none; [`LoadError::Damaged`] names the damaged
    /// file.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let slot = self.slot();
        let (dir, repairs) = self.prepare(&slot)?;
        let device = self.read_consistent(&dir, read_device)?;
        Ok(Loaded {
            device,
            repairs,
            is_change_pending: journal::is_pending(&dir)?,
        })
    }

    /// Loads like [`Store::load`], but tolerates missing, damaged, or unreadable credentials for
    /// remote access: the error is then in their place. Their files stay unchanged for diagnosis
    /// until [`Store::replace_remote`] replaces them.
    ///
    /// # Errors
    /// As [`Store::load`], except for the credentials for remote access.
    pub fn load_partial(&self) -> Result<Loaded<Result<Credentials, LoadError>>, LoadError> {
        let slot = self.slot();
        let (dir, repairs) = self.prepare(&slot)?;
        let device = self.read_consistent(&dir, read_partial)?;
        Ok(Loaded {
            device,
            repairs,
            is_change_pending: journal::is_pending(&dir)?,
        })
    }

    /// Returns the serial number of the configuration, regardless of damage to certificates and
    /// keys.
    ///
    /// # Errors
    /// As [`Store::load`], for `cloud_config.json`.
    pub fn serial_number(&self) -> Result<SerialNumber, LoadError> {
        let dir = self.open()?.ok_or_else(|| self.not_provisioned_error())?;
        self.read_consistent(&dir, read_serial_number)
    }

    /// Compares the serial number of the configuration with the configured one. Succeeds without a
    /// readable configuration: [`Store::load`] reports that problem.
    ///
    /// # Errors
    /// [`OtherDevice`], if the configuration belongs to another device.
    pub fn ensure_serial_number(&self, configured: &SerialNumber) -> Result<(), OtherDevice> {
        match self.serial_number() {
            Ok(stored) if stored != *configured => Err(OtherDevice {
                directory: self.directory().to_owned(),
                stored,
                configured: configured.clone(),
            }),
            _ => Ok(()),
        }
    }

    /// Inspects one pair for diagnosis; certificate and key need not match.
    ///
    /// # Errors
    /// As [`Store::load`], for the certificate. The report contains a problem of the key.
    pub fn inspect(&self, pair: CredentialSlot) -> Result<PairReport, LoadError> {
        let slot = self.slot();
        let (dir, _) = self.prepare(&slot)?;
        let (cert, key) = match pair {
            CredentialSlot::Iot => (IOT_CERT, IOT_KEY),
            CredentialSlot::Remote => (REMOTE_CERT, REMOTE_KEY),
        };
        self.read_consistent(&dir, |source| {
            let chain = source.text(cert, MAX_PEM)?;
            let key = match source.text(key, MAX_PEM) {
                Ok(key) => key,
                Err(LoadError::Damaged { .. }) => Zeroizing::default(),
                Err(error) => return Err(error),
            };
            PairReport::from_pem(&chain, &key).map_err(|error| source.damaged(cert, error))
        })
    }

    /// Stores a configuration and replaces an existing one, atomically.
    ///
    /// # Errors
    /// [`StoreError`]; the previous configuration is then unchanged.
    pub fn save(&self, device: &DeviceConfig) -> Result<(), StoreError> {
        let document = device.document().render();
        let record = serial_record::render(device);
        let mut files = vec![
            (IOT_CA, device.iot_roots.pem().as_bytes()),
            (IOT_CERT, device.iot.chain_pem().as_bytes()),
            (IOT_KEY, device.iot.key_pem().as_bytes()),
            (REMOTE_CERT, device.remote.chain_pem().as_bytes()),
            (REMOTE_KEY, device.remote.key_pem().as_bytes()),
            (CLOUD_CONFIG, document.as_bytes()),
        ];
        // An existing record belongs to the previous configuration.
        if device.serial_number.as_str() != device.iot_thing_name.as_str() || self.has_record() {
            files.insert(0, (SERIAL_NUMBER, record.as_bytes()));
        }
        self.write(false, &files)
    }

    /// Ignores errors, which the write reports.
    fn has_record(&self) -> bool {
        let dir = self.open().ok().flatten();
        dir.is_some_and(|dir| matches!(dir.stat(SERIAL_NUMBER), Ok(Some(_))))
    }

    /// Checks in advance that [`Store::save`] can succeed: inspects the directory, and writes and
    /// removes the size of a configuration. Call it before an operation that works only once. The
    /// configuration is unchanged. If this store holds the lock, finishes or discards an
    /// interrupted replacement; otherwise leaves it unmodified.
    ///
    /// # Errors
    /// As [`Store::save`].
    pub fn preflight_save(&self) -> Result<(), StoreError> {
        let slot = self.slot();
        let is_ours = self.current(&slot)?.is_some();
        let held = self.hold(&slot)?;
        held.dir.restrict()?;
        if is_ours {
            journal::recover(&held.dir)?;
        }
        Ok(journal::preflight(&held.dir, PREFLIGHT_SIZE)?)
    }

    /// Replaces the certificate and key for remote access, atomically.
    ///
    /// # Errors
    /// [`StoreError::NotProvisioned`] without a configuration; otherwise as [`Store::save`].
    pub fn replace_remote(&self, remote: &Credentials) -> Result<(), StoreError> {
        self.write(
            true,
            &[
                (REMOTE_CERT, remote.chain_pem().as_bytes()),
                (REMOTE_KEY, remote.key_pem().as_bytes()),
            ],
        )
    }

    /// Replaces the certificate and key for the broker, atomically.
    ///
    /// # Errors
    /// As [`Store::replace_remote`].
    pub fn replace_iot(&self, iot: &Credentials) -> Result<(), StoreError> {
        self.write(
            true,
            &[
                (IOT_CERT, iot.chain_pem().as_bytes()),
                (IOT_KEY, iot.key_pem().as_bytes()),
            ],
        )
    }

    /// Removes the configuration, valid or not, and the directory unless it contains other files.
    /// Returns whether there was a configuration. Releases a [`DirectoryLock`] of this store.
    ///
    /// # Errors
    /// [`StoreError`]; a removal that fails halfway leaves the device not provisioned.
    pub fn remove(&self) -> Result<bool, StoreError> {
        let slot = self.slot();
        if self.open()?.is_none() {
            return Ok(false);
        }
        let held = self.hold(&slot)?;
        let was = is_provisioned(&held.dir)?;
        journal::remove_all(&held.dir)?;
        held.dir.remove_file(LOCK_FILE)?;
        // A directory with other files stays.
        let removed = step("remove", self.directory(), || {
            std::fs::remove_dir(self.directory())
        });
        if let Err(error) = removed {
            tracing::debug!(directory = ?self.directory(), %error, "the directory stays");
        }
        Ok(was)
    }

    fn write(
        &self,
        only_if_provisioned: bool,
        files: &[(&'static str, &[u8])],
    ) -> Result<(), StoreError> {
        let slot = self.slot();
        let not_provisioned = || StoreError::NotProvisioned(self.directory().to_owned());
        if only_if_provisioned && self.open()?.is_none() {
            return Err(not_provisioned());
        }
        let held = self.hold(&slot)?;
        held.dir.restrict()?;
        if only_if_provisioned && !is_provisioned(&held.dir)? {
            return Err(not_provisioned());
        }
        Ok(journal::replace(&held.dir, files)?)
    }

    /// Prepares reading: restricts modes, and recovers an interrupted change.
    fn prepare(&self, slot: &Weak<LockedDir>) -> Result<(Dir, Vec<Repair>), LoadError> {
        let dir = self.open()?.ok_or_else(|| self.not_provisioned_error())?;
        let mut repairs = Vec::new();
        let mut note = |path: PathBuf, was: Option<u32>| {
            repairs.extend(was.map(|was| Repair::Mode { path, was }))
        };
        note(dir.path().to_owned(), dir.restrict()?);
        for name in FILES {
            note(dir.join(name), dir.restrict_file(name)?);
        }
        for repair in &repairs {
            repair.log(self.directory());
        }
        // Only under a held lock: a program without the lock may run on this directory.
        if let Some(held) = self.current(slot)?
            && journal::is_pending(&dir)?
        {
            match journal::recover(&held.dir) {
                Ok(done) => repairs.extend(done),
                // The disk rejects changes, but reading handles the journal too.
                Err(error) => {
                    tracing::debug!(%error, "an interrupted replacement is left as it is")
                }
            }
        }
        Ok((dir, repairs))
    }

    /// Repeats reading until no file was replaced in the meantime.
    fn read_consistent<T>(
        &self,
        dir: &Dir,
        read: impl Fn(&Source<'_>) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        for _ in 0..READ_ATTEMPTS {
            let before = Fingerprint::of(dir)?;
            let committed = dir.subdirectory(COMMITTED)?;
            let source = effective_source(dir, committed.as_ref())?;
            let result = match source.is_provisioned()? {
                true => read(&source),
                false => Err(self.not_provisioned_error()),
            };
            if Fingerprint::of(dir)? == before {
                return match before.has_configuration() {
                    true => result,
                    false => Err(self.not_provisioned_error()),
                };
            }
        }
        Err(LoadError::Busy(self.directory().to_owned()))
    }

    fn not_provisioned_error(&self) -> LoadError {
        LoadError::NotProvisioned(self.directory().to_owned())
    }

    fn slot(&self) -> MutexGuard<'_, Weak<LockedDir>> {
        // Ignores poisoning: no update can panic halfway.
        self.inner
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<Option<Dir>, AccessError> {
        Dir::open(self.directory())
    }

    /// Returns the lock that this store holds, unless the directory was removed.
    fn current(&self, slot: &Weak<LockedDir>) -> Result<Option<Arc<LockedDir>>, AccessError> {
        match slot.upgrade() {
            Some(held) if held.is_current(self.directory())? => Ok(Some(held)),
            _ => Ok(None),
        }
    }

    /// Returns the lock that this store holds, or acquires one for a call.
    fn hold(&self, slot: &Weak<LockedDir>) -> Result<Arc<LockedDir>, LockError> {
        if let Some(held) = self.current(slot)? {
            return Ok(held);
        }
        Ok(Arc::new(LockedDir::acquire_for_call(self.directory())?))
    }
}

#[cfg(test)]
mod tests;
