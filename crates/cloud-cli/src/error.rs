//! The errors of commands, with their exit codes.
//!
//! A message is one or two lines: what failed, why, what to do. It contains no secret: its parts
//! are errors of this project's crates, which print none, and names of files, never their content.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cloud_facade::InitializeError;
use cloud_facade::config::{LoadError, Store, StoreError};
pub(crate) use cloud_net::error_chain as chain;

use crate::redact::{REDACTED, RedactedPath};

/// The error of a command.
#[derive(Debug)]
pub(crate) enum CliError {
    /// The command failed: exit 1.
    Failed(String),
    /// Wrong usage, detected before anything was sent or written: exit 2.
    Usage(String),
    /// There is no configuration in this directory: exit 3.
    NotProvisioned(PathBuf),
    /// The reader closed standard output, which is not an error: exit 0, without a message.
    OutputClosed,
}

/// The result of a command or of one of its steps.
pub(crate) type Result<T = (), E = CliError> = std::result::Result<T, E>;

impl CliError {
    /// An error with its causes, in one line.
    pub(crate) fn with_cause(context: impl fmt::Display, cause: &(dyn Error + 'static)) -> Self {
        Self::Failed(format!("{context}: {}", chain(cause)))
    }

    /// An error of the file system, with the path.
    pub(crate) fn with_path(context: &str, path: &Path, cause: &(dyn Error + 'static)) -> Self {
        Self::with_cause(format_args!("{context} {}", RedactedPath(path)), cause)
    }

    /// An error of reading the configuration in `store`.
    pub(crate) fn from_load(store: &Store, error: &LoadError) -> Self {
        match error {
            LoadError::NotProvisioned(_) => Self::NotProvisioned(store.directory().to_owned()),
            other => Self::Failed(chain(other)),
        }
    }

    /// An error of writing or removing a configuration.
    pub(crate) fn from_store(operation: &str, error: &StoreError) -> Self {
        match error {
            // Its text is complete: it names the process that holds the lock.
            StoreError::Lock(error) => Self::Failed(chain(error)),
            other => Self::with_cause(operation, other),
        }
    }

    /// An error of starting the device.
    pub(crate) fn from_initialize(error: &InitializeError) -> Self {
        match error {
            InitializeError::Load(LoadError::NotProvisioned(directory)) => {
                Self::NotProvisioned(directory.clone())
            }
            other => Self::Failed(chain(other)),
        }
    }

    /// The exit code of the program for this error.
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::OutputClosed => 0,
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotProvisioned(_) => 3,
        })
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(message) | Self::Usage(message) => f.write_str(message),
            Self::NotProvisioned(directory) => write!(
                f,
                "this device is not provisioned: there is no configuration in {}\n\
                 provision it with: clesyde-cloud provision --sn SN --api-url URL --token-file FILE",
                redacted_directory(directory)
            ),
            Self::OutputClosed => f.write_str("standard output was closed"),
        }
    }
}

/// Whether a message may contain a device's directory; depends on its base path, which the user
/// gave.
pub(crate) fn is_directory_shown(directory: &Path) -> bool {
    RedactedPath(directory.parent().unwrap_or(directory)).is_shown()
}

/// Formats a device's directory for a message.
pub(crate) fn redacted_directory(directory: &Path) -> String {
    if is_directory_shown(directory) {
        format!("{directory:?}")
    } else {
        REDACTED.to_owned()
    }
}
