//! Measures how long a program without the journal can find a new certificate with an old key
//! during a rotation.
//!
//! `cargo run --release -p cloud-config --example window` measures in a temporary directory, or
//! with a path after `--` in that path. A thread polls both files while certificates are rotated. A
//! window that it misses is shorter than one poll.

mod common;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloud_config::{Credentials, Store};
use common::{Result, new_device, new_pair};

const ROTATIONS: usize = 500;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let parent = std::env::args_os()
        .nth(1)
        .map_or_else(std::env::temp_dir, PathBuf::from);
    let base = tempfile::tempdir_in(parent)?;
    let store = Store::new(base.path());
    store.save(&new_device()?)?;
    let (cert, key) = new_pair("sn0001.ui.example.com")?;
    let remote = Credentials::from_pem(&cert, &key)?;

    let is_over = AtomicBool::new(false);
    let (rotated, watched) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(store.directory(), &is_over));
        let rotated = (0..ROTATIONS).try_for_each(|_| store.replace_remote(&remote));
        is_over.store(true, Ordering::Relaxed);
        (rotated, watcher.join())
    });
    rotated?;
    let (polls, mut windows) = watched.map_err(|_| "the watcher failed")??;
    windows.sort();
    println!(
        "{ROTATIONS} rotations; one poll takes {:.2?}; a mixed pair was seen in {} of them",
        polls,
        windows.len()
    );
    if let (Some(median), Some(longest)) = (windows.get(windows.len() / 2), windows.last()) {
        println!("it lasted {median:.2?} (median), {longest:.2?} (longest)");
    }
    Ok(())
}

/// Returns the mean duration of a poll and the duration of each detected window.
fn watch(directory: &Path, is_over: &AtomicBool) -> io::Result<(Duration, Vec<Duration>)> {
    // Includes the time, because inode numbers are reused.
    let identity = |name: &str| {
        let found = std::fs::metadata(directory.join(name))?;
        Ok::<_, io::Error>((found.ino(), found.mtime(), found.mtime_nsec()))
    };
    let poll = || Ok::<_, io::Error>((identity("remote_cert.pem")?, identity("remote_key.pem")?));
    let started = Instant::now();
    let (mut polls, mut windows) = (0, Vec::new());
    let (mut cert, mut key) = poll()?;
    let mut opened: Option<Instant> = None;
    while !is_over.load(Ordering::Relaxed) {
        let (new_cert, new_key) = poll()?;
        polls += 1;
        match ((new_cert != cert, new_key != key), opened) {
            ((true, false), None) => opened = Some(Instant::now()),
            ((_, true), Some(at)) => {
                windows.push(at.elapsed());
                opened = None;
                (cert, key) = (new_cert, new_key);
            }
            ((_, true), None) => (cert, key) = (new_cert, new_key),
            _ => {}
        }
    }
    Ok((started.elapsed() / polls.max(1), windows))
}
