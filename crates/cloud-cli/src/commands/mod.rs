//! The commands: one module for each, with its arguments and its implementation.

/// Help text of a command that uses a running instance.
macro_rules! shared_help {
    ($($more:literal)?) => {
        concat!(
            "If an instance runs on the directory, the command uses it; otherwise it connects for itself.",
            $("\n\n", $more)?
        )
    };
}

pub(crate) mod cert;
pub(crate) mod completions;
pub(crate) mod config;
#[cfg(feature = "sim")]
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod manual;
pub(crate) mod messages;
pub(crate) mod provision;
pub(crate) mod reset;
pub(crate) mod run;
pub(crate) mod service;
pub(crate) mod session;
pub(crate) mod shadow;
#[cfg(feature = "sim")]
pub(crate) mod sim;
pub(crate) mod status;

use cloud_facade::config::Store;

use crate::error::{CliError, Result};
use crate::options::GlobalOptions;
use crate::redact::Redacted;

/// Returns the store in the base path.
///
/// # Errors
/// The base path is a file.
pub(crate) fn store(global: &GlobalOptions) -> Result<Store> {
    let base = global.base_path()?;
    if base.exists() && !base.is_dir() {
        return Err(CliError::Failed(format!(
            "the base path {base:?} is not a directory: name one with --base-path DIR"
        )));
    }
    Ok(Store::new(base))
}

/// Returns the store in the base path.
///
/// # Errors
/// The base path is a file, or `--sn` names another device than the stored configuration.
pub(crate) fn device_store(global: &GlobalOptions) -> Result<Store> {
    let store = store(global)?;
    match serial_number_mismatch(global, &store) {
        Some(other) => Err(CliError::Failed(format!("{other}\n{SERIAL_NUMBER_ADVICE}"))),
        None => Ok(store),
    }
}

/// Describes the mismatch between `--sn` and the stored configuration, if there is one.
pub(crate) fn serial_number_mismatch(global: &GlobalOptions, store: &Store) -> Option<String> {
    let error = store.ensure_serial_number(global.sn.as_ref()?).err()?;
    let configured = match error.configured.as_str() {
        short if short.len() <= MAX_SHOWN_SERIAL_LENGTH => short.to_owned(),
        long => Redacted(long).to_string(),
    };
    Some(format!(
        "the serial number {configured}, from {}, is not that of the device in {:?}, which is {}",
        global.sn_name, error.directory, error.stored
    ))
}

/// Advice for [`serial_number_mismatch`].
pub(crate) const SERIAL_NUMBER_ADVICE: &str = "correct or omit --sn and the variable CLESYDE_SN, name another directory with --base-path, or register \
     this one for the other device with `clesyde-cloud provision --force`";

/// Longest serial number that a message repeats: a provisioning key given instead of one is longer.
const MAX_SHOWN_SERIAL_LENGTH: usize = 20;

/// Describes the process that locks a directory.
pub(crate) fn describe_process(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "another process".to_owned(),
        |pid| format!("process {pid}"),
    )
}
