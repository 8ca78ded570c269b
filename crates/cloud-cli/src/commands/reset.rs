//! `reset`: removes the configuration, after a question.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::Path;

use clap::Args;
use serde_json::json;

use crate::cli::GlobalOptions;
use crate::commands::{store, store_failure};
use crate::failure::{Failure, Outcome, is_directory_shown, shown_directory};
use crate::output::Output;

/// What `reset` takes.
#[derive(Debug, Args)]
#[command(after_help = "The platform is not told: the device's registration there stays.")]
pub(crate) struct ResetArgs {
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) fn run(global: &GlobalOptions, arguments: &ResetArgs, output: Output) -> Outcome {
    let store = store(global)?;
    let directory = store.directory().to_owned();
    if directory.exists() && !arguments.yes && !confirmed(&directory)? {
        return Err(Failure::Failed("nothing was removed".to_owned()));
    }
    let removed = store
        .remove()
        .map_err(|error| store_failure("could not remove the configuration", &error))?;
    let shown = shown_directory(&directory);
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

/// Asks on the terminal. Without one there is nobody to ask, and nothing is done.
fn confirmed(directory: &Path) -> Outcome<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::Failed(
            "nothing was removed: there is no terminal to ask on; say --yes if you mean it"
                .to_owned(),
        ));
    }
    let mut stderr = io::stderr();
    let asked = write!(
        stderr,
        "Remove the configuration and the private keys in {directory:?}? The device must then be provisioned anew. [y/N] "
    );
    let mut answer = String::new();
    asked
        .and_then(|()| stderr.flush())
        .and_then(|()| io::stdin().lock().read_line(&mut answer))
        .map_err(|error| Failure::because("could not ask", &error))?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "y" | "yes"
    ))
}
