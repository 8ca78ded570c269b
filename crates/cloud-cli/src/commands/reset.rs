//! `reset`: removes the configuration, after a confirmation.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use clap::Args;
use serde_json::json;

use crate::commands::store;
use crate::error::{CliError, Result, is_directory_shown, redacted_directory};
use crate::options::GlobalOptions;
use crate::output::Output;

/// Arguments of `reset`.
#[derive(Debug, Args)]
#[command(after_help = "The platform is not notified: the device stays registered there.")]
pub(crate) struct ResetArgs {
    /// Do not ask for confirmation
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(global: &GlobalOptions, arguments: &ResetArgs, output: &Output) -> Result {
    let store = store(global)?;
    let directory = store.directory().to_owned();
    if directory.exists() && !arguments.yes && !confirmed(&directory)? {
        return Err(CliError::Failed("nothing was removed".to_owned()));
    }
    let removed = store
        .remove()
        .map_err(|error| CliError::from_store("could not remove the configuration", &error))?;
    let shown = redacted_directory(&directory);
    let line = if removed {
        format!("removed the configuration in {shown}")
    } else {
        format!("there was no configuration in {shown}")
    };
    output.result(
        &json!({
            "event": "reset",
            "removed": removed,
            "directory": is_directory_shown(&directory).then_some(&directory),
        }),
        line,
    )
}

/// Asks for confirmation on the terminal.
///
/// # Errors
/// There is no terminal.
fn confirmed(directory: &Path) -> Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(CliError::Failed(
            "nothing was removed: there is no terminal for the confirmation; confirm with --yes"
                .to_owned(),
        ));
    }
    let mut stderr = io::stderr();
    let asked = write!(
        stderr,
        "Remove the configuration and the private keys in {directory:?}? The device must then be provisioned again. [y/N] "
    );
    let mut answer = String::new();
    asked
        .and_then(|()| stderr.flush())
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(|error| CliError::with_cause("could not ask for confirmation", &error))?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}
