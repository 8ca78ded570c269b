//! A committed change that is not finished: which of its files count.
//!
//! The process that committed it is gone, and another program that knows no journal (the Python library, an operator with
//! an editor) may have written files in place since. The manifest says what each file was before the change and what it is
//! after it. A file in place that is neither was written by another program, and is newer than the change:
//!
//! - No such file: the change counts as a whole.
//! - `cloud_config.json` was removed: the device was reset, and nothing of the change counts.
//! - What is in place is sound, each certificate with its key: nothing of the change counts, since the other program works
//!   with what is there.
//! - What is in place is not sound, because a move or the other program's writing was cut off: a unit (the roots, a pair, the
//!   names) that the other program wrote and that is sound stays; each other unit comes from the change, as far as that makes
//!   it sound. A device that is not provisioned without the change stays so if the result is not sound as a whole.
//!
//! A journal without a readable manifest allows no comparison and counts as a whole: it was committed.

use crate::dir::Dir;
use crate::error::AccessError;
use crate::journal::{CLOUD_CONFIG, FILES};
use crate::manifest::{self, Entry};
use crate::reading::{Source, Unit};

/// The files of a journal that count before those in place, in the order in which to move them there.
pub(crate) fn files_that_count(
    dir: &Dir,
    committed: &Dir,
) -> Result<Vec<&'static str>, AccessError> {
    // The journal before the places: a file moves from there to here, and must not be missed in both.
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
    let units: Vec<_> = Unit::ALL
        .into_iter()
        .filter(|unit| unit.files().iter().any(|name| changes(name)))
        .collect();
    let sound = |unit: Unit, taken: &[&'static str]| {
        unit.is_sound(&Source::with(dir, committed, taken.to_vec()))
    };
    if units.iter().all(|unit| sound(*unit, &[])) {
        return Ok(Vec::new());
    }
    // Units that are sound in place come first, so that a move that is cut off leads to the same decision again.
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
    if !is_provisioned && !Unit::ALL.into_iter().all(whole) {
        return Ok(Vec::new());
    }
    Ok(counting)
}

/// Whether another program wrote or removed the file since the change was committed.
fn is_foreign(dir: &Dir, entry: &Entry, in_journal: bool) -> Result<bool, AccessError> {
    let now = manifest::in_place(dir, entry.name)?;
    let is_after = now.as_ref() == Some(&entry.after);
    let is_before = in_journal && now == entry.before;
    Ok(!is_after && !is_before)
}
