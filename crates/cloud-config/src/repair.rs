//! What was found out of order in a directory and put right without asking.

use std::fmt;
use std::path::{Path, PathBuf};

/// What [`Store::load`](crate::Store::load) put right by itself. Worth telling the operator, and no reason to stop.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repair {
    /// Group or others had rights; they were taken away. A key that was readable may have been read.
    Mode {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits before.
        was: u32,
    },
    /// A replacement that had been decided when the process was killed was brought to its end.
    CommittedChangeFinished,
    /// A replacement that had been decided when the process was killed was discarded, wholly or in part: another program has
    /// written newer files since, and they stay.
    CommittedChangeSuperseded,
    /// The remains of a replacement that had not been decided were removed.
    UnfinishedChangeDiscarded,
    /// A removal that was interrupted was brought to its end: the keys that it had left are gone.
    RemovalFinished,
}

impl Repair {
    pub(crate) fn log(&self, directory: &Path) {
        tracing::warn!(?directory, repair = %self, "repaired");
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mode { path, was } => {
                write!(
                    f,
                    "{path:?} was open to other users (mode {was:o}); restricted to its owner"
                )
            }
            Self::CommittedChangeFinished => {
                f.write_str("an interrupted replacement of files was finished")
            }
            Self::CommittedChangeSuperseded => f.write_str(
                "an interrupted replacement of files was discarded, since another program has written newer files",
            ),
            Self::UnfinishedChangeDiscarded => {
                f.write_str("the remains of an interrupted replacement were removed")
            }
            Self::RemovalFinished => f.write_str("an interrupted removal was finished"),
        }
    }
}
