//! snitun's codec and multiplexer by themselves, without sockets: criterion shows the figures.

use anyhow::Result;

use crate::process::{cargo, run as run_command};

/// `arguments` go to criterion, such as the part of a name.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    for bench in ["codec", "mux"] {
        run_command(
            cargo()
                .args(["bench", "-p", "snitun", "--bench", bench, "--"])
                .args(arguments),
        )?;
    }
    Ok(())
}
