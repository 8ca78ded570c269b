//! Automatic repairs of a directory.

use std::fmt;
use std::path::{Path, PathBuf};

/// A repair by [`Store::load`](crate::Store::load). Report it to the operator; it is not an error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Repair {
    /// Group or other permissions were removed. A readable key may have been read.
    Mode {
        /// The file or directory.
        path: PathBuf,
        /// The previous permission bits.
        was: u32,
    },
    /// A committed but interrupted replacement was finished.
    CommittedChangeFinished,
    /// A committed but interrupted replacement was discarded, fully or in part, because another
    /// program has written newer files since.
    CommittedChangeSuperseded,
    /// The remains of an uncommitted replacement were removed.
    UnfinishedChangeDiscarded,
    /// An interrupted removal was finished: the remaining keys are removed.
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
                "an interrupted replacement of files was discarded, because another program has written newer files",
            ),
            Self::UnfinishedChangeDiscarded => {
                f.write_str("the remains of an interrupted replacement were removed")
            }
            Self::RemovalFinished => f.write_str("an interrupted removal was finished"),
        }
    }
}
