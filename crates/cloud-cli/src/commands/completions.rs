//! `completions` and `man`: generated from the definition of the command line.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::error::{CliError, Result};
use crate::options::NAME;
use crate::output::write_raw;
use crate::redact::Redacted;

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

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clesyde-cloud man run | man -l -")]
pub(crate) struct ManArgs {
    /// The command that the page documents [default: the program]
    #[arg(value_name = "COMMAND", num_args = 0..)]
    command: Vec<String>,
}

pub(crate) fn completions(arguments: &CompletionsArgs, mut root: Command) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut root, NAME, &mut script);
    write_raw(&script)
}

pub(crate) fn man(arguments: &ManArgs, mut root: Command) -> Result {
    root.build();
    let mut command = &root;
    for name in &arguments.command {
        command = command
            .find_subcommand(name)
            .ok_or_else(|| CliError::Usage(format!("there is no command {}", Redacted(name))))?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(|error| CliError::with_cause("could not write the manual page", &error))?;
    write_raw(&page)
}
