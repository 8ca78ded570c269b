//! The paths of the peers, from the environment variables that `cargo xtask interop` sets.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::process::Command;

/// The path in a required variable.
fn required(variable: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os(variable)
        .with_context(|| format!("{variable} is not set: run `cargo xtask interop`"))?;
    Ok(path.into())
}

/// The broker's program.
pub(crate) fn mosquitto() -> anyhow::Result<PathBuf> {
    required("INTEROP_MOSQUITTO")
}

/// SoftHSM's PKCS#11 module, where distributions install it.
pub(crate) fn softhsm() -> anyhow::Result<PathBuf> {
    [
        "/usr/lib/softhsm",
        "/usr/lib64/pkcs11",
        "/usr/lib64/softhsm",
    ]
    .iter()
    .map(|directory| Path::new(directory).join("libsofthsm2.so"))
    .find(|module| module.exists())
    .context("there is no SoftHSM: `cargo xtask setup` installs it")
}

/// The HTTP proxy's program.
pub(crate) fn squid() -> anyhow::Result<PathBuf> {
    required("INTEROP_SQUID")
}

/// The SOCKS 5 proxy's program.
pub(crate) fn microsocks() -> anyhow::Result<PathBuf> {
    required("INTEROP_MICROSOCKS")
}

/// The web server's program.
pub(crate) fn nginx() -> anyhow::Result<PathBuf> {
    required("INTEROP_NGINX")
}

/// Prometheus' tool for metrics and rules.
pub(crate) fn promtool() -> anyhow::Result<PathBuf> {
    required("INTEROP_PROMTOOL")
}

/// Our program.
pub(crate) fn program() -> anyhow::Result<PathBuf> {
    required("INTEROP_PROGRAM")
}

/// A Python with `uvicorn` and `grpcio`.
pub(crate) fn python_web() -> anyhow::Result<PathBuf> {
    required("INTEROP_PY_WEB")
}

/// A Python with `clesyde_cloud_lib` 0.1.2 and `snitun` 0.40.0.
pub(crate) fn python() -> anyhow::Result<PathBuf> {
    required("INTEROP_PY_CLESYDE")
}

/// A Python with AWS's SDK for devices.
pub(crate) fn python_aws_sdk() -> anyhow::Result<PathBuf> {
    required("INTEROP_PY_AWS_SDK")
}

/// A Python with `clesyde_cloud_lib` 0.1.20 and `snitun` 0.45.1.
pub(crate) fn python_clesyde_0120() -> anyhow::Result<Option<PathBuf>> {
    required_unless(
        "INTEROP_PY_CLESYDE_0120",
        "INTEROP_WITHOUT_CLESYDE_0120",
        "Python 3.12",
    )
}

/// A Python with `snitun` 0.47.0.
pub(crate) fn python_snitun_047() -> anyhow::Result<Option<PathBuf>> {
    required_unless(
        "INTEROP_PY_SNITUN_047",
        "INTEROP_WITHOUT_SNITUN_047",
        "Python 3.13",
    )
}

/// The path in a variable. `None` only where the environment says that there need be none: a
/// machine without `needed` must not look like one on which the tests have passed.
fn required_unless(variable: &str, without: &str, needed: &str) -> anyhow::Result<Option<PathBuf>> {
    if std::env::var_os(without).is_some_and(|value| value == "1") {
        return Ok(None);
    }
    let python = required(variable)
        .with_context(|| format!("it needs {needed}; {without}=1 leaves those tests out"))?;
    Ok(Some(python))
}

/// Runs one of the scripts in `tests/interop` with this Python.
pub(crate) fn script(python: &Path, name: &str) -> Command {
    let mut command = Command::new(python);
    command.arg("-u").arg(
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("interop")
            .join(name),
    );
    command
}
