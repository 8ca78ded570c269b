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

/// A Python with `clesyde_cloud_lib` 0.1.2 and `snitun` 0.40.0.
pub(crate) fn python() -> anyhow::Result<PathBuf> {
    required("INTEROP_PY_CLESYDE")
}

/// A Python with `snitun` 0.47.0, if Python is new enough for it on this machine; `cargo xtask interop` says it if not.
pub(crate) fn python_snitun_047() -> Option<PathBuf> {
    std::env::var_os("INTEROP_PY_SNITUN_047").map(Into::into)
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
