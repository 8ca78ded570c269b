//! `cargo xtask attack [--short] [--only NAME,…] [--program PATH] [--list]`: attacks on the built program.
//!
//! The attacks are a program of their own, `tests/src/bin/attack`, which starts `clesyde-cloud` and a simulator as child processes and
//! prints a table of what was promised and what it has measured. It fails if a bound does not hold. docs/security.md shows the
//! table and says what the bounds are for.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, find_program, run as run_command, run_within};
use crate::{setup, workspace};

const HELP: &str = "\
usage: cargo xtask attack [--short] [--only NAME,…] [--program PATH] [--list]

Builds clesyde-cloud as a release is and attacks it, on loopback: as callers, a broker, a platform, other programs of the machine and
a page in the user's browser would. Prints a table of bounds and measurements; fails if a bound does not hold.

  --short         what takes seconds: two minutes in all, as `cargo xtask ci` runs it
  --only NAME,…   only these attacks
  --program PATH  attack this program, for example an older build, and build none
  --list          name the attacks
";

/// Both forms end by themselves: each attack has a limit. This is for one that does not.
const LIMIT: Duration = Duration::from_secs(45 * 60);

/// What the attacks use beside what every system has; without strace they cannot stop a program between two system calls.
const PROGRAMS: &[&str] = &["strace", "openssl", "prlimit"];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let mut program = None;
    let mut passed = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let mut value = || {
            rest.next()
                .with_context(|| format!("`{argument}` needs a value\n\n{HELP}"))
        };
        match argument.as_str() {
            "--help" | "-h" => {
                print!("{HELP}");
                return Ok(());
            }
            "--program" => program = Some(PathBuf::from(value()?)),
            "--only" => passed.extend([argument.clone(), value()?.clone()]),
            "--short" | "--list" => passed.push(argument.clone()),
            other => bail!("`attack` has no option `{other}`\n\n{HELP}"),
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
    let program = match program {
        Some(program) => program,
        None => build_program()?,
    };
    let mut command = std::process::Command::new(attacker);
    command.args(&passed).arg("--program").arg(program);
    run_within(&mut command, Some(LIMIT))
}

/// What CI runs. testssl.sh is part of it where the distribution has it.
pub(crate) fn short() -> Result<()> {
    setup::scanner()?;
    run(&["--short".to_owned()])
}

fn build_attacker() -> Result<PathBuf> {
    // Of the whole workspace, with its features: for one package alone half the tree would be built again.
    run_command(cargo().args(["build", "--workspace", "--bin", "attack"]))?;
    built("debug", "attack")
}

fn build_program() -> Result<PathBuf> {
    run_command(cargo().args(["build", "--release", "-p", "cloud-cli"]))?;
    built("release", "clesyde-cloud")
}

fn built(profile: &str, name: &str) -> Result<PathBuf> {
    let path = workspace::target_directory()?
        .join(Path::new(profile))
        .join(name);
    if !path.exists() {
        bail!("there is no {}", path.display());
    }
    Ok(path)
}
