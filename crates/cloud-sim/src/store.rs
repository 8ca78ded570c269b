//! The data directory: what lets a simulator be started again with the same devices.
//!
//! `simulator.json` has the authorities, the keys, the ports and the devices; `ca.pem` and
//! `public-root.pem` are for clients, `control-token` for those that the owner lets control the
//! simulator; and a lock makes it one simulator's at a time. Shadows and messages are not kept. The
//! secrets in it protect nothing but simulated devices, and are readable by the owner alone all the
//! same.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::authority::SavedAuthority;
use crate::device::SavedDevice;

/// The largest state that is read back: a full table takes some megabytes.
const MAX_STATE: u64 = 64 * 1024 * 1024;

const STATE_FILE: &str = "simulator.json";
const CA_FILE: &str = "ca.pem";
const PUBLIC_ROOT_FILE: &str = "public-root.pem";
const CONTROL_TOKEN_FILE: &str = "control-token";
const LOCK_FILE: &str = "simulator.lock";

/// What is kept.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedState {
    pub(crate) authority: SavedAuthority,
    pub(crate) provisioning_key: String,
    pub(crate) fernet_key: String,
    pub(crate) devices: Vec<SavedDevice>,
    /// Missing in a state that an earlier version kept.
    #[serde(default)]
    pub(crate) ports: SavedPorts,
}

/// The ports that the parts listen on; 0 is any free one.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct SavedPorts {
    pub(crate) api: u16,
    pub(crate) mqtt: u16,
    pub(crate) relay: u16,
    pub(crate) control: u16,
}

/// The directory is this simulator's until this is dropped, or its process ends in whatever way.
pub(crate) struct DirectoryLock(File);

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing alone would leave it locked for as long as a process that is just being started
        // has a copy.
        let _ = self.0.unlock();
    }
}

/// A directory of our own.
pub(crate) struct Store {
    directory: PathBuf,
}

impl Store {
    /// Opens the directory, and makes it if it is not there.
    pub(crate) fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
        })
    }

    /// Takes the directory for one simulator: two would each overwrite what the other one keeps.
    pub(crate) fn lock(&self) -> io::Result<DirectoryLock> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(self.directory.join(LOCK_FILE))?;
        match file.try_lock() {
            Ok(()) => Ok(DirectoryLock(file)),
            Err(TryLockError::WouldBlock) => Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another simulator runs on it; stop that first",
            )),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    /// What the last simulator on this directory kept, if there was one.
    pub(crate) fn load(&self) -> io::Result<Option<SavedState>> {
        let path = self.directory.join(STATE_FILE);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.len() > MAX_STATE => Err(io::Error::other(format!(
                "{path:?} is larger than any state of a simulator"
            ))),
            Ok(_) => serde_json::from_slice(&fs::read(&path)?)
                .map(Some)
                .map_err(|error| io::Error::other(format!("{path:?} is damaged: {error}"))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces what is kept, as a whole.
    pub(crate) fn save(&self, state: &SavedState) -> io::Result<()> {
        self.replace(STATE_FILE, 0o600, &serde_json::to_vec(state)?)
    }

    /// Writes the roots that clients have to trust, and returns the file's path.
    pub(crate) fn write_roots(&self, pem: &str) -> io::Result<PathBuf> {
        self.replace(CA_FILE, 0o644, pem.as_bytes())?;
        Ok(self.directory.join(CA_FILE))
    }

    /// Writes the root of the devices' pages, and returns the file's path.
    pub(crate) fn write_public_root(&self, pem: &str) -> io::Result<PathBuf> {
        self.replace(PUBLIC_ROOT_FILE, 0o644, pem.as_bytes())?;
        Ok(self.directory.join(PUBLIC_ROOT_FILE))
    }

    /// Writes the token of the control API, for the owner alone, and returns the file's path.
    pub(crate) fn write_control_token(&self, token: &str) -> io::Result<PathBuf> {
        self.replace(CONTROL_TOKEN_FILE, 0o600, format!("{token}\n").as_bytes())?;
        Ok(self.directory.join(CONTROL_TOKEN_FILE))
    }

    fn replace(&self, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let next = self.directory.join(format!("{name}.new"));
        // A left-over of a crash could have another mode.
        let _ = fs::remove_file(&next);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&next)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&next, self.directory.join(name))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::authority::Authority;

    #[test]
    fn what_is_saved_is_loaded_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("deep/er")).unwrap();
        assert!(store.load().unwrap().is_none());
        let authority = Authority::generate().unwrap();
        let state = SavedState {
            authority: authority.saved().clone(),
            provisioning_key: "key".into(),
            fernet_key: "fernet".into(),
            devices: Vec::new(),
            ports: SavedPorts::default(),
        };
        store.save(&state).unwrap();
        store.save(&state).unwrap();
        assert_eq!(store.load().unwrap().unwrap().provisioning_key, "key");
        let mode = fs::metadata(directory.path().join("deep/er/simulator.json"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_directory_is_one_simulators_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let open = || Store::open(directory.path()).unwrap();
        let held = open().lock().unwrap();
        let error = open().lock().err().unwrap();
        assert!(error.to_string().contains("another simulator"), "{error}");
        drop(held);
        open().lock().unwrap();
    }

    #[test]
    fn a_damaged_state_is_an_error_that_names_the_file() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(STATE_FILE), "{").unwrap();
        let error = Store::open(directory.path()).unwrap().load().err().unwrap();
        assert!(error.to_string().contains("simulator.json"), "{error}");
    }
}
