//! Measures the duration of each change on this disk, including syncs.
//!
//! `cargo run --release -p cloud-config --example cost` measures in a temporary directory, or with
//! a path after `--` in that path. Syncs dominate, so the figures describe the disk rather than the
//! program.

mod common;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cloud_config::{Credentials, Store};
use common::{Result, new_device, new_pair};

const ROUNDS: usize = 25;

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
    let device = new_device()?;
    let remote = new_pair("sn0001.ui.example.com")?;
    let remote = Credentials::from_pem(&remote.0, &remote.1)?;

    let mut times: [Vec<Duration>; 5] = Default::default();
    for _ in 0..ROUNDS {
        let [provision, force, rotate, load, reset] = &mut times;
        provision.push(timed(|| store.save(&device))?);
        force.push(timed(|| store.save(&device))?);
        rotate.push(timed(|| store.replace_remote(&remote))?);
        load.push(timed(|| store.load())?);
        reset.push(timed(|| store.remove())?);
    }
    println!("median and longest of {ROUNDS}:");
    let names = ["provision", "re-provision", "rotate", "load", "reset"];
    for (name, mut times) in names.into_iter().zip(times) {
        times.sort();
        let longest = times.last().copied().unwrap_or_default();
        println!("{name:>13} {:>10.2?} {longest:>10.2?}", times[ROUNDS / 2]);
    }
    Ok(())
}

fn timed<T, E>(
    work: impl FnOnce() -> std::result::Result<T, E>,
) -> std::result::Result<Duration, E> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed())
}
