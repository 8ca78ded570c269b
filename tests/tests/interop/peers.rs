//! Where the peers are, as `cargo xtask interop` tells.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::process::Command;

/// The path in a variable that has to be there.
fn required(variable: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os(variable)
        .with_context(|| format!("{variable} is not set: run `cargo xtask interop`"))?;
    Ok(path.into())
}

/// The broker's program.
pub(crate) fn mosquitto() -> anyhow::Result<PathBuf> {
    required("INTEROP_MOSQUITTO")
}

/// The HTTP proxy's program.
pub(crate) fn squid() -> anyhow::Result<PathBuf> {
    required("INTEROP_SQUID")
}

/// The SOCKS 5 proxy's program.
pub(crate) fn microsocks() -> anyhow::Result<PathBuf> {
    required("INTEROP_MICROSOCKS")
}

/// A Python with `clesyde_cloud_lib` 0.1.2 and `snitun` 0.40.0.
pub(crate) fn python() -> anyhow::Result<PathBuf> {
    required("INTEROP_PY_CLESYDE")
}

/// A Python with `snitun` 0.47.0. `None` only where the environment says that there need be none: a machine
/// without Python 3.13 must not look like one on which they have passed.
pub(crate) fn python_snitun_047() -> anyhow::Result<Option<PathBuf>> {
    const WITHOUT: &str = "INTEROP_WITHOUT_SNITUN_047";
    if std::env::var_os(WITHOUT).is_some_and(|value| value == "1") {
        return Ok(None);
    }
    let python = required("INTEROP_PY_SNITUN_047")
        .with_context(|| format!("it needs Python 3.13; {WITHOUT}=1 leaves those tests out"))?;
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
