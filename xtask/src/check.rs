//! Checks that `ci` is made of and that are worth running by themselves.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, output_of, run, run_within};
use crate::tools::{self, Tool};
use crate::workspace;

/// In the version that `deny.toml` is written for.
const CARGO_DENY: Tool = Tool {
    name: "cargo-deny",
    version: "0.20.2",
    arguments: &[],
};

/// An example shows something and ends; the slowest provisions a device and opens a tunnel.
const EXAMPLE_LIMIT: Duration = Duration::from_secs(60);

/// The crates that know no other crate of ours: each must build with only what it asks for itself.
const ALONE: &[&str] = &[
    "cloud-config",
    "cloud-provision",
    "cloud-iot",
    "cloud-shadow",
    "snitun",
];

/// snitun without one end or without both.
const SNITUN_SHAPES: &[&[&str]] = &[
    &["--no-default-features"],
    &["--no-default-features", "--features", "client"],
    &["--no-default-features", "--features", "server"],
];

/// What snitun's core must not be built from.
const IMPURE: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "getrandom",
    "rand",
    "rand_core",
    "time",
];

/// Modules of snitun that are there with features only.
const WITH_FEATURES: &[&str] = &["client", "copy", "driver", "server", "socket"];

/// What asks the system for the time.
const CLOCKS: &[&str] = &["Instant", "SystemTime"];

/// A target without operating system, clock and random source.
const BARE_TARGET: &str = "wasm32-unknown-unknown";

/// Formatting of all crates.
pub(crate) fn format() -> Result<()> {
    run(cargo().args(["fmt", "--all", "--check"]))
}

/// Clippy on everything, on snitun in each of its shapes, and on the program without the simulator.
pub(crate) fn clippy() -> Result<()> {
    run(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--features",
        "integration-tests/interop",
        "--",
        "-D",
        "warnings",
    ]))?;
    let shape = |package: &str, features: &[&str]| {
        run(cargo()
            .args(["clippy", "-p", package, "--lib"])
            .args(features)
            .args(["--", "-D", "warnings"]))
    };
    SNITUN_SHAPES
        .iter()
        .try_for_each(|features| shape("snitun", features))?;
    shape("cloud-cli", &["--no-default-features"])
}

/// The documentation of all crates, without broken links and undocumented items; snitun's with each
/// set of features.
pub(crate) fn docs() -> Result<()> {
    let doc = |arguments: &[&str]| {
        run(cargo()
            .args(["doc", "--no-deps"])
            .args(arguments)
            .env("RUSTDOCFLAGS", "-D warnings"))
    };
    SNITUN_SHAPES
        .iter()
        .try_for_each(|shape| doc(&[&["-p", "snitun"], *shape].concat()))?;
    // The last one, which is the one that stays.
    doc(&["--workspace"])
}

/// Each independent crate by itself: in a workspace build, features that another crate enables may
/// hide a missing one.
pub(crate) fn each_alone() -> Result<()> {
    ALONE
        .iter()
        .try_for_each(|name| run(cargo().args(["check", "--lib", "-p", name])))?;
    sans_io()
}

/// snitun without features is a pure protocol: its tests pass, its dependencies contain no runtime,
/// clock or random source, and it builds for a target without them, if that is installed.
fn sans_io() -> Result<()> {
    let check = ["check", "--lib", "-p", "snitun", "--no-default-features"];
    run(cargo().args(["test", "-p", "snitun", "--no-default-features", "--tests"]))?;
    let installed = output_of(Command::new("rustup").args(["target", "list", "--installed"]));
    if installed.is_some_and(|targets| targets.lines().any(|target| target == BARE_TARGET)) {
        run(cargo().args(check).args(["--target", BARE_TARGET]))?;
    } else {
        println!(
            "!! NOT CHECKED for {BARE_TARGET}: `rustup target add {BARE_TARGET}` installs what that needs"
        );
    }
    let tree = output_of(cargo().args([
        "tree",
        "-p",
        "snitun",
        "--no-default-features",
        "--edges=normal",
        "--prefix=none",
    ]))
    .context("could not list what snitun is built from")?;
    let impure: Vec<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .filter(|name| IMPURE.contains(name))
        .collect();
    if !impure.is_empty() {
        bail!("snitun without features depends on {}", impure.join(", "));
    }
    no_clock(&workspace::root().join("crates/snitun/src"))
}

/// The core of snitun takes the time as an argument. On [`BARE_TARGET`] reading a clock panics.
fn no_clock(directory: &Path) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let gated = path
            .file_stem()
            .and_then(|name| name.to_str())
            .is_some_and(|name| WITH_FEATURES.contains(&name));
        if path.is_dir() && !gated {
            no_clock(&path)?;
        } else if path.is_file() && !gated {
            let text = fs::read_to_string(&path)?;
            let code = text
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let mut words = code.flat_map(|line| line.split(|c: char| !c.is_alphanumeric()));
            if let Some(clock) = words.find(|word| CLOCKS.contains(word)) {
                bail!(
                    "{} uses {clock}: the core takes a `Timestamp`",
                    path.display()
                );
            }
        }
    }
    Ok(())
}

/// Licences, sources and bans of all dependencies; advisories if their database is installed.
pub(crate) fn policy() -> Result<()> {
    let deny = tools::find_or_build(&CARGO_DENY)?;
    let check = |arguments: &[&str]| {
        run(Command::new(&deny)
            .current_dir(workspace::root())
            .arg("--locked")
            .arg("check")
            .args(arguments))
    };
    check(&["bans", "licenses", "sources"])?;
    if advisory_database() {
        check(&["--disable-fetch", "advisories"])
    } else {
        println!(
            "advisories: not checked, there is no copy of the advisory database on this machine"
        );
        Ok(())
    }
}

/// Builds every example as `cargo test` does, and runs each.
pub(crate) fn examples() -> Result<()> {
    build_tests()?;
    let metadata = workspace::metadata()?;
    let directory = metadata.target_directory.join("debug").join("examples");
    let mut names: Vec<String> = metadata
        .packages
        .iter()
        .flat_map(|package| &package.targets)
        // An example with `test = true` is built as a test program, which `cargo xtask test` runs.
        .filter(|target| target.is_example() && !target.test)
        .map(|target| target.name.clone())
        .collect();
    names.sort();
    for name in &names {
        let path = directory.join(name);
        if !path.exists() {
            bail!("the example `{name}` was not built: no {path}");
        }
        run_within(&mut Command::new(&path), Some(EXAMPLE_LIMIT))
            .with_context(|| format!("the example `{name}` must run by itself and exit 0"))?;
    }
    println!("{} examples ran", names.len());
    Ok(())
}

/// Everything that `cargo xtask test` runs, built and not run.
pub(crate) fn build_tests() -> Result<()> {
    run(cargo().args(["test", "--workspace", "--no-run"]))
}

/// Runs the pages of the documentation whose blocks are for a shell.
pub(crate) fn snippets() -> Result<()> {
    run(cargo().args(["build", "--workspace", "--examples"]))?;
    run(cargo().args([
        "test",
        "--workspace",
        "--test",
        "it",
        "pages_run_as_written",
        "--",
        "--ignored",
    ]))
}

/// The demonstration that the README starts with, as the README runs it.
pub(crate) fn demo() -> Result<()> {
    run(cargo().args(["build", "--release", "-p", "cloud-cli"]))?;
    run_within(
        cargo().args([
            "run",
            "--release",
            "-p",
            "cloud-cli",
            "--",
            "demo",
            "--once",
        ]),
        Some(Duration::from_secs(180)),
    )
}

/// Where cargo-deny keeps its clone of the advisories.
fn advisory_database() -> bool {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")));
    home.and_then(|home| home.join("advisory-dbs").read_dir().ok())
        .is_some_and(|mut entries| entries.next().is_some())
}
