//! Resolution of a committed but unfinished change: which of its files are effective.
//!
//! The process that committed it has ended, and another program without the journal (the Python
//! library, an operator with an editor) may have written files in place since. The manifest
//! contains each file's digest before and after the change. A file in place that matches neither is
//! foreign: another program wrote it, and it is newer than the change:
//!
//! - No foreign file: the whole change is effective.
//! - `cloud_config.json` was removed: the device was reset, and nothing of the change is effective.
//! - The files in place are valid, each certificate with its key: nothing of the change is
//!   effective, because the other program uses those files.
//! - The files in place are invalid, because a rename or the other program's write was cut off: a
//!   valid foreign group (the roots, a pair, the names) stays; each other group comes from the
//!   change if that makes it valid. A device that is not provisioned without the change stays so
//!   unless the result is valid as a whole.
//!
//! A journal without a readable manifest allows no comparison and is effective as a whole: it was
//! committed.

use crate::dir::Dir;
use crate::error::AccessError;
use crate::file_names::{CLOUD_CONFIG, COMMITTED, FILES};
use crate::load::{FileGroup, Source};
use crate::manifest::{self, Entry};

/// Returns the effective files of a directory; `committed` is the journal in it, if any.
pub(crate) fn effective_source<'a>(
    dir: &'a Dir,
    committed: Option<&'a Dir>,
) -> Result<Source<'a>, AccessError> {
    let counting = match committed {
        Some(committed) => effective_files(dir, committed)?,
        None => Vec::new(),
    };
    Ok(Source::new(dir, committed, counting))
}

/// Reports whether a configuration exists, valid or not.
pub(crate) fn is_provisioned(dir: &Dir) -> Result<bool, AccessError> {
    let committed = dir.subdirectory(COMMITTED)?;
    effective_source(dir, committed.as_ref())?.is_provisioned()
}

/// Returns the effective files of a journal, in the order in which to move them into place.
pub(crate) fn effective_files(
    dir: &Dir,
    committed: &Dir,
) -> Result<Vec<&'static str>, AccessError> {
    // Journal first: a file moves from there to its place and must not be missed in both.
    let mut present = Vec::with_capacity(FILES.len());
    for name in FILES {
        if committed.stat(name)?.is_some() {
            present.push(name);
        }
    }
    let Some(entries) = manifest::read(committed)? else {
        return Ok(present);
    };
    let mut foreign = Vec::new();
    for entry in &entries {
        if is_foreign(dir, entry, present.contains(&entry.name))? {
            foreign.push(entry.name);
        }
    }
    let changes = |name| entries.iter().any(|entry| entry.name == name);
    let is_provisioned = dir.stat(CLOUD_CONFIG)?.is_some();
    if !is_provisioned && (foreign.contains(&CLOUD_CONFIG) || !changes(CLOUD_CONFIG)) {
        return Ok(Vec::new());
    }
    if foreign.is_empty() {
        return Ok(present);
    }
    let units: Vec<_> = FileGroup::ALL
        .into_iter()
        .filter(|unit| unit.files().iter().any(|name| changes(name)))
        .collect();
    let sound = |unit: FileGroup, taken: &[&'static str]| {
        unit.is_valid(&Source::new(dir, Some(committed), taken.to_vec()))
    };
    if units.iter().all(|unit| sound(*unit, &[])) {
        return Ok(Vec::new());
    }
    // Groups that are valid in place come first, so that an interrupted move leads to the same
    // decision again.
    let (first, last): (Vec<_>, Vec<_>) = units.into_iter().partition(|unit| sound(*unit, &[]));
    let mut counting = Vec::with_capacity(present.len());
    for unit in first.into_iter().chain(last) {
        let offered: Vec<_> = present
            .iter()
            .copied()
            .filter(|name| unit.files().contains(name))
            .collect();
        let is_foreign = unit.files().iter().any(|name| foreign.contains(name));
        if !is_foreign || (!sound(unit, &[]) && sound(unit, &offered)) {
            counting.extend(offered);
        }
    }
    let whole = |unit| sound(unit, &counting);
    if !is_provisioned && !FileGroup::ALL.into_iter().all(whole) {
        return Ok(Vec::new());
    }
    Ok(counting)
}

/// Reports whether another program wrote or removed the file after the commit.
fn is_foreign(dir: &Dir, entry: &Entry, in_journal: bool) -> Result<bool, AccessError> {
    let now = manifest::digest_of_file(dir, entry.name)?;
    let is_after = now.as_ref() == Some(&entry.after);
    let is_before = in_journal && now == entry.before;
    Ok(!is_after && !is_before)
}
