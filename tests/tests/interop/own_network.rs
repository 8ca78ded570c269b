//! A network of a test's own, in which every port is free and permitted.
//!
//! The Python library knows no other ports than 8883 and 443 (8443), and another program of the
//! machine may have them. So the test runs once more, in a network namespace with a loopback
//! interface alone.

use std::process::Command;

use anyhow::{Context, ensure};
use tokio::sync::Mutex;

/// Set in the namespace.
const INSIDE: &str = "INTEROP_INSIDE_OWN_NETWORK";

/// Starts the loopback interface, and then the program of the arguments.
const WITH_LOOPBACK: &str = r#"ip link set lo up && exec "$0" "$@""#;

/// Where no namespace can be made, the tests take turns with the ports of the machine.
static PORTS: Mutex<()> = Mutex::const_new(());

/// Runs the body of the test `name`, its path in this program, in a network of its own, or in that
/// of the machine where none can be made.
pub(crate) fn run(
    name: &str,
    body: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    if std::env::var_os(INSIDE).is_none() && namespaces_are_permitted() {
        return run_inside(name);
    }
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?
        .block_on(async {
            let _ports = PORTS.lock().await;
            body.await
        })
}

fn in_namespace(program: &std::path::Path) -> Command {
    let mut command = Command::new("unshare");
    // A user namespace as well gives the permission that a user without privileges lacks.
    command.args(["--net", "--map-root-user", "--"]);
    command.args(["sh", "-ec", WITH_LOOPBACK]).arg(program);
    command
}

fn namespaces_are_permitted() -> bool {
    let output = in_namespace("true".as_ref()).output();
    let permitted = output.as_ref().is_ok_and(|output| output.status.success());
    if !permitted {
        eprintln!(
            "no network namespace can be made here, so the ports have to be free: {output:?}"
        );
    }
    permitted
}

fn run_inside(name: &str) -> anyhow::Result<()> {
    let output = in_namespace(&std::env::current_exe()?)
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .context("cannot run `unshare`")?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    println!("{stdout}\n{stderr}");
    // A wrong name runs no test, which libtest calls a success.
    ensure!(
        output.status.success() && stdout.contains("1 passed"),
        "the test failed in its network: {}",
        output.status
    );
    Ok(())
}
