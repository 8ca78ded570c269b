//! `completions` and `man`: made from the definition of the command line, so they are never out of date.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::cli::{Cli, NAME};
use crate::failure::{Failure, Outcome};
use crate::output::write_raw;
use crate::possible_secret::Shown;

/// What `completions` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  clesyde-cloud completions bash > /etc/bash_completion.d/clesyde-cloud"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// What `man` takes.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  clesyde-cloud man run | man -l -")]
pub(crate) struct ManArgs {
    /// The command that the page is about [default: the program]
    #[arg(value_name = "COMMAND", num_args = 0..)]
    command: Vec<String>,
}

pub(crate) fn completions(arguments: &CompletionsArgs) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Cli::command(), NAME, &mut script);
    write_raw(&script)
}

pub(crate) fn man(arguments: &ManArgs) -> Outcome {
    let mut root = Cli::command();
    root.build();
    let mut command = &root;
    for name in &arguments.command {
        command = command.find_subcommand(name).ok_or_else(|| {
            Failure::Usage(format!(
                "there is no command {} to print a page about",
                Shown(name)
            ))
        })?;
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(|error| Failure::because("could not write the manual page", &error))?;
    write_raw(&page)
}
