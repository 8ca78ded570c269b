//! For how long a program that does not know the journal can find a new certificate with an old key during a rotation.
//!
//! `cargo run --release -p cloud-config --example window` measures in a temporary directory; with a path behind `--`, below
//! that. A thread looks at both files as fast as it can while certificates are rotated. A window that it does not see is
//! shorter than one look.

mod common;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cloud_config::{Credentials, Store};
use common::{Result, new_device, new_pair};

const ROTATIONS: usize = 500;

fn main() -> Result<()> {
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
    let (looks, mut windows) = watched.map_err(|_| "the watcher failed")??;
    windows.sort();
    println!(
        "{ROTATIONS} rotations; one look takes {:.2?}; a mixed pair was seen in {} of them",
        looks,
        windows.len()
    );
    if let (Some(median), Some(longest)) = (windows.get(windows.len() / 2), windows.last()) {
        println!("it lasted {median:.2?} (median), {longest:.2?} (longest)");
    }
    Ok(())
}

/// The mean length of a look, and how long each window was that at least one look fell into.
fn watch(directory: &Path, is_over: &AtomicBool) -> io::Result<(Duration, Vec<Duration>)> {
    // The time as well, since the number of a file that was replaced is given away again.
    let identity = |name: &str| {
        let found = std::fs::metadata(directory.join(name))?;
        Ok::<_, io::Error>((found.ino(), found.mtime(), found.mtime_nsec()))
    };
    let look = || Ok::<_, io::Error>((identity("remote_cert.pem")?, identity("remote_key.pem")?));
    let begun = Instant::now();
    let (mut looks, mut windows) = (0, Vec::new());
    let (mut cert, mut key) = look()?;
    let mut opened: Option<Instant> = None;
    while !is_over.load(Ordering::Relaxed) {
        let (new_cert, new_key) = look()?;
        looks += 1;
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
    Ok((begun.elapsed() / looks.max(1), windows))
}
