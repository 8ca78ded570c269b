//! What can go wrong with a directory, by family: getting at it, holding it, reading it, writing it.
//!
//! No message contains anything of a private key. Each names the path, and what to do where that is not plain.

use std::io;
use std::path::PathBuf;

use crate::credentials::CredentialsError;
use crate::device::ConfigError;
use crate::document::DocumentError;
use crate::names::SerialNumber;

/// The file system, or what was found in it, does not let us work with the directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// A symbolic link where a file or directory of ours should be. Following it could give keys away.
    #[error("{0:?} is a symbolic link; replace it by what it points to")]
    Symlink(PathBuf),
    /// Something else where a directory should be.
    #[error("{0:?} is not a directory")]
    NotADirectory(PathBuf),
    /// Something else where a regular file should be.
    #[error("{0:?} is not a regular file")]
    NotAFile(PathBuf),
    /// Another user owns it, who could change or read what is in it.
    #[error(
        "{path:?} belongs to user {owner}, this process runs as user {user}; run it as that user, or change the owner"
    )]
    ForeignOwner {
        /// What belongs to another user.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
        /// The user id of this process.
        user: u32,
    },
    /// Others can get at it, and its mode could not be corrected.
    #[error(
        "{path:?} is open to other users (mode {mode:o}) and this file system does not allow to restrict it"
    )]
    Exposed {
        /// What is open to others.
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
    /// The rights of a file or directory, or of what leads to it, do not let this user.
    #[error(
        "cannot {action} {path:?}: permission denied to user {user}; run it as the user that owns it, or change the owner"
    )]
    Denied {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// The user id of this process.
        user: u32,
    },
    /// Anything else that the operating system refused.
    #[error("cannot {action} {path:?}: {source}")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// The operating system's answer.
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

    /// Whether the same call may succeed later without anyone having changed the configuration.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::DiskFull(_))
    }
}

/// The directory could not be taken for this process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// A living process has it.
    #[error("{directory:?} is in use by {}; stop that first", holder(*.pid))]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// The holder's process id, if it could be read.
        pid: Option<u32>,
    },
    /// The lock file could not be made or opened.
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
    /// Whether trying again later can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InUse { .. } => true,
            Self::Access(error) => error.is_retryable(),
        }
    }
}

/// The configuration could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// There is none: this device was not provisioned yet (or was reset).
    #[error("no configuration in {0:?}; provision the device first")]
    NotProvisioned(PathBuf),
    /// There is one, and a file of it is missing or not usable.
    #[error("{file:?} {what}")]
    Damaged {
        /// The file at fault.
        file: PathBuf,
        /// What is wrong with it.
        what: Damage,
    },
    /// Another process kept replacing the files while they were read.
    #[error("{0:?} is being changed by another process; try again")]
    Busy(PathBuf),
    /// The directory cannot be used as it is.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl LoadError {
    /// Whether trying again later can help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy(_))
    }
}

/// The configuration in a directory is that of another device than the one that was configured. Trying again cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{directory:?} holds the configuration of the device {stored}, and the serial number {configured} is configured; correct that, \
     name another directory, or register this one again"
)]
#[non_exhaustive]
pub struct OtherDevice {
    /// The directory.
    pub directory: PathBuf,
    /// The serial number of the configuration in it.
    pub stored: SerialNumber,
    /// The serial number that was configured.
    pub configured: SerialNumber,
}

/// What is wrong with one file of a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It does not exist.
    #[error("is missing; provision the device again or restore the file")]
    Missing,
    /// Longer than any sound file of its kind.
    #[error("is too large ({0} bytes)")]
    TooLarge(u64),
    /// Not UTF-8.
    #[error("is not text")]
    NotText,
    /// `cloud_config.json` is not the document that it should be.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// A value in `cloud_config.json` is not valid.
    #[error("is not valid: {0}")]
    Value(#[from] ConfigError),
    /// A certificate or a key is not valid, or they do not belong together.
    #[error("is not valid: {0}")]
    Credentials(#[from] CredentialsError),
}

/// The configuration could not be written. What was stored before is still there, whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has the directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is no configuration whose certificate could be replaced.
    #[error("no configuration in {0:?}; provision the device first")]
    NotProvisioned(PathBuf),
    /// The directory cannot be used, or the disk does not take the data.
    #[error(transparent)]
    Access(#[from] AccessError),
}

impl StoreError {
    /// Whether trying again later can help.
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
    fn what_can_be_done_about_it_is_told_where_it_is_known() {
        let told = |errno: rustix::io::Errno| {
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
            let told = told(errno);
            assert!(
                told.contains(words) && told.contains("/some/path"),
                "{told}"
            );
        }
    }
}
