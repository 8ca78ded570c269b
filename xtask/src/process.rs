//! Running other programs: each is printed before it runs, inherits the output, and must succeed.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Interval between two checks of a program with a time limit.
const POLL: Duration = Duration::from_millis(50);

/// A `cargo` command without the variables that the `cargo` which started us set for us alone.
///
/// Some build scripts (ring's among them) run again when `CARGO_MANIFEST_DIR` or `CARGO_PKG_*`
/// change. Passing ours on would rebuild their dependents whenever a task and `cargo` alternate.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text.starts_with("CARGO_BIN_")
            || matches!(
                text.as_ref(),
                "CARGO_CRATE_NAME" | "CARGO_PRIMARY_PACKAGE" | "OUT_DIR"
            )
        {
            command.env_remove(&name);
        }
    }
    command.current_dir(crate::workspace::root());
    command
}

/// Shows and runs a command; fails if it does.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    run_within(command, None)
}

/// Like [`run`], and ends the program when it takes longer than `limit`.
pub(crate) fn run_within(command: &mut Command, limit: Option<Duration>) -> Result<()> {
    let shown = show(command);
    println!("$ {shown}");
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .with_context(|| format!("could not start `{shown}`"))?;
    let status = match limit {
        None => child.wait()?,
        Some(limit) => {
            let end = Instant::now() + limit;
            loop {
                if let Some(status) = child.try_wait()? {
                    break status;
                }
                if Instant::now() >= end {
                    child.kill()?;
                    child.wait()?;
                    bail!("`{shown}` was still running after {} s", limit.as_secs());
                }
                thread::sleep(POLL);
            }
        }
    };
    succeeded(&shown, status)
}

/// Like [`run`], and calls `each` with each line of standard output, which it passes on.
pub(crate) fn run_reading(command: &mut Command, mut each: impl FnMut(&str)) -> Result<()> {
    let shown = show(command);
    println!("$ {shown}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("could not start `{shown}`"))?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.with_context(|| format!("could not read what `{shown}` prints"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            each(&line);
        }
    }
    succeeded(&shown, child.wait()?)
}

fn succeeded(shown: &str, status: ExitStatus) -> Result<()> {
    if !status.success() {
        bail!("`{shown}` failed ({status})");
    }
    Ok(())
}

/// What a command prints on standard output, or `None` if it cannot be started or fails.
pub(crate) fn output_of(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Retries `attempt` when it fails: package indexes and mirrors have outages.
pub(crate) fn with_retries<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    const ATTEMPTS: u32 = 3;
    let mut number = 1;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if number < ATTEMPTS => {
                let pause = Duration::from_secs(5 * u64::from(number));
                eprintln!("{what}: {error:#}; trying again in {} s", pause.as_secs());
                thread::sleep(pause);
                number += 1;
            }
            Err(error) => return Err(error.context(format!("{what} failed {ATTEMPTS} times"))),
        }
    }
}

/// The path of a program in `PATH` or in the directories of system services.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| is_executable(candidate))
}

#[cfg(unix)]
fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_executable(path: &Path) -> bool {
    path.is_file()
}

fn show(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    let words = std::iter::once(name).chain(command.get_args());
    words
        .map(OsStr::to_string_lossy)
        .collect::<Vec<_>>()
        .join(" ")
}
