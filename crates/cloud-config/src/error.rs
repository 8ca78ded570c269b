//! Errors of the store: access, locking, loading, and storing.
//!
//! No message contains part of a private key. Each names the path and, where useful, the next step.

use std::io;
use std::path::PathBuf;

use crate::credentials::CredentialsError;
use crate::document::DocumentError;
use crate::names::{NameError, SerialNumber};

/// The file system or its content prevents access to the directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// A symbolic link in place of a file or directory. Following it could expose keys.
    #[error("{0:?} is a symbolic link; replace it by what it points to")]
    Symlink(PathBuf),
    /// Not a directory.
    #[error("{0:?} is not a directory")]
    NotADirectory(PathBuf),
    /// Not a regular file.
    #[error("{0:?} is not a regular file")]
    NotAFile(PathBuf),
    /// Owned by another user, which could read or change it.
    #[error(
        "{path:?} belongs to user {owner}, this process runs as user {user}; run it as that user, or change the owner"
    )]
    ForeignOwner {
        /// The file or directory.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
        /// The user id of this process.
        user: u32,
    },
    /// Accessible to other users, and the mode cannot be corrected.
    #[error(
        "{path:?} is open to other users (mode {mode:o}) and this file system does not support restricting it"
    )]
    InsecurePermissions {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No space, no inodes or no quota left. Nothing was changed.
    #[error("no space left to store {0:?}; free some and try again")]
    DiskFull(PathBuf),
    /// The file system is mounted read-only. Nothing was changed.
    #[error("{0:?} is on a read-only file system")]
    ReadOnly(PathBuf),
    /// Permission denied for a file, a directory, or a parent.
    #[error(
        "cannot {action} {path:?}: permission denied to user {user}; run it as the user that owns it, or change the owner"
    )]
    Denied {
        /// The attempted action, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The user id of this process.
        user: u32,
    },
    /// Any other error of the operating system.
    #[error("cannot {action} {path:?}: {source}")]
    Io {
        /// The attempted action, as a verb.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
}

impl AccessError {
    pub(crate) fn io(action: &'static str, path: PathBuf, source: impl Into<io::Error>) -> Self {
        let source = source.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull(path),
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly(path),
            io::ErrorKind::PermissionDenied => Self::Denied {
                action,
                path,
                user: rustix::process::geteuid().as_raw(),
            },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }

    /// Reports whether the same call may succeed later without a change of the configuration.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::DiskFull(_))
    }
}

/// The directory cannot be locked for this process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// A running process holds the lock.
    #[error("{directory:?} is in use by {}; stop that first", holder(*.pid))]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// The holder's process id, if it could be read.
        pid: Option<u32>,
    },
    /// The lock file cannot be created or opened.
    #[error(transparent)]
    Access(#[from] AccessError),
}

fn holder(pid: Option<u32>) -> String {
    match pid {
        Some(pid) if pid == std::process::id() => format!("this process ({pid})"),
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

impl LockError {
    /// Reports whether a later retry can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InUse { .. } => true,
            Self::Access(error) => error.is_retryable(),
        }
    }
}

/// The invalid part of a configuration and the reason. A retry cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A name or an endpoint.
    #[error("`{field}` {problem}")]
    Name {
        /// Its key in `cloud_config.json`.
        field: &'static str,
        /// The problem.
        problem: NameError,
    },
    /// The roots for the broker.
    #[error("in the roots for the broker, {0}")]
    Roots(#[source] CredentialsError),
    /// The client certificate or its key.
    #[error("in the device's credentials for the broker, {0}")]
    Iot(#[source] CredentialsError),
    /// The public certificate or its key.
    #[error("in the credentials for remote access, {0}")]
    Remote(#[source] CredentialsError),
}

/// The configuration cannot be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// No configuration: the device is not provisioned, or was reset.
    #[error("no configuration in {0:?}; provision the device first")]
    NotProvisioned(PathBuf),
    /// A file of the configuration is missing or not usable.
    #[error("{file:?} {what}")]
    Damaged {
        /// The damaged file.
        file: PathBuf,
        /// The damage.
        what: Damage,
    },
    /// Another process kept replacing the files during reading.
    #[error("{0:?} is being changed by another process; try again")]
    Busy(PathBuf),
    /// The directory cannot be accessed.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl LoadError {
    /// Reports whether a later retry can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy(_))
    }
}

/// The stored configuration belongs to a different device than the configured one. A retry cannot
/// help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{directory:?} holds the configuration of the device {stored}, and the serial number {configured} is configured; correct that, \
     name another directory, or register this one again"
)]
#[non_exhaustive]
pub struct OtherDevice {
    /// The directory.
    pub directory: PathBuf,
    /// The stored serial number.
    pub stored: SerialNumber,
    /// The configured serial number.
    pub configured: SerialNumber,
}

/// Damage of one file of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It does not exist.
    #[error("is missing; provision the device again or restore the file")]
    Missing,
    /// Longer than any valid file of its kind.
    #[error("is too large ({0} bytes)")]
    TooLarge(u64),
    /// Not UTF-8.
    #[error("is not text")]
    NotText,
    /// `cloud_config.json` has an invalid structure.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A value in `cloud_config.json` is not valid.
    #[error("is not valid: {0}")]
    Value(#[from] ConfigError),
    /// A certificate or a key is not valid, or they do not belong together.
    #[error("is not valid: {0}")]
    Credentials(#[from] CredentialsError),
}

/// The configuration cannot be stored. The previous one is unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process holds the directory's lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No configuration whose certificate could be replaced.
    #[error("no configuration in {0:?}; provision the device first")]
    NotProvisioned(PathBuf),
    /// The directory cannot be accessed, or the disk rejects the data.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl StoreError {
    /// Reports whether a later retry can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Lock(error) => error.is_retryable(),
            Self::Access(error) => error.is_retryable(),
            Self::NotProvisioned(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_errors_name_path_and_next_step() {
        let message_for = |errno: rustix::io::Errno| {
            AccessError::io("open", PathBuf::from("/some/path"), errno).to_string()
        };
        for (errno, words) in [
            (rustix::io::Errno::NOSPC, "free some"),
            (rustix::io::Errno::DQUOT, "free some"),
            (rustix::io::Errno::ROFS, "read-only"),
            (rustix::io::Errno::ACCESS, "run it as the user that owns it"),
            (rustix::io::Errno::PERM, "run it as the user that owns it"),
            (rustix::io::Errno::IO, "cannot open"),
        ] {
            let message = message_for(errno);
            assert!(
                message.contains(words) && message.contains("/some/path"),
                "{message}"
            );
        }
    }
}
