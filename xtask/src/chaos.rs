//! Many seeds of the chaos test: the default suite runs a few, so that nobody waits for them.
//!
//! Without arguments 500 fresh ones, some minutes on two cores. A seed that fails is printed, with all that was done, and
//! `cargo xtask chaos --seed SEED` makes it again.

use anyhow::{Result, bail};

use crate::process::{cargo, run as run_command};

/// What CI runs. A fault that hits one run in a hundred is missed by less than one in a hundred of these.
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
    // Of the whole workspace, with its features: for one package alone half the tree would be built again.
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
