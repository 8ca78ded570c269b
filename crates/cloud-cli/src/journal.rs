//! The systemd journal as the reader of standard error: its lines have a priority, and no time of
//! their own.
//!
//! Specification: sd-daemon(3), systemd.exec(5), `$JOURNAL_STREAM`.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use tracing::Level;

/// The variable with device and inode of the stream to the journal.
const VARIABLE: &str = "JOURNAL_STREAM";

/// Returns whether standard error goes to the journal. The variable alone does not say so: a
/// program inherits it even if its standard error is something else.
pub(crate) fn is_stderr() -> bool {
    let Ok(named) = std::env::var(VARIABLE) else {
        return false;
    };
    let stream = io::stderr().as_fd().try_clone_to_owned().map(File::from);
    stream
        .and_then(|stream| stream.metadata())
        .is_ok_and(|metadata| named == format!("{}:{}", metadata.dev(), metadata.ino()))
}

/// A priority of syslog.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Priority {
    Error,
    Warning,
    Info,
    Debug,
}

impl Priority {
    /// Returns a line that begins with the priority, as the journal reads it.
    pub(crate) fn line(self, line: &str) -> String {
        let number = match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Info => 6,
            Self::Debug => 7,
        };
        format!("<{number}>{line}")
    }
}

impl From<&Level> for Priority {
    fn from(level: &Level) -> Self {
        match *level {
            Level::ERROR => Self::Error,
            Level::WARN => Self::Warning,
            Level::INFO => Self::Info,
            _ => Self::Debug,
        }
    }
}
