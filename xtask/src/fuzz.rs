//! Fuzzing snitun: `cargo xtask fuzz TARGET --secs N`.
//!
//! The targets are the binaries of `fuzz/`, which a nightly compiler builds with a sanitizer. They
//! start from the inputs in `crates/snitun/tests/corpus`, which `cargo test` replays, and write new
//! inputs to `fuzz/corpus` and failing ones to `fuzz/artifacts`. `ci` does not fuzz.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process::{cargo, find_program, run as run_command, with_retries};
use crate::workspace;

/// How long a target runs by default.
const SECS: &str = "60";
/// Longest input in bytes: enough for any header, token or a few hundred operations.
const MAX_LEN: &str = "6000";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let root = workspace::root();
    let corpus = root.join("crates/snitun/tests/corpus");
    let (target, secs) = match arguments {
        [] => {
            let mut names: Vec<String> = corpus
                .read_dir()?
                .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
                .collect::<Result<_>>()?;
            names.sort();
            println!("targets: {}", names.join(", "));
            return Ok(());
        }
        [target] => (target, SECS),
        [target, flag, secs] if flag == "--secs" => (target, secs.as_str()),
        _ => bail!("usage: cargo xtask fuzz TARGET [--secs N]"),
    };
    let seeds = corpus.join(target);
    if !seeds.is_dir() {
        bail!("there is no target `{target}`; `cargo xtask fuzz` names them");
    }
    let secs: u32 = secs.parse().context("--secs takes a number of seconds")?;
    let found = root.join("fuzz/corpus").join(target);
    std::fs::create_dir_all(&found)?;
    run_command(
        Command::new("rustup")
            .args(["run", "nightly"])
            .arg(cargo_fuzz()?)
            .args(["run", target])
            .args([&found, &seeds])
            .arg("--")
            .args([
                format!("-max_total_time={secs}"),
                format!("-max_len={MAX_LEN}"),
                "-print_final_stats=1".to_owned(),
            ])
            .current_dir(root.join("fuzz"))
            // `cargo fuzz` needs another compiler than this workspace.
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN"),
    )
}

/// cargo-fuzz: one that is installed, or one built under the target directory.
fn cargo_fuzz() -> Result<PathBuf> {
    let root = workspace::target_directory()?.join("tools");
    let built = root.join("bin").join("cargo-fuzz");
    if let Some(found) =
        find_program("cargo-fuzz").or_else(|| built.exists().then(|| built.clone()))
    {
        return Ok(found);
    }
    println!("building cargo-fuzz, which takes a minute once");
    with_retries("installing cargo-fuzz", || {
        run_command(
            cargo()
                .args(["install", "--quiet", "--locked", "cargo-fuzz", "--root"])
                .arg(&root),
        )
    })?;
    Ok(built)
}
