//! `cargo xtask attack [--short] [--only NAME,…] [--program PATH] [--list]`: attacks on the built
//! program.
//!
//! The attacks are a separate program, `tests/src/bin/attack`, which starts `clesyde-cloud` and a
//! simulator as child processes and prints a table of limits and measurements. It fails if a limit
//! does not hold. docs/security.md shows the table and explains the limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, find_program, run as run_command, run_within};
use crate::{setup, workspace};

pub(crate) const ARGUMENTS: &str = "[--short] [--only NAME,…] [--program PATH] [--list]";

pub(crate) const DETAILS: &str = "\
Builds clesyde-cloud with the profile `release` (no LTO) and attacks it on loopback as callers, a
broker, a platform, other local programs and a web page in the user's browser could. Prints a table
of limits and measurements; fails if a limit does not hold. The attacking program is built with the
profile `dev`.

  --short         only attacks that take seconds, two minutes in all; this is what `ci` runs
  --only NAME,…   only these attacks
  --program PATH  attacks this program instead of building one
  --list          lists the attacks";

/// Limit for all attacks. Each attack also has its own limit.
const LIMIT: Duration = Duration::from_secs(45 * 60);

/// Programs that the attacks use; strace stops a program between two system calls.
const PROGRAMS: &[&str] = &["strace", "openssl", "prlimit"];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut program = None;
    let mut passed = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || {
            rest.next()
                .with_context(|| format!("`{argument}` needs a value"))
        };
        match argument.as_str() {
            "--program" => program = Some(PathBuf::from(value()?)),
            "--only" => passed.extend([argument.clone(), value()?.clone()]),
            "--short" | "--list" => passed.push(argument.clone()),
            other => bail!("`attack` has no option `{other}`; see `cargo xtask attack --help`"),
        }
    }
    let attacker = build_attacker()?;
    if passed.iter().any(|argument| argument == "--list") {
        return run_command(std::process::Command::new(attacker).arg("--list"));
    }
    for name in PROGRAMS {
        find_program(name)
            .with_context(|| format!("`{name}` is missing: `cargo xtask setup` installs it"))?;
    }
    let (program, profile) = match program {
        Some(program) => (program, "chosen by --program"),
        None => (build_program()?, "release, without LTO"),
    };
    println!(
        "program under attack: {} (profile: {profile})",
        program.display()
    );
    let mut command = std::process::Command::new(attacker);
    command.args(&passed).arg("--program").arg(program);
    run_within(&mut command, Some(LIMIT))
}

/// The attacks of CI, with testssl.sh where the distribution has it.
pub(crate) fn short() -> Result<()> {
    setup::scanner()?;
    run(&["--short".to_owned()])
}

fn build_attacker() -> Result<PathBuf> {
    // With the features of the whole workspace, to avoid a second build of the dependencies.
    run_command(cargo().args(["build", "--workspace", "--bin", "attack"]))?;
    built("debug", "attack")
}

/// Builds the program with the profile `release`.
pub(crate) fn build_program() -> Result<PathBuf> {
    run_command(cargo().args(["build", "--release", "-p", "cloud-cli"]))?;
    built("release", "clesyde-cloud")
}

/// Returns the path of a built program.
pub(crate) fn built(profile: &str, name: &str) -> Result<PathBuf> {
    let path = workspace::target_directory()?
        .join(Path::new(profile))
        .join(name);
    if !path.exists() {
        bail!("there is no {}", path.display());
    }
    Ok(path)
}
