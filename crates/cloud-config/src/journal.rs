//! Atomic replacement of several files: a power cut leaves either all old or all new ones.
//!
//! A rename is atomic for one file only, but a certificate and its key are two. So the new files
//! are first written into a separate directory, and the rename of *that directory* is the commit:
//!
//! 1. `.staging/` is created, each new file is written into it and synced, then the directory is
//!    synced.
//! 2. `.staging` is renamed to `.committed`, and the parent is synced. **From here on the new files
//!    are effective.**
//! 3. Each file is moved from `.committed/` to its place, `cloud_config.json` last; the directory
//!    is synced; `.committed` is removed.
//!
//! A removal commits by renaming `cloud_config.json` to `.removed`; then it removes the other
//! files, and `.removed` last.
//!
//! `.staging` also contains a manifest: a digest of each file that the change replaces, and of each
//! that it writes.
//!
//! After a crash, a `.staging` is an uncommitted change and is discarded. A `.committed` is an
//! unfinished change: its files take precedence over those in place, unless another program wrote
//! those since (`pending` decides that by the manifest), and [`recover`] finishes step 3, which is
//! idempotent. A change superseded by another program's newer files becomes `.staging` again and is
//! discarded. A `.removed` means unused keys, which are removed unless another program (the Python
//! library) has provisioned the device since. That library ignores all of these names.
//!
//! Only the process with the directory's lock recovers. Reading without the lock takes the journal
//! into account and does not modify it, because other programs on the directory do not take the
//! lock.
//!
//! A reader without the journal can find the new certificate with the old key between the two
//! renames of a pair, and after a kill at that point until the next process recovers. POSIX has no
//! call that replaces two files at once, so the renames of a pair follow each other immediately;
//! the `window` example measures the duration.
//!
//! # What is synced
//!
//! `fsync` wears the flash and dominates the time, so it is only called where an order or a
//! guarantee depends on it. [`replace`] needs one for each file, and four more:
//!
//! - each new file, the manifest, and `.staging`: a committed change must have its content and its
//!   names;
//! - the directory after the rename to `.committed`: the commit precedes the first move and the
//!   `Ok`;
//! - the directory after the moves: the names must be in place before `.committed` is removed.
//!
//! The total is 10 for a configuration (11 if the serial number is not the thing name, or was not)
//! and 6 for a pair. The removal of `.committed` has none: a leftover empty one is harmless. A
//! removal has two: after the commit, and after the removal of the other files, so that `Ok` means
//! that the keys are gone. Each created directory adds one.

use crate::dir::Dir;
use crate::error::AccessError;
use crate::file_names::{CLOUD_CONFIG, COMMITTED, FILES, REMOVED, STAGING};
use crate::manifest::{self, MANIFEST};
use crate::pending::effective_files;
use crate::repair::Repair;

/// Reports whether [`recover`] has work to do.
pub(crate) fn is_pending(dir: &Dir) -> Result<bool, AccessError> {
    for name in [STAGING, COMMITTED, REMOVED] {
        if dir.stat(name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Finishes a committed change, unless another program's newer files supersede it, and discards an
/// uncommitted one. Logs the repairs. The caller holds the directory's lock.
pub(crate) fn recover(dir: &Dir) -> Result<Vec<Repair>, AccessError> {
    let mut repairs = Vec::new();
    if discard_staging(dir)? {
        repairs.push(Repair::UnfinishedChangeDiscarded);
    }
    repairs.extend(finish_or_discard(dir)?);
    if finish_removal(dir)? {
        repairs.push(Repair::RemovalFinished);
    }
    for repair in &repairs {
        repair.log(dir.path());
    }
    Ok(repairs)
}

/// Replaces the named files atomically. The caller holds the directory's lock.
///
/// After `Ok` every reader gets the new files, after `Err` the previous ones.
pub(crate) fn replace(dir: &Dir, files: &[(&'static str, &[u8])]) -> Result<(), AccessError> {
    recover(dir)?;
    for (name, _) in files {
        // A directory in a file's place would stop the move after the commit, when no error can be
        // returned any more.
        dir.restrict_file(name)?;
    }
    if let Err(error) = stage_and_commit(dir, files) {
        // Also undoes a commit whose sync failed: otherwise it could take effect after the error.
        let _ = undo_commit(dir);
        let _ = discard_staging(dir);
        return Err(error);
    }
    // The files in place cannot have changed since, so no comparison is necessary.
    if let Err(error) = put_in_place(dir, &FILES) {
        tracing::warn!(%error, "the new files are committed, and moved into place when the directory is next opened");
    }
    Ok(())
}

/// Performs and reverts every part of [`replace`] that can fail because of the directory's content
/// or missing space. Leaves a committed change unmodified. The caller holds the directory's lock.
pub(crate) fn preflight(dir: &Dir, size: usize) -> Result<(), AccessError> {
    discard_staging(dir)?;
    for name in FILES {
        dir.restrict_file(name)?;
    }
    let written = dir
        .create_subdirectory(STAGING)
        .and_then(|staging| staging.write_new(CLOUD_CONFIG, &vec![b'x'; size]));
    let discarded = discard_staging(dir);
    written?;
    discarded.map(drop)
}

fn stage_and_commit(dir: &Dir, files: &[(&'static str, &[u8])]) -> Result<(), AccessError> {
    let staging = dir.create_subdirectory(STAGING)?;
    staging.write_new(MANIFEST, manifest::render(dir, files)?.as_bytes())?;
    for (name, content) in files {
        staging.write_new(name, content)?;
    }
    staging.sync()?;
    dir.rename(STAGING, dir, COMMITTED)?;
    dir.sync()
}

fn undo_commit(dir: &Dir) -> Result<(), AccessError> {
    if dir.stat(COMMITTED)?.is_some() {
        dir.rename(COMMITTED, dir, STAGING)?;
        dir.sync()?;
    }
    Ok(())
}

fn finish_or_discard(dir: &Dir) -> Result<Option<Repair>, AccessError> {
    let Some(committed) = dir.subdirectory(COMMITTED)? else {
        return Ok(None);
    };
    let counting = effective_files(dir, &committed)?;
    let mut is_superseded = false;
    for name in FILES {
        is_superseded |= !counting.contains(&name) && committed.stat(name)?.is_some();
    }
    if !is_superseded {
        put_in_place(dir, &counting)?;
        return Ok(Some(Repair::CommittedChangeFinished));
    }
    for name in &counting {
        committed.rename(name, dir, name)?;
    }
    dir.sync()?;
    // The rest is now an uncommitted change; its manifest may be removed before its files.
    undo_commit(dir)?;
    discard_staging(dir)?;
    Ok(Some(Repair::CommittedChangeSuperseded))
}

/// Moves those of the named files that the journal contains into place, and removes the journal.
fn put_in_place(dir: &Dir, names: &[&'static str]) -> Result<(), AccessError> {
    let Some(committed) = dir.subdirectory(COMMITTED)? else {
        return Ok(());
    };
    let mut present = Vec::with_capacity(names.len());
    for name in names {
        if committed.stat(name)?.is_some() {
            present.push(*name);
        }
    }
    // Only the moves: between those of a certificate and its key, other programs find a mismatched
    // pair.
    for name in present {
        committed.rename(name, dir, name)?;
    }
    // The names must be synced in place before the directory that records the commit is removed.
    dir.sync()?;
    committed.remove_file(MANIFEST)?;
    dir.remove_subdirectory(COMMITTED)?;
    Ok(())
}

fn discard_staging(dir: &Dir) -> Result<bool, AccessError> {
    let Some(staging) = dir.subdirectory(STAGING)? else {
        return Ok(false);
    };
    for name in FILES.into_iter().chain([MANIFEST]) {
        staging.remove_file(name)?;
    }
    dir.remove_subdirectory(STAGING)
}

/// Removes every file of a configuration. After `Ok` none of them can reappear; after `Err` the
/// device is unchanged or not provisioned, in which case the rest is removed when the directory is
/// next opened. The caller holds the directory's lock.
pub(crate) fn remove_all(dir: &Dir) -> Result<(), AccessError> {
    // Finish a committed change first: it may be partly in place and must not reappear after the
    // removal.
    recover(dir)?;
    if dir.stat(CLOUD_CONFIG)?.is_some() {
        dir.rename(CLOUD_CONFIG, dir, REMOVED)?;
        dir.sync()?;
    }
    remove_files(dir)?;
    dir.remove_file(REMOVED)?;
    Ok(())
}

fn finish_removal(dir: &Dir) -> Result<bool, AccessError> {
    if dir.stat(REMOVED)?.is_none() {
        return Ok(false);
    }
    if dir.stat(CLOUD_CONFIG)?.is_none() {
        remove_files(dir)?;
    }
    dir.remove_file(REMOVED)
}

fn remove_files(dir: &Dir) -> Result<(), AccessError> {
    for name in FILES {
        dir.remove_file(name)?;
    }
    dir.sync()
}
