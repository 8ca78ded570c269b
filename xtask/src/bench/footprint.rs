//! `cargo xtask bench footprint [--profile PROFILE] [--only PART,…]`: what the program needs of a
//! small board. The part `crates` is the size of the program by crate, which takes a build of its
//! own and is therefore measured only if it is named.
//!
//! The device is the program without the simulator; the one with it is the platform.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::device::{profile, program};
use crate::process::{cargo, output_of, run as run_command, with_retries};
use crate::tools::nginx;
use crate::{python, workspace};

/// The version that the documented figures are of.
const BLOAT: &str = "0.12.1";

const CRATES: &str = "crates";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (profile, rest) = profile(arguments);
    if rest == ["--only", CRATES] {
        return crates(&profile);
    }
    let built = program(&profile, false)?;
    // The other one has the same path.
    let device = built.with_file_name("clesyde-cloud-without-simulator");
    fs::copy(&built, &device)?;
    let platform = program(&profile, true)?;
    let mut command = cargo();
    // The profile of the programs, so that dependencies are built once.
    command.args(["bench", "--profile", &profile, "-p", "cloud-cli"]);
    command.args(["--bench", "footprint", "--"]);
    command.arg("--program").arg(device);
    command.arg("--platform").arg(platform);
    command.arg("--nginx").arg(nginx()?);
    if let Some(interpreter) = python::clesyde_0120()? {
        command.arg("--python").arg(interpreter);
        let scripts = workspace::root().join("tests/interop");
        command.arg("--scripts").arg(scripts);
    }
    run_command(command.args(rest))
}

/// Prints the size of the program by crate: of its code alone, and functions count for the crate
/// that defines them, also generic ones.
fn crates(profile: &str) -> Result<()> {
    let bloat = bloat()?;
    let mut command = cargo();
    command.args(["bloat", "--profile", profile, "-p", "cloud-cli"]);
    command.args(["--no-default-features", "--bin", "clesyde-cloud"]);
    command.args(["--crates", "-n", "40"]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = bloat.parent().map(PathBuf::from).into_iter();
    let directories = directories.chain(std::env::split_paths(&path));
    command.env("PATH", std::env::join_paths(directories)?);
    run_command(&mut command)
}

/// cargo-bloat of the wanted version: built once, kept under the target directory.
fn bloat() -> Result<PathBuf> {
    let tools = workspace::target_directory()?.join("tools");
    let program = tools.join("bin/cargo-bloat");
    let found = output_of(Command::new(&program).args(["bloat", "--version"]));
    if !found.is_some_and(|version| version.contains(BLOAT)) {
        with_retries("cargo install cargo-bloat", || {
            let install = ["install", "cargo-bloat", "--version", BLOAT, "--force"];
            run_command(cargo().args(install).arg("--root").arg(&tools))
        })?;
    }
    Ok(program)
}
