//! Installs what `interop` and `attack` need: the broker, the tools and the Python peers.
//!
//! Idempotent: uses installed programs, and installs missing ones with the package manager of the
//! distribution if it may; otherwise an error names them. Everything else is under the target
//! directory.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{find_program, output_of, run as run_command, with_retries};
use crate::python;

/// What `interop` hands to the tests.
pub(crate) struct Tools {
    pub(crate) mosquitto: std::path::PathBuf,
    pub(crate) squid: std::path::PathBuf,
    pub(crate) microsocks: std::path::PathBuf,
    pub(crate) nginx: std::path::PathBuf,
    pub(crate) promtool: std::path::PathBuf,
    pub(crate) python: python::Peers,
}

/// The package with testssl.sh and the name of its program. Not every distribution has it.
const SCANNER: (&str, &str) = ("testssl.sh", "testssl");

/// A program, and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("mosquitto", "mosquitto"),
    ("squid", "squid"),
    ("microsocks", "microsocks"),
    // A PKCS#11 token in software.
    ("softhsm2-util", "softhsm2"),
    // For the network in which only a proxy leads out.
    ("ip", "iproute2"),
    ("openssl", "openssl"),
    ("curl", "curl"),
    ("htpasswd", "apache2-utils"),
    ("nginx", "nginx"),
    // For the metrics and the alert rules.
    ("promtool", "prometheus"),
    // For cloud-config's test that kills at each system call, and for `attack`.
    ("strace", "strace"),
    ("prlimit", "util-linux"),
    // For the networks of the Python library's tests.
    ("unshare", "util-linux"),
];

pub(crate) fn run() -> Result<Tools> {
    if python::oldest_usable().is_none() {
        install(&["python3", "python3-venv"])?;
    }
    install_missing(PROGRAMS)?;
    scanner()?;
    let tool = |name: &str| find_program(name).with_context(|| format!("{name} is not there"));
    Ok(Tools {
        mosquitto: tool("mosquitto")?,
        squid: tool("squid")?,
        microsocks: tool("microsocks")?,
        nginx: tool("nginx")?,
        promtool: tool("promtool")?,
        python: python::prepare()?,
    })
}

/// Installs the packages of those programs that are not there.
pub(crate) fn install_missing(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = programs
        .iter()
        .filter(|(program, _)| find_program(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if !missing.is_empty() {
        install(&missing)?;
    }
    for (program, package) in programs {
        let path = find_program(program).with_context(|| {
            format!("`{program}` is not there, even after installing `{package}`")
        })?;
        println!("{program}: {}", path.display());
    }
    Ok(())
}

/// Installs testssl.sh, where the distribution has it; `attack` leaves out what needs it otherwise.
pub(crate) fn scanner() -> Result<()> {
    let (package, program) = SCANNER;
    if find_program(program).is_none() && find_program(package).is_none() {
        if !is_known(package) {
            // A bare machine has no index yet. What keeps apt-get from running shows in the next
            // look.
            let _ = apt(&["update"]);
        }
        if !is_known(package) {
            println!(
                "{package}: NOT THERE, and apt does not have it: `attack` leaves out its scan of TLS"
            );
            return Ok(());
        }
        install(&[package])?;
    }
    println!("{package}: installed");
    Ok(())
}

/// Whether the distribution's package index has it.
fn is_known(package: &str) -> bool {
    output_of(Command::new("apt-cache").args(["show", package]))
        .is_some_and(|text| !text.is_empty())
}

/// Installs Debian packages as root, or says what to install by hand.
fn install(packages: &[&str]) -> Result<()> {
    let installed = apt_get().and_then(|_| {
        with_retries("apt-get", || {
            apt(&["update"])?;
            let mut arguments = vec!["install", "-y", "--no-install-recommends"];
            arguments.extend(packages);
            apt(&arguments)
        })
    });
    installed.with_context(|| {
        format!(
            "missing: {}. Install it by hand (Debian: apt-get install {}) and run this again",
            packages.join(", "),
            packages.join(" ")
        )
    })
}

fn apt(arguments: &[&str]) -> Result<()> {
    run_command(apt_get()?.args(arguments))
}

/// apt-get as root, without questions. Fails where it cannot be run; a retry does not help.
fn apt_get() -> Result<Command> {
    if find_program("apt-get").is_none() {
        bail!("there is no apt-get here");
    }
    let root = output_of(Command::new("id").arg("-u")).as_deref() == Some("0");
    let sudo = !root && output_of(Command::new("sudo").args(["-n", "true"])).is_some();
    if !root && !sudo {
        bail!("installing needs root");
    }
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
    Ok(command)
}
