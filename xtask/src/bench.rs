//! Benchmarks against programs that we did not write: `cargo xtask bench NAME`.
//!
//! What a benchmark needs beside our own code is looked for here and named when it is missing; the measuring itself is a bench
//! target of the crate in question. Figures and what they mean: `docs/benchmarks.md`. Not run by `ci`: they need a quiet
//! machine, and nothing fails when they are slow.

mod codec;
mod messaging;
mod tunnel;

use anyhow::{Result, bail};

/// Runs a benchmark with the arguments behind its name.
type Bench = fn(&[String]) -> Result<()>;

const BENCHES: &[(&str, Bench)] = &[
    ("codec", codec::run),
    ("messaging", messaging::run),
    ("tunnel", tunnel::run),
];

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let names: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
    let Some((wanted, rest)) = arguments.split_first() else {
        println!("benchmarks: {}", names.join(", "));
        return Ok(());
    };
    match BENCHES.iter().find(|(name, _)| name == wanted) {
        Some((_, bench)) => bench(rest),
        None => bail!(
            "there is no benchmark `{wanted}`, only {}",
            names.join(", ")
        ),
    }
}
