//! `cargo xtask bench device [--rounds N] [--only MEASURE,…] [--profile PROFILE]`: the whole
//! program and an application in process, compared with what serves the same without a tunnel.
//!
//! nginx is required; without HAProxy its hops are left out.

use std::path::PathBuf;

use anyhow::Result;

use crate::process::{cargo, find_program, run as run_command};
use crate::tools::nginx;
use crate::{profile_guided, workspace};

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (profile, rest) = profile(arguments);
    let nginx = nginx()?;
    let program = program(&profile, true)?;
    let application = ["-p", "integration-tests", "--bin", "bench-application"];
    let build = ["build", "--profile", &profile];
    run_command(cargo().args(build).args(application))?;
    let built = workspace::target_directory()?.join(profile);
    let mut command = cargo();
    command.args(["bench", "-p", "cloud-cli", "--bench", "device", "--"]);
    command.arg("--program").arg(program);
    let application = built.join("bench-application");
    command.arg("--application").arg(application);
    command.arg("--nginx").arg(nginx);
    if let Some(haproxy) = find_program("haproxy") {
        command.arg("--haproxy").arg(haproxy);
    }
    run_command(command.args(rest))
}

/// Builds the program: with the profile of a release as a release is, else as the profile says.
pub(super) fn program(profile: &str, has_simulator: bool) -> Result<PathBuf> {
    if profile == profile_guided::PROFILE {
        return profile_guided::build(has_simulator);
    }
    let mut build = cargo();
    build.args(["build", "--profile", profile, "-p", "cloud-cli"]);
    if !has_simulator {
        build.arg("--no-default-features");
    }
    run_command(&mut build)?;
    let built = workspace::target_directory()?.join(profile);
    Ok(built.join("clesyde-cloud"))
}

/// Returns the profile that `--profile` names, by default that of a release, and the other
/// arguments.
pub(super) fn profile(arguments: &[String]) -> (String, Vec<String>) {
    let mut rest = arguments.to_vec();
    let place = rest.iter().position(|argument| argument == "--profile");
    let named = place.and_then(|place| rest.drain(place..(place + 2).min(rest.len())).nth(1));
    (
        named.unwrap_or_else(|| profile_guided::PROFILE.to_owned()),
        rest,
    )
}
