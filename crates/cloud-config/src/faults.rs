//! Faults for tests: the n-th change of a directory fails as on a full disk, or it and all after it never happen, as
//! when the process is killed there. [`Outcome::lose_unsynced`] makes a power cut of that: it takes away what no fsync
//! had secured. A plan holds for the thread that it is made on, and for as long as [`under`] runs.

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// All goes well.
    Healthy,
    /// Change number n, from 0, fails with "no space left"; those after it succeed.
    Full(usize),
    /// Change number n and every later one fail: the process is gone.
    Cut(usize),
    /// Each change fails, as on a file system that is mounted read-only.
    ReadOnly,
}

struct State {
    plan: Plan,
    changes: usize,
    syncs: usize,
    struck: bool,
    /// Through an open file, since the name may change.
    unsynced: Vec<(PathBuf, File)>,
}

impl State {
    const fn new(plan: Plan) -> Self {
        Self {
            plan,
            changes: 0,
            syncs: 0,
            struck: false,
            unsynced: Vec::new(),
        }
    }
}

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::new(Plan::Healthy)) };
}

/// What happened under a plan.
pub(crate) struct Outcome {
    /// Whether the fault came to pass.
    pub(crate) struck: bool,
    /// How often something was brought onto the medium, or was to be.
    pub(crate) syncs: usize,
    unsynced: Vec<File>,
}

impl Outcome {
    /// Empties each file that had no fsync.
    pub(crate) fn lose_unsynced(&self) {
        for file in &self.unsynced {
            file.set_len(0).unwrap();
        }
    }
}

/// Does some work of this thread under a plan.
pub(crate) fn under<T>(plan: Plan, work: impl FnOnce() -> T) -> (T, Outcome) {
    STATE.set(State::new(plan));
    let result = work();
    let state = STATE.replace(State::new(Plan::Healthy));
    let outcome = Outcome {
        struck: state.struck,
        syncs: state.syncs,
        unsynced: state.unsynced.into_iter().map(|(_, file)| file).collect(),
    };
    (result, outcome)
}

/// Asked before each change.
pub(crate) fn check() -> Result<(), Errno> {
    STATE.with_borrow_mut(|state| {
        let number = state.changes;
        state.changes += 1;
        let errno = match state.plan {
            Plan::Full(at) if number == at => Errno::NOSPC,
            Plan::Cut(at) if number >= at => Errno::IO,
            Plan::ReadOnly => Errno::ROFS,
            _ => return Ok(()),
        };
        state.struck = true;
        Err(errno)
    })
}

/// Told before each fsync.
pub(crate) fn count_sync() {
    STATE.with_borrow_mut(|state| state.syncs += 1);
}

/// Told when a file is made: its content is not on the medium yet.
pub(crate) fn unsynced(path: PathBuf, file: &File) {
    let file = file.try_clone().unwrap();
    STATE.with_borrow_mut(|state| state.unsynced.push((path, file)));
}

/// Told when its content is.
pub(crate) fn synced(path: &Path) {
    STATE.with_borrow_mut(|state| state.unsynced.retain(|(other, _)| other != path));
}
