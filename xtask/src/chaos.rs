//! Many seeds of the chaos test, of which `cargo test` runs a few.
//!
//! Without arguments it runs 500 new seeds, which takes some minutes on two cores. It prints a seed
//! that fails, with the steps of the run; `cargo xtask chaos --seed SEED` repeats the run.

use anyhow::{Result, bail};

use crate::process::{cargo, run as run_command};

/// Runs in CI. They find a fault that occurs in one of 100 runs with a probability of 99 %.
const SEEDS: &str = "500";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let (variable, value) = match arguments {
        [] => ("CHAOS_SEEDS", SEEDS),
        [flag, number] if flag == "--seeds" => ("CHAOS_SEEDS", number.as_str()),
        [flag, number] if flag == "--seed" => ("CHAOS_SEED", number.as_str()),
        _ => bail!("`chaos` takes `--seeds NUMBER` or `--seed SEED`, but was given {arguments:?}"),
    };
    if value.parse::<u64>().is_err() {
        bail!("`{value}` is not a number");
    }
    let mut command = cargo();
    // With the features of the whole workspace, to avoid a second build of the dependencies.
    command
        .args([
            "test",
            "--workspace",
            "--test",
            "chaos",
            "--",
            "--nocapture",
        ])
        .env(variable, value);
    run_command(&mut command)
}
