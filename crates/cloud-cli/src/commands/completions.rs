//! `completions`: generated from the definition of the command line.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::error::Result;
use crate::options::NAME;
use crate::output::write_raw;

/// Arguments of `completions`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  clesyde-cloud completions bash > /etc/bash_completion.d/clesyde-cloud"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn completions(arguments: &CompletionsArgs, mut root: Command) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut root, NAME, &mut script);
    write_raw(&script)
}
