//! Faults for tests: the n-th change of a directory fails as on a full disk, or it and all after it never happen, as
//! after a power cut. In the second case [`Faults::lose_unsynced`] then takes away what no fsync had secured.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// All goes well.
    Healthy,
    /// Change number n, from 0, fails with "no space left"; those after it succeed.
    Full(usize),
    /// Change number n and every later one fail: the process is gone.
    Cut(usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Faults(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    plan: Plan,
    done: usize,
    /// Through an open file, since the name may change.
    unsynced: Vec<(PathBuf, File)>,
}

impl Default for Faults {
    fn default() -> Self {
        Self::new(Plan::Healthy)
    }
}

impl Faults {
    pub(crate) fn new(plan: Plan) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            plan,
            done: 0,
            unsynced: Vec::new(),
        })))
    }

    pub(crate) fn check(&self) -> io::Result<()> {
        let mut inner = self.0.lock().unwrap();
        let number = inner.done;
        inner.done += 1;
        match inner.plan {
            Plan::Full(at) if number == at => Err(rustix::io::Errno::NOSPC.into()),
            Plan::Cut(at) if number >= at => Err(rustix::io::Errno::IO.into()),
            _ => Ok(()),
        }
    }

    pub(crate) fn unsynced(&self, path: PathBuf, file: &File) {
        self.0
            .lock()
            .unwrap()
            .unsynced
            .push((path, file.try_clone().unwrap()));
    }

    pub(crate) fn synced(&self, path: &Path) {
        self.0
            .lock()
            .unwrap()
            .unsynced
            .retain(|(other, _)| other != path);
    }

    /// Empties each file that had no fsync.
    pub(crate) fn lose_unsynced(&self) {
        for (_, file) in self.0.lock().unwrap().unsynced.drain(..) {
            file.set_len(0).unwrap();
        }
    }

    /// Whether the fault came to pass.
    pub(crate) fn struck(&self) -> bool {
        let inner = self.0.lock().unwrap();
        match inner.plan {
            Plan::Healthy => false,
            Plan::Full(at) | Plan::Cut(at) => inner.done > at,
        }
    }
}
