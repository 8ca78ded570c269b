//! Our device, relay and simulator against peers that we did not write.
//!
//! The tests live in `tests/tests/interop/` behind the feature `interop`; this names the tools to
//! them in variables and runs them. A tool that is missing fails the run. Without Python 3.13 or
//! 3.12, which not every machine has, `INTEROP_WITHOUT_SNITUN_047=1` and
//! `INTEROP_WITHOUT_CLESYDE_0120=1` let the others run all the same; so does the latter for a user
//! that may not listen on port 443.

use anyhow::Result;

use crate::process::{cargo, run as run_command};
use crate::setup;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let tools = setup::run()?;
    let mut command = cargo();
    // The whole workspace, so that every dependency has the features it has in `cargo xtask test`
    // and is built once for both.
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
        .env("INTEROP_PY_AWS_SDK", &tools.python.aws_sdk);
    for (variable, python) in [
        ("INTEROP_PY_CLESYDE_0120", &tools.python.clesyde_0120),
        ("INTEROP_PY_SNITUN_047", &tools.python.snitun_047),
    ] {
        match python {
            Some(python) => command.env(variable, python),
            None => command.env_remove(variable),
        };
    }
    run_command(&mut command)
}
