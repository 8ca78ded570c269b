//! `cargo xtask bench footprint [--profile PROFILE]`: what the program needs of a small board.
//!
//! The device is the program without the simulator; the one with it is the platform.

use std::fs;

use anyhow::Result;

use super::device::{nginx, profile};
use crate::process::{cargo, run as run_command};
use crate::{python, workspace};

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (profile, rest) = profile(arguments);
    let build = ["build", "--profile", &profile, "-p", "cloud-cli"];
    let built = workspace::target_directory()?
        .join(&profile)
        .join("clesyde-cloud");
    run_command(cargo().args(build).arg("--no-default-features"))?;
    let device = built.with_file_name("clesyde-cloud-without-simulator");
    fs::copy(&built, &device)?;
    run_command(cargo().args(build))?;
    let mut command = cargo();
    command.args(["bench", "-p", "cloud-cli", "--bench", "footprint", "--"]);
    command.arg("--program").arg(device);
    command.arg("--platform").arg(built);
    command.arg("--nginx").arg(nginx()?);
    if let Some(interpreter) = python::clesyde_0120()? {
        command.arg("--python").arg(interpreter);
        let scripts = workspace::root().join("tests/interop");
        command.arg("--scripts").arg(scripts);
    }
    run_command(command.args(rest))
}
