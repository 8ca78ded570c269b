//! `cargo xtask bench tunnel [--rounds N] [--only MEASURE,…] [--ways WAY,…]`: the tunnel compared
//! with other programs.
//!
//! nginx is required. If HAProxy, rathole or the Python package is not available, the command says
//! so and omits it. It installs no system packages, because that of nginx starts a server on port
//! 80.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process::{cargo, find_program, output_of, run as run_command, with_retries};
use crate::{python, workspace};

/// The version that the documented figures are of.
const RATHOLE: &str = "0.5.0";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let nginx = find_program("nginx").context(
        "nginx is not installed (Debian: apt-get install nginx-light; it need not run as a service)",
    )?;
    let mut peers = vec![("--nginx", nginx)];
    peers.extend(find_program("haproxy").map(|path| ("--haproxy", path)));
    match rathole() {
        Ok(path) => peers.push(("--rathole", path)),
        Err(error) => eprintln!("rathole cannot be had: {error:#}"),
    }
    match python::snitun_047() {
        Ok(Some(path)) => {
            peers.push(("--python", path));
            peers.push(("--scripts", workspace::root().join("tests/interop")));
        }
        Ok(None) => {}
        Err(error) => eprintln!("the Python package cannot be had: {error:#}"),
    }
    // The reader of the measure `slow-reader` needs no package.
    peers.extend(python::oldest_usable().map(|path| ("--reader", path)));

    // Built like a release, as the peers are.
    run_command(cargo().args(["build", "--profile", "dist", "-p", "snitun", "--examples"]))?;
    let examples = workspace::target_directory()?.join("dist/examples");
    peers.push(("--relay", examples.join("relay")));
    peers.push(("--forward", examples.join("forward")));
    let mut command = cargo();
    command.args(["bench", "-p", "snitun", "--bench", "tunnel", "--"]);
    for (name, path) in peers {
        command.arg(name).arg(path);
    }
    run_command(command.args(arguments))
}

/// rathole of the wanted version: built once, kept under the target directory.
fn rathole() -> Result<PathBuf> {
    let tools = workspace::target_directory()?.join("tools");
    let program = tools.join("bin/rathole");
    let found = output_of(Command::new(&program).arg("--version"));
    if !found.is_some_and(|version| version.contains(RATHOLE)) {
        with_retries("cargo install rathole", || {
            run_command(
                cargo()
                    .args(["install", "rathole", "--version", RATHOLE, "--force"])
                    .args(["--no-default-features", "--features", "client,server"])
                    .arg("--root")
                    .arg(&tools),
            )
        })?;
    }
    Ok(program)
}
