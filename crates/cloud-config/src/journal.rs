//! Several files replaced as one, so that a power cut leaves all of the old or all of the new.
//!
//! A rename is atomic for one file only, and a certificate and its key are two. So the new files are first written
//! into a directory of their own, and it is the rename of *that* which decides:
//!
//! 1. `.staging/` is made, each new file written into it and synced, then the directory synced.
//! 2. `.staging` becomes `.committed`, and the parent is synced. **From here on the new files count.**
//! 3. Each file is moved from `.committed/` to its place, `cloud_config.json` last; the directory is synced;
//!    `.committed` is removed.
//!
//! A removal begins with the rename of `cloud_config.json` to `.removed`, which decides; then the other files go, and
//! `.removed` last.
//!
//! `.staging` also gets a manifest: a digest of each file that the change replaces, and of each that it writes.
//!
//! Found later, a `.staging` means a change that never was: it is discarded. A `.committed` means one that is not finished.
//! Its files take precedence over those outside, unless another program wrote those since (`pending` decides that by the
//! manifest), and [`recover`] finishes step 3, which can be cut short and repeated any number of times. A change that another
//! program's newer files supersede becomes `.staging` again and is discarded. A `.removed` means keys that are not in use any
//! more: they are removed, unless another program (the Python library) has provisioned the device since. That library looks
//! at none of these names.
//!
//! Only the process that has the directory's lock recovers. Reading without the lock takes the journal into account and
//! leaves it as it is: another program that runs on the directory does not take that lock.
//!
//! A reader that does not know the journal can find the new certificate with the old key between the two moves of a pair,
//! and if the process is killed just there, until the next process recovers. The moves of a pair follow one another without
//! anything between them, since POSIX has no call that replaces two files at once; the `window` example measures how long
//! that takes.
//!
//! # What is synced
//!
//! `fsync` is what wears the flash and takes the time, so there is one where an order or a promise hangs on it, and
//! nowhere else. [`replace`] needs one for each file, and four:
//!
//! - each new file, the manifest, and `.staging`: what is committed must have its content and its names;
//! - the directory after the rename to `.committed`: the decision comes before the first move, and before we say `Ok`;
//! - the directory after the moves: the names must be in their places before `.committed` goes.
//!
//! So 10 for a whole configuration (11 where the serial number is not the thing name, or was not) and 6 for a pair. The
//! removal of `.committed` has none: an empty one found later does no harm. A removal has two: after the decision, and
//! after the other files are gone, so that a key that was said to be removed is. Making the directory costs one for each
//! directory made.
//!
//! Protocol: `docs/protocol.md`, "On disk".

use crate::dir::Dir;
use crate::error::AccessError;
use crate::manifest::{self, MANIFEST};
use crate::pending::files_that_count;
use crate::repair::Repair;

/// The files of a configuration, in the order in which they are put in place. The last makes a device provisioned.
pub(crate) const FILES: [&str; 7] = [
    SERIAL_NUMBER,
    IOT_CA,
    IOT_CERT,
    IOT_KEY,
    REMOTE_CERT,
    REMOTE_KEY,
    CLOUD_CONFIG,
];
/// There only if the serial number is not the thing name.
pub(crate) const SERIAL_NUMBER: &str = "serial_number.json";
pub(crate) const IOT_CA: &str = "iot_ca.pem";
pub(crate) const IOT_CERT: &str = "iot_cert.pem";
pub(crate) const IOT_KEY: &str = "iot_key.pem";
pub(crate) const REMOTE_CERT: &str = "remote_cert.pem";
pub(crate) const REMOTE_KEY: &str = "remote_key.pem";
pub(crate) const CLOUD_CONFIG: &str = "cloud_config.json";

pub(crate) const STAGING: &str = ".staging";
pub(crate) const COMMITTED: &str = ".committed";
/// Was `cloud_config.json` until its device was reset.
pub(crate) const REMOVED: &str = ".removed";

/// Whether there is anything for [`recover`] to do.
pub(crate) fn is_pending(dir: &Dir) -> Result<bool, AccessError> {
    for name in [STAGING, COMMITTED, REMOVED] {
        if dir.stat(name)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Finishes what was committed, unless another program's newer files supersede it, and discards what was not committed.
/// Logs what it did. The caller holds the directory's lock.
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

/// Replaces the named files, all or none. The caller holds the directory's lock.
///
/// `Ok` means that every later reader gets the new ones, `Err` that every later reader gets what was there before.
pub(crate) fn replace(dir: &Dir, files: &[(&'static str, &[u8])]) -> Result<(), AccessError> {
    recover(dir)?;
    for (name, _) in files {
        // A directory in a file's place would stop the move after the decision, where nobody can be told any more.
        dir.restrict_file(name)?;
    }
    if let Err(error) = stage_and_commit(dir, files) {
        // Also undoes a commit whose sync failed: were it left, it could come true after we said that it did not.
        let _ = undo_commit(dir);
        let _ = discard_staging(dir);
        return Err(error);
    }
    // The files in place are the ones that were there a moment ago: no need to compare.
    if let Err(error) = put_in_place(dir, &FILES) {
        tracing::warn!(%error, "new files are stored, and put in their places when the directory is next opened");
    }
    Ok(())
}

/// Does all of a [`replace`] that can fail for what is in the directory or for want of space, and takes it back. Leaves a
/// committed change as it is. The caller holds the directory's lock.
pub(crate) fn rehearse(dir: &Dir, size: usize) -> Result<(), AccessError> {
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
    let counting = files_that_count(dir, &committed)?;
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
    // From here on the rest is a change that never was; its manifest may go before its files.
    undo_commit(dir)?;
    discard_staging(dir)?;
    Ok(Some(Repair::CommittedChangeSuperseded))
}

/// Moves the named files out of the journal, those that are in it, and removes the journal.
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
    // Nothing but the moves: between those of a certificate and its key, others find a pair that does not match.
    for name in present {
        committed.rename(name, dir, name)?;
    }
    // The names must be safe in their new places before the directory that proves the commit goes away.
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

/// Removes every file of a configuration. `Ok` means that none of them can come back, `Err` that the device is as it was
/// or not provisioned any more, in which case the rest goes when the directory is next opened. The caller holds the
/// directory's lock.
pub(crate) fn remove_all(dir: &Dir) -> Result<(), AccessError> {
    // A committed change must not come back after its removal, and it may be half in place: so it is finished first.
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
