//! `cargo xtask bench device [--rounds N] [--only MEASURE,…] [--profile PROFILE]`: the whole
//! program and an application in process, compared with what serves the same without a tunnel.
//!
//! nginx is required; without HAProxy its hops are left out.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::process::{cargo, find_program, run as run_command};
use crate::workspace;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (profile, rest) = profile(arguments);
    let nginx = nginx()?;
    let build = ["build", "--profile", &profile];
    run_command(cargo().args(build).args(["-p", "cloud-cli"]))?;
    let application = ["-p", "integration-tests", "--bin", "bench-application"];
    run_command(cargo().args(build).args(application))?;
    let built = workspace::target_directory()?.join(profile);
    let mut command = cargo();
    command.args(["bench", "-p", "cloud-cli", "--bench", "device", "--"]);
    command.arg("--program").arg(built.join("clesyde-cloud"));
    let application = built.join("bench-application");
    command.arg("--application").arg(application);
    command.arg("--nginx").arg(nginx);
    if let Some(haproxy) = find_program("haproxy") {
        command.arg("--haproxy").arg(haproxy);
    }
    run_command(command.args(rest))
}

/// Returns the path of nginx.
pub(super) fn nginx() -> Result<PathBuf> {
    find_program("nginx").context(
        "nginx is not installed (Debian: apt-get install nginx-light; it need not run as a service)",
    )
}

/// Returns the profile that `--profile` names, by default that of a release, and the other
/// arguments.
pub(super) fn profile(arguments: &[String]) -> (String, Vec<String>) {
    let mut rest = arguments.to_vec();
    let place = rest.iter().position(|argument| argument == "--profile");
    let named = place.and_then(|place| rest.drain(place..(place + 2).min(rest.len())).nth(1));
    (named.unwrap_or_else(|| "dist".to_owned()), rest)
}
