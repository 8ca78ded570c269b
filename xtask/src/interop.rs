//! The device, relay and simulator against other implementations.
//!
//! The tests are in `tests/tests/interop/` and need the feature `interop`. This command passes the
//! paths of the tools to them in environment variables. A missing tool fails the run. Without
//! Python 3.13 or 3.12, `INTEROP_WITHOUT_SNITUN_047=1` and `INTEROP_WITHOUT_CLESYDE_0120=1` omit
//! the tests that need them; the latter also where neither a network namespace can be made nor port
//! 443 listened on.

use anyhow::Result;

use crate::attack::built;
use crate::process::{cargo, run as run_command};
use crate::setup;

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let tools = setup::run()?;
    // With the features of the whole workspace, as below.
    run_command(cargo().args(["build", "--workspace", "--bin", "clesyde-cloud"]))?;
    let mut command = cargo();
    // The whole workspace, so that dependencies have the features of `cargo xtask test` and are
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
        .env("INTEROP_NGINX", &tools.nginx)
        .env("INTEROP_PROGRAM", built("debug", "clesyde-cloud")?)
        .env("INTEROP_PROMTOOL", &tools.promtool)
        .env("INTEROP_PY_WEB", &tools.python.web)
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
    run_command(&mut command)?;
    // The documentation of the control socket, with curl and Python.
    let examples = [
        "--test",
        "it",
        "control_examples_of_documentation_run",
        "--",
        "--ignored",
    ];
    run_command(cargo().args(["test", "--workspace"]).args(examples))
}
