//! Everything that must hold before a change lands, cheapest first, the tests last.
//!
//! The order of the steps lets each use the build of the one before: one debug build for examples,
//! interop tests and tests, and one release build for the demonstration, the
//! applications and the attacks.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cargo_metadata::MetadataCommand;

use crate::{
    apps, attack, chaos, check, docs, imports, interop, layering, publish, test, tidy, workspace,
};

type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("lock file", lock_file),
    ("format", check::format),
    ("layering", layering::run),
    ("imports", imports::run),
    ("tidy", tidy::run),
    ("publish", publish::check),
    ("clippy", check::clippy),
    ("alone", check::each_alone),
    ("docs", check::docs),
    ("book", docs::book),
    ("policy", check::policy),
    ("build", check::build_tests),
    ("examples", check::examples),
    ("demo", check::demo),
    ("interop", || interop::run(&[])),
    // With the tools that `interop` installs.
    ("snippets", check::snippets),
    ("apps", apps::light),
    ("attack", attack::short),
    ("chaos", || chaos::run(&[])),
];

pub(crate) fn run() -> Result<()> {
    let begin = Instant::now();
    for (name, step) in STEPS {
        let took = timed(name, *step)?;
        println!("-- {name}: done in {} s", took.as_secs());
    }
    println!("-- all but the tests: {} s", begin.elapsed().as_secs());
    // Last, so that the output ends with the summary of the tests.
    timed("test", || test::run(&[])).map(drop)
}

fn timed(name: &str, step: impl FnOnce() -> Result<()>) -> Result<Duration> {
    println!("\n== {name}");
    let begin = Instant::now();
    step()
        .with_context(|| format!("step `{name}` failed after {} s", begin.elapsed().as_secs()))?;
    Ok(begin.elapsed())
}

/// `Cargo.lock` is committed and fits the manifests, so that every build is the same.
fn lock_file() -> Result<()> {
    let tracked = workspace::tracked_files()?;
    ensure!(
        tracked.iter().any(|file| file.as_os_str() == "Cargo.lock"),
        "Cargo.lock is not in git"
    );
    MetadataCommand::new()
        .manifest_path(workspace::root().join("Cargo.toml"))
        .other_options(["--locked".to_owned()])
        .exec()
        .context("Cargo.lock does not fit the manifests: run `cargo check` and commit it")?;
    println!("Cargo.lock is committed and up to date");
    Ok(())
}
