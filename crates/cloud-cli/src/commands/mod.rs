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
use cloud_facade::config::{AccessError, DeviceConfig, LoadError, SerialNumber, Store, StoreError};

use crate::cli::GlobalOptions;
use crate::failure::{Failure, Outcome, chain};

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

/// The serial number that was given, or else the thing name: on today's platform both are the same, and the directory
/// does not keep the serial number itself.
pub(crate) fn serial_number<R>(
    global: &GlobalOptions,
    config: &DeviceConfig<R>,
) -> Outcome<SerialNumber> {
    match &global.sn {
        Some(sn) => Ok(sn.clone()),
        None => config.iot_thing_name.as_str().parse().map_err(|error| {
            Failure::because(
                "the thing name is no serial number; give that with --sn SN",
                &error,
            )
        }),
    }
}
