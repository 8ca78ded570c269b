//! One module for each command: what it takes, and what it does.

/// What a command that opens a session of its own says in its help: two sessions of one device would throw each other out.
macro_rules! alone {
    ($($more:literal)?) => {
        concat!(
            "A running instance keeps the directory to itself: stop it first.",
            $("\n\n", $more)?
        )
    };
}

pub(crate) mod cert;
#[cfg(feature = "sim")]
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod messages;
pub(crate) mod online;
pub(crate) mod provision;
pub(crate) mod reset;
pub(crate) mod run;
pub(crate) mod shadow;
#[cfg(feature = "sim")]
pub(crate) mod sim;
pub(crate) mod status;

use cloud_facade::InitializeError;
use cloud_facade::config::{AccessError, LoadError, Store, StoreError};

use crate::cli::GlobalOptions;
use crate::failure::{Failure, Outcome, chain};
use crate::possible_secret::Shown;

/// The device's directory. Refuses a base path that is a file before anything else is tried.
pub(crate) fn store(global: &GlobalOptions) -> Outcome<Store> {
    let base = global.base_path()?;
    if base.exists() && !base.is_dir() {
        return Err(Failure::Failed(format!(
            "the base path {base:?} is not a directory: name one with --base-path DIR"
        )));
    }
    Ok(Store::new(base))
}

/// The directory of the device that was named, if one was: its configuration must not be another device's.
pub(crate) fn device_store(global: &GlobalOptions) -> Outcome<Store> {
    let store = store(global)?;
    match other_device(global, &store) {
        Some(other) => Err(Failure::Failed(format!("{other}\n{OTHER_DEVICE_ADVICE}"))),
        None => Ok(store),
    }
}

/// What is said of a directory whose configuration is another device's than the one that was named.
pub(crate) fn other_device(global: &GlobalOptions, store: &Store) -> Option<String> {
    let error = store.ensure_serial_number(global.sn.as_ref()?).err()?;
    let configured = match error.configured.as_str() {
        short if short.len() <= LONGEST_SHOWN_SERIAL => short.to_owned(),
        long => Shown(long).to_string(),
    };
    Some(format!(
        "the serial number {configured}, from {}, is not that of the device in {:?}, which is {}",
        global.sn_name(),
        error.directory,
        error.stored
    ))
}

/// What to do about it.
pub(crate) const OTHER_DEVICE_ADVICE: &str = "correct --sn or the variable CLESYDE_SN, or leave them out; or name another directory with --base-path, or register \
     this one for the other device with `clesyde-cloud provision --force`";

/// A provisioning key in the place of a serial number is longer.
const LONGEST_SHOWN_SERIAL: usize = 20;

/// Why a configuration could not be read, with the exit code that belongs to it.
pub(crate) fn load_failure(store: &Store, error: &LoadError) -> Failure {
    match error {
        LoadError::NotProvisioned(_) => Failure::NotProvisioned(store.directory().to_owned()),
        other => Failure::Failed(chain(other)),
    }
}

/// Why a configuration could not be written or removed.
pub(crate) fn store_failure(what: &str, error: &StoreError) -> Failure {
    match error {
        // Says by itself all that there is to say, the holder's process id above all.
        StoreError::Lock(error) => Failure::Failed(chain(error)),
        other => Failure::because(what, other),
    }
}

/// Why a directory could not be looked into.
pub(crate) fn access_failure(error: &AccessError) -> Failure {
    Failure::Failed(chain(error))
}

/// Why a device did not start, with the exit code that belongs to it.
pub(crate) fn initialize_failure(error: &InitializeError) -> Failure {
    match error {
        InitializeError::Load(LoadError::NotProvisioned(directory)) => {
            Failure::NotProvisioned(directory.clone())
        }
        other => Failure::Failed(chain(other)),
    }
}

/// Who has a directory.
pub(crate) fn process(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}
