//! Prepares a machine for `interop`: the broker, the tools and the Python peers that we did not write.
//!
//! Idempotent: what is there is used, what is missing is installed with the distribution's package manager where
//! we may, and otherwise the person is told what to install. Everything else lies under the target directory.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{find_program, output_of, run as run_command, with_retries};
use crate::python;

/// What `interop` hands to the tests.
pub(crate) struct Tools {
    pub(crate) mosquitto: std::path::PathBuf,
    pub(crate) python: python::Peers,
}

/// A program, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("mosquitto", "mosquitto"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    // For cloud-config's test that kills at each system call.
    ("strace", "strace"),
];

pub(crate) fn run() -> Result<Tools> {
    let mut missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if python::oldest_usable().is_none() {
        missing.extend(["python3", "python3-venv"]);
    }
    if !missing.is_empty() {
        install(&missing)?;
    }

    for (program, package) in PROGRAMS {
        let path = find_program(program).with_context(|| {
            format!("`{program}` is not there, even after installing `{package}`")
        })?;
        println!("{program}: {}", path.display());
    }
    let mosquitto = find_program("mosquitto").context("mosquitto is not there")?;
    Ok(Tools {
        mosquitto,
        python: python::prepare()?,
    })
}

/// Installs Debian packages as root, or says what to install by hand.
fn install(packages: &[&str]) -> Result<()> {
    let by_hand = format!(
        "install {} by hand (Debian: apt-get install {}) and run this again",
        packages.join(", "),
        packages.join(" ")
    );
    if find_program("apt-get").is_none() {
        bail!(
            "missing: {}. There is no apt-get here: {by_hand}",
            packages.join(", ")
        );
    }
    let root = output_of(Command::new("id").arg("-u")).as_deref() == Some("0");
    let sudo = !root && output_of(Command::new("sudo").args(["-n", "true"])).is_some();
    if !root && !sudo {
        bail!(
            "missing: {}. Installing needs root: {by_hand}",
            packages.join(", ")
        );
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if sudo { "sudo" } else { "env" });
        if sudo {
            command.args(["-n", "env"]);
        }
        command.args([
            "DEBIAN_FRONTEND=noninteractive",
            "apt-get",
            "-qq",
            "-o",
            "Acquire::Retries=3",
        ]);
        command.args(arguments);
        run_command(&mut command)
    };
    with_retries("apt-get", || {
        apt(&["update"])?;
        let mut arguments = vec!["install", "-y", "--no-install-recommends"];
        arguments.extend(packages);
        apt(&arguments)
    })
    .with_context(|| by_hand.clone())
}
