//! Our device, relay and simulator against peers that we did not write.
//!
//! The tests live in `tests/tests/interop/` behind the feature `interop`; this names the tools to them in
//! variables and runs them. A tool that is missing fails the run. Without Python 3.13, which not every machine has,
//! `INTEROP_WITHOUT_SNITUN_047=1` lets the others run all the same.

use anyhow::Result;

use crate::process::{cargo, run as run_command};
use crate::setup;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let tools = setup::run()?;
    let mut command = cargo();
    // The whole workspace, so that every dependency has the features it has in `cargo xtask test` and is
    // built once for both.
    command
        .args([
            "test",
            "--workspace",
            "--features",
            "integration-tests/interop",
            "--test",
            "interop",
        ])
        .args(arguments)
        .env("INTEROP_MOSQUITTO", &tools.mosquitto)
        .env("INTEROP_SQUID", &tools.squid)
        .env("INTEROP_MICROSOCKS", &tools.microsocks)
        .env("INTEROP_PY_CLESYDE", &tools.python.clesyde)
        .env_remove("INTEROP_PY_SNITUN_047");
    if let Some(python) = &tools.python.snitun_047 {
        command.env("INTEROP_PY_SNITUN_047", python);
    }
    run_command(&mut command)
}
