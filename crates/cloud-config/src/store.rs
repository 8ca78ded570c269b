//! The directory `.clesydecloud`: loading, storing, replacing, removing.
//!
//! Invariants: a reader gets a whole configuration or none, with certificates and keys that match; two processes never
//! write; nothing is written that the Python library could not read. Reading takes no lock and works beside a process
//! that writes. This module decides *what* is read and written; *how* it is made atomic is the journal's affair.
//!
//! Protocol: `docs/protocol.md`, "On disk".

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use zeroize::Zeroizing;

use crate::credentials::{Credentials, MAX_PEM, PairReport};
use crate::device::DeviceConfig;
use crate::dir::{Dir, step};
use crate::document;
use crate::error::{AccessError, LoadError, LockError, OtherDevice, StoreError};
use crate::journal::{
    self, CLOUD_CONFIG, COMMITTED, FILES, IOT_CA, IOT_CERT, IOT_KEY, REMOTE_CERT, REMOTE_KEY,
    SERIAL_NUMBER,
};
use crate::lock::{self, DirectoryLock, Held, LOCK_FILE};
use crate::names::SerialNumber;
use crate::reading::{
    Source, fingerprint, is_provisioned, read_device, read_partly, read_serial_number,
};
use crate::repair::Repair;
use crate::serial_record;

/// The directory's name below the base path.
pub const DIRECTORY: &str = ".clesydecloud";

/// What a rehearsal writes: more than six files of a usual configuration take, each rounded up to a block of 4 KiB.
const REHEARSED: usize = 64 * 1024;

/// How often reading starts again because another process replaced files meanwhile. Replacing takes milliseconds and
/// happens a few times a year.
const READ_ATTEMPTS: usize = 8;

/// What [`Store::load`] found.
#[derive(Debug)]
#[non_exhaustive]
pub struct Loaded<R = Credentials> {
    /// The configuration, whole and checked.
    pub device: DeviceConfig<R>,
    /// What had to be put right on the way.
    pub repairs: Vec<Repair>,
    /// An interrupted change is in the directory, and was left as it is: the next start that takes the directory finishes or
    /// discards it. A program that does not know of it, as the Python library, may read other files than these until then.
    pub is_change_pending: bool,
}

/// Which of a device's two pairs of certificate and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pair {
    /// For the broker.
    Iot,
    /// For remote access.
    Remote,
}

/// A device's directory. Cheap to clone; clones share the lock.
///
/// All calls block for as long as the disk takes; from async code, use `spawn_blocking`.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    /// Serialises this process's own calls, and knows the lock while somebody holds it.
    held: Mutex<Weak<Held>>,
}

impl Store {
    /// The directory below `base_path`. Touches nothing.
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

    /// The directory itself: `<base path>/.clesydecloud`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.inner.directory
    }

    /// Takes the directory for this process (and this `Store` with its clones) until the lock is dropped. The directory
    /// is made if it is not there. Calls that write take the lock for themselves where it is not held.
    ///
    /// # Errors
    /// [`LockError::InUse`], with the holder's process id, if anyone holds it, be it this `Store`.
    pub fn lock(&self) -> Result<DirectoryLock, LockError> {
        let mut slot = self.slot();
        if self.current(&slot)?.is_some() {
            return Err(LockError::InUse {
                directory: self.directory().to_owned(),
                pid: Some(std::process::id()),
            });
        }
        let held = Arc::new(Held::acquire(self.directory())?);
        *slot = Arc::downgrade(&held);
        Ok(DirectoryLock::new(held))
    }

    /// Whether nobody has the directory at this moment. Takes no lock, and changes nothing.
    ///
    /// # Errors
    /// [`LockError::InUse`], with the holder's process id, if anyone holds it, be it this `Store`.
    pub fn ensure_unlocked(&self) -> Result<(), LockError> {
        match self.open()? {
            Some(dir) => lock::ensure_free(&dir),
            None => Ok(()),
        }
    }

    /// Whether a configuration is there, sound or not.
    ///
    /// # Errors
    /// [`AccessError`] if the directory cannot be looked into.
    pub fn is_provisioned(&self) -> Result<bool, AccessError> {
        let Some(dir) = self.open()? else {
            return Ok(false);
        };
        is_provisioned(&dir)
    }

    /// Reads and checks the configuration. Restricts the modes of files that others could read. Where this store holds the
    /// lock, an interrupted replacement is brought to its end or discarded; without the lock it is taken into account and left
    /// as it is, and nothing but modes is changed.
    ///
    /// # Errors
    /// [`LoadError::NotProvisioned`] if there is none; [`LoadError::Damaged`] names the file at fault.
    pub fn load(&self) -> Result<Loaded, LoadError> {
        let slot = self.slot();
        let (dir, repairs) = self.prepare(&slot)?;
        let device = self.consistently(&dir, read_device)?;
        Ok(Loaded {
            device,
            repairs,
            is_change_pending: journal::is_pending(&dir)?,
        })
    }

    /// The same for whoever can do without remote access for a while: that its pair is missing, damaged or cannot be read is told
    /// in the place of that pair, and all else is as it should be. Nothing is changed about the pair: it is left as it is for
    /// whoever wants to look into it, until [`Store::replace_remote`] puts a sound one in its place.
    ///
    /// # Errors
    /// As [`Store::load`], for all that messaging takes.
    pub fn load_partly(&self) -> Result<Loaded<Result<Credentials, LoadError>>, LoadError> {
        let slot = self.slot();
        let (dir, repairs) = self.prepare(&slot)?;
        let device = self.consistently(&dir, read_partly)?;
        Ok(Loaded {
            device,
            repairs,
            is_change_pending: journal::is_pending(&dir)?,
        })
    }

    /// Whose configuration it is. What is wrong with certificates and keys does not matter for that.
    ///
    /// # Errors
    /// As [`Store::load`], where `cloud_config.json` is concerned.
    pub fn serial_number(&self) -> Result<SerialNumber, LoadError> {
        let dir = self.open()?.ok_or_else(|| self.nothing_there())?;
        self.consistently(&dir, read_serial_number)
    }

    /// Compares the serial number of the configuration with one that was configured elsewhere. Where there is no
    /// configuration, or it does not say whose it is, there is nothing to compare: [`Store::load`] says what is wrong.
    ///
    /// # Errors
    /// [`OtherDevice`], if the configuration is another device's.
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

    /// Looks at one pair without demanding that certificate and key fit: for diagnosis.
    ///
    /// # Errors
    /// As [`Store::load`], where the certificate is concerned. What is wrong with the key is in the report.
    pub fn inspect(&self, pair: Pair) -> Result<PairReport, LoadError> {
        let slot = self.slot();
        let (dir, _) = self.prepare(&slot)?;
        let (cert, key) = match pair {
            Pair::Iot => (IOT_CERT, IOT_KEY),
            Pair::Remote => (REMOTE_CERT, REMOTE_KEY),
        };
        self.consistently(&dir, |source| {
            let chain = source.text(cert, MAX_PEM)?;
            let key = match source.text(key, MAX_PEM) {
                Ok(key) => key,
                Err(LoadError::Damaged { .. }) => Zeroizing::default(),
                Err(error) => return Err(error),
            };
            PairReport::from_pem(&chain, &key).map_err(|error| source.damaged(cert, error))
        })
    }

    /// Stores a configuration, in place of the one that may be there: all of it, or nothing changes.
    ///
    /// # Errors
    /// [`StoreError`]; whatever was there before is still there, whole.
    pub fn save(&self, device: &DeviceConfig) -> Result<(), StoreError> {
        let document = document::render(device);
        let record = serial_record::render(device);
        let mut files = vec![
            (IOT_CA, device.iot_roots.pem().as_bytes()),
            (IOT_CERT, device.iot.chain_pem().as_bytes()),
            (IOT_KEY, device.iot.key_pem().as_bytes()),
            (REMOTE_CERT, device.remote.chain_pem().as_bytes()),
            (REMOTE_KEY, device.remote.key_pem().as_bytes()),
            (CLOUD_CONFIG, document.as_bytes()),
        ];
        // One that is there is of the configuration before.
        if device.serial_number.as_str() != device.iot_thing_name.as_str() || self.has_record() {
            files.insert(0, (SERIAL_NUMBER, record.as_bytes()));
        }
        self.write(false, &files)
    }

    /// What may be wrong with the directory is found by the writing.
    fn has_record(&self) -> bool {
        let dir = self.open().ok().flatten();
        dir.is_some_and(|dir| matches!(dir.stat(SERIAL_NUMBER), Ok(Some(_))))
    }

    /// Whether [`Store::save`] can be expected to work: looks at what is in the directory, and writes and removes as much as a
    /// configuration takes. For use before something is asked for that is given only once. The configuration stays as it is. An
    /// interrupted replacement is brought to its end or discarded where this store holds the lock, and else left as it is.
    ///
    /// # Errors
    /// As [`Store::save`].
    pub fn rehearse_save(&self) -> Result<(), StoreError> {
        let slot = self.slot();
        let is_ours = self.current(&slot)?.is_some();
        let held = self.hold(&slot)?;
        held.dir.restrict()?;
        if is_ours {
            journal::recover(&held.dir)?;
        }
        Ok(journal::rehearse(&held.dir, REHEARSED)?)
    }

    /// Replaces the certificate and key for remote access: both, or nothing changes.
    ///
    /// # Errors
    /// [`StoreError::NotProvisioned`] if there is no configuration; otherwise as [`Store::save`].
    pub fn replace_remote(&self, remote: &Credentials) -> Result<(), StoreError> {
        self.write(
            true,
            &[
                (REMOTE_CERT, remote.chain_pem().as_bytes()),
                (REMOTE_KEY, remote.key_pem().as_bytes()),
            ],
        )
    }

    /// Replaces the certificate and key for the broker: both, or nothing changes.
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

    /// Removes the configuration, sound or not, and the directory if nothing foreign is left in it. Says whether there
    /// was a configuration. A [`DirectoryLock`] of this store ends with it.
    ///
    /// # Errors
    /// [`StoreError`]; a removal that fails half-way leaves a device that is not provisioned.
    pub fn remove(&self) -> Result<bool, StoreError> {
        let slot = self.slot();
        if self.open()?.is_none() {
            return Ok(false);
        }
        let held = self.hold(&slot)?;
        let was = is_provisioned(&held.dir)?;
        journal::remove_all(&held.dir)?;
        held.dir.remove_file(LOCK_FILE)?;
        // Not empty: something of the owner's is in it, and stays.
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

    /// Everything that goes before reading: modes, and what a killed process left.
    fn prepare(&self, slot: &Weak<Held>) -> Result<(Dir, Vec<Repair>), LoadError> {
        let dir = self.open()?.ok_or_else(|| self.nothing_there())?;
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
        // Only under a lock that is kept: a program that takes no lock may run on this directory.
        if let Some(held) = self.current(slot)?
            && journal::is_pending(&dir)?
        {
            match journal::recover(&held.dir) {
                Ok(done) => repairs.extend(done),
                // The disk does not let us: reading copes with the journal as it is.
                Err(error) => {
                    tracing::debug!(%error, "an interrupted replacement is left as it is")
                }
            }
        }
        Ok((dir, repairs))
    }

    /// Reads until nothing was replaced meanwhile.
    fn consistently<T>(
        &self,
        dir: &Dir,
        read: impl Fn(&Source<'_>) -> Result<T, LoadError>,
    ) -> Result<T, LoadError> {
        for _ in 0..READ_ATTEMPTS {
            let before = fingerprint(dir)?;
            let committed = dir.subdirectory(COMMITTED)?;
            let source = Source::new(dir, committed.as_ref())?;
            let result = match source.is_provisioned()? {
                true => read(&source),
                false => Err(self.nothing_there()),
            };
            if fingerprint(dir)? == before {
                return result;
            }
        }
        Err(LoadError::Busy(self.directory().to_owned()))
    }

    fn nothing_there(&self) -> LoadError {
        LoadError::NotProvisioned(self.directory().to_owned())
    }

    fn slot(&self) -> MutexGuard<'_, Weak<Held>> {
        // Nothing is left half-done under this mutex that a panic could expose.
        self.inner
            .held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> Result<Option<Dir>, AccessError> {
        Dir::open(self.directory())
    }

    /// The lock that this store already has, unless the directory was removed under it.
    fn current(&self, slot: &Weak<Held>) -> Result<Option<Arc<Held>>, AccessError> {
        match slot.upgrade() {
            Some(held) if held.is_current(self.directory())? => Ok(Some(held)),
            _ => Ok(None),
        }
    }

    /// The lock that this store already has, or one for the length of a call.
    fn hold(&self, slot: &Weak<Held>) -> Result<Arc<Held>, LockError> {
        if let Some(held) = self.current(slot)? {
            return Ok(held);
        }
        Ok(Arc::new(Held::acquire_for_a_call(self.directory())?))
    }
}

#[cfg(test)]
mod tests;
