//! The command line as clap parses it: global options and the list of commands. Each command
//! defines its own arguments, in [`crate::commands`].

use std::ffi::OsString;
use std::io::{self, Write};

use clap::builder::Resettable;
use clap::builder::styling::{AnsiColor, Styles};
use clap::error::{ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{cert, completions, doctor, messages, provision, reset, run, shadow, status};
#[cfg(feature = "sim")]
use crate::commands::{demo, sim};
use crate::options::{GlobalOptions, NAME};
use crate::terminal;
use crate::usage_error::redact_values;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Examples of the simulator's commands.
const WITH_SIM: &str = if cfg!(feature = "sim") {
    "\
  Demonstrate everything on this machine alone
      clesyde-cloud demo --once

  Run a simulated cloud, in another terminal
      clesyde-cloud sim

"
} else {
    ""
};

fn examples() -> String {
    format!(
        "\
Examples:
{WITH_SIM}  Register a device, with the key in a file that only you can read
      clesyde-cloud provision --sn SN0001 --api-url https://api.example.com --token-file key.txt

  Stay connected, and publish a web application on this device
      clesyde-cloud run --sn SN0001 --forward 127.0.0.1:8080

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not provisioned"
    )
}

/// Connects a device to the Clesyde cloud: provisioning, messaging and remote access.
#[derive(Debug, Parser)]
#[command(name = NAME, version, after_help = examples(), styles = STYLES, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalOptions,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register this device with the platform
    Provision(provision::ProvisionArgs),
    /// Connect, and stay connected until SIGINT or SIGTERM
    Run(Box<run::RunArgs>),
    /// Show the configuration and the connections of a running instance
    #[command(after_help = status::EXIT_CODES)]
    Status,
    /// Check the whole path to the cloud and suggest fixes
    Doctor(doctor::DoctorArgs),
    /// Show the device's certificates
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Get, report or watch a shadow of the device
    Shadow(shadow::ShadowArgs),
    /// Publish one message
    Publish(messages::PublishArgs),
    /// Send one request to the platform and print the response
    Request(messages::RequestArgs),
    /// Remove the device's configuration
    Reset(reset::ResetArgs),
    /// Run a simulated Clesyde cloud on this machine
    #[cfg(feature = "sim")]
    Sim(sim::SimArgs),
    /// Demonstrate everything: a cloud and a device in one process
    #[cfg(feature = "sim")]
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page of the program or of one command
    Man(completions::ManArgs),
}

impl Command {
    /// Whether the command runs until a signal stops it. Such commands log changes of state.
    pub(crate) fn is_long_running(&self) -> bool {
        match self {
            Self::Run(_) => true,
            #[cfg(feature = "sim")]
            Self::Sim(_) => true,
            _ => false,
        }
    }
}

/// Parses the command line, with environment variables for missing options. An empty variable
/// counts as unset: systemd's `EnvironmentFile=` and the environment files of container tools
/// cannot unset one.
pub(crate) fn parse<I, T>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let mut command = without_empty_variables(Cli::command());
    let mut matches = command
        .try_get_matches_from_mut(arguments)
        .map_err(redact_values)?;
    let sn_source = matches.value_source("sn");
    let mut cli = Cli::from_arg_matches_mut(&mut matches)
        .map_err(|error| redact_values(error.format(&mut command)))?;
    cli.global.sn_source = sn_source;
    Ok(cli)
}

/// Returns the command without the environment variables that are empty.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    command
        .mut_args(|argument| {
            let value = argument.get_env().and_then(std::env::var_os);
            if value.is_some_and(|value| value.is_empty()) {
                argument.env(Resettable::Reset)
            } else {
                argument
            }
        })
        .mut_subcommands(without_empty_variables)
}

/// Prints a parse error, or the requested help or version.
pub(crate) fn print_error(mut error: clap::Error) {
    // A closed output is ignored.
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let _ = error.print();
        return;
    }
    // These values contain arguments verbatim.
    let escaped: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, terminal::line(text).into_owned())),
            _ => None,
        })
        .collect();
    for (kind, text) in escaped {
        error.insert(kind, ContextValue::String(text));
    }
    let message = error.render().to_string();
    let _ = io::stderr().write_all(terminal::text(&message).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clap_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_are_accepted_before_and_after_command() {
        for line in [
            "clesyde-cloud --sn S --json -v reset",
            "clesyde-cloud reset -v --sn S --json",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.sn.unwrap().as_str(), "S");
            assert!(cli.global.json);
            assert_eq!(cli.global.verbose, 1);
        }
    }

    #[test]
    fn every_command_and_option_has_help() {
        fn check(command: &clap::Command) {
            assert!(
                command.get_about().is_some(),
                "{} has no help",
                command.get_name()
            );
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "{} {}",
                    command.get_name(),
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
