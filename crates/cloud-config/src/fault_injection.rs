//! Fault injection for tests: the n-th change of a directory fails as on a full disk, or it and all
//! later ones do not happen, as when the process is killed. [`Outcome::lose_unsynced`] simulates a
//! power cut: it removes unsynced data. A plan applies to its thread while [`under`] runs.

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plan {
    /// No faults.
    Healthy,
    /// Change number n, from 0, fails with "no space left"; those after it succeed.
    Full(usize),
    /// Change number n and every later one fail: the process is killed.
    Cut(usize),
    /// Each change fails, as on a read-only file system.
    ReadOnly,
}

struct State {
    plan: Plan,
    changes: usize,
    syncs: usize,
    triggered: bool,
    /// Open files, because the names may change.
    unsynced: Vec<(PathBuf, File)>,
}

impl State {
    const fn new(plan: Plan) -> Self {
        Self {
            plan,
            changes: 0,
            syncs: 0,
            triggered: false,
            unsynced: Vec::new(),
        }
    }
}

thread_local! {
    static STATE: RefCell<State> = const { RefCell::new(State::new(Plan::Healthy)) };
}

/// Result of a plan.
pub(crate) struct Outcome {
    /// Whether the fault occurred.
    pub(crate) triggered: bool,
    /// Number of attempted syncs.
    pub(crate) syncs: usize,
    unsynced: Vec<File>,
}

impl Outcome {
    /// Truncates each file without an fsync.
    pub(crate) fn lose_unsynced(&self) {
        for file in &self.unsynced {
            file.set_len(0).unwrap();
        }
    }
}

/// Runs `work` on this thread under a plan.
pub(crate) fn under<T>(plan: Plan, work: impl FnOnce() -> T) -> (T, Outcome) {
    STATE.set(State::new(plan));
    let result = work();
    let state = STATE.replace(State::new(Plan::Healthy));
    let outcome = Outcome {
        triggered: state.triggered,
        syncs: state.syncs,
        unsynced: state.unsynced.into_iter().map(|(_, file)| file).collect(),
    };
    (result, outcome)
}

/// Called before each change.
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
        state.triggered = true;
        Err(errno)
    })
}

/// Called before each fsync.
pub(crate) fn count_sync() {
    STATE.with_borrow_mut(|state| state.syncs += 1);
}

/// Called when a file is created: its content is not synced yet.
pub(crate) fn unsynced(path: PathBuf, file: &File) {
    let file = file.try_clone().unwrap();
    STATE.with_borrow_mut(|state| state.unsynced.push((path, file)));
}

/// Called after its content is synced.
pub(crate) fn synced(path: &Path) {
    STATE.with_borrow_mut(|state| state.unsynced.retain(|(other, _)| other != path));
}
