//! The command line as clap reads it: global options and the list of commands. What a command takes stands beside the
//! command, in [`crate::commands`].

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::builder::Resettable;
use clap::builder::styling::{AnsiColor, Styles};
use clap::error::{ContextValue, ErrorKind};
use clap::parser::ValueSource;
use clap::{ArgAction, Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use cloud_facade::config::SerialNumber;
use directories::ProjectDirs;

use crate::commands::{cert, doctor, generate, messages, provision, reset, run, shadow, status};
#[cfg(feature = "sim")]
use crate::commands::{demo, sim};
use crate::failure::{Failure, Outcome};
use crate::logging::LogFormat;
use crate::terminal;
use crate::usage::without_secrets;
use crate::values::ApiUrl;

/// The program's name, as it is installed.
pub(crate) const NAME: &str = "clesyde-cloud";

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Examples of what there is beside the commands for a device.
const WITH_SIM: &str = if cfg!(feature = "sim") {
    "\
  See all of it work, on this machine alone
      clesyde-cloud demo --once

  A cloud for trying things out, in another terminal
      clesyde-cloud sim

"
} else {
    ""
};

fn examples() -> String {
    format!(
        "\
Examples:
{WITH_SIM}  Register a device, the key from a file that only you can read
      clesyde-cloud provision --sn SN0001 --api-url https://api.example.com --token-file key.txt

  Stay connected, and let the public reach a web application on this device
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

/// Options that every command knows, before or after its name.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalOptions {
    /// Directory that holds the device's `.clesydecloud` [default: $STATE_DIRECTORY, else the user's data directory]
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        env = "CLESYDE_BASE_PATH",
        hide_env_values = true
    )]
    base_path: Option<PathBuf>,

    /// The device's serial number: 1 to 128 of A-Z a-z 0-9 _ - . :
    #[arg(
        long,
        global = true,
        value_name = "SN",
        env = "CLESYDE_SN",
        hide_env_values = true
    )]
    pub(crate) sn: Option<SerialNumber>,

    /// Where the serial number comes from.
    #[arg(skip)]
    pub(crate) sn_source: Option<ValueSource>,

    /// The platform's provisioning API; http:// only on this machine
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = "CLESYDE_API_URL",
        hide_env_values = true
    )]
    pub(crate) api_url: Option<ApiUrl>,

    /// Reach API and broker through this HTTP proxy, http://HOST:PORT [default: HTTPS_PROXY or ALL_PROXY, but for what
    /// NO_PROXY names]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) proxy: Option<String>,

    /// How log lines on standard error look
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        value_enum,
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,

    /// Log more; twice for still more
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub(crate) verbose: u8,

    /// Log less; twice for still less
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) quiet: u8,

    /// Results as JSON, one object a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl GlobalOptions {
    /// Where the device's directory is, whether or not it is there yet.
    pub(crate) fn base_path(&self) -> Outcome<PathBuf> {
        if let Some(path) = &self.base_path {
            return Ok(path.clone());
        }
        // systemd sets this for `StateDirectory=`; of several, the first is ours.
        let state = std::env::var_os("STATE_DIRECTORY").filter(|value| !value.is_empty());
        if let Some(first) = state
            .as_ref()
            .and_then(|paths| std::env::split_paths(paths).next())
        {
            return Ok(first);
        }
        let directories = ProjectDirs::from("", "", NAME).ok_or_else(|| {
            Failure::Usage(
                "there is no home directory: say where to keep files with --base-path DIR"
                    .to_owned(),
            )
        })?;
        Ok(directories.data_dir().to_owned())
    }

    /// The serial number, for a command that cannot do without.
    pub(crate) fn require_sn(&self) -> Outcome<&SerialNumber> {
        self.sn.as_ref().ok_or_else(|| {
            Failure::Usage(
                "the serial number is missing: give it with --sn SN or in CLESYDE_SN".to_owned(),
            )
        })
    }

    /// The serial number's option or variable, whichever was given.
    pub(crate) fn sn_name(&self) -> &'static str {
        match self.sn_source {
            Some(ValueSource::EnvVariable) => "CLESYDE_SN",
            _ => "--sn",
        }
    }

    /// The API's address, for a command that cannot do without.
    pub(crate) fn require_api_url(&self) -> Outcome<&ApiUrl> {
        self.api_url.as_ref().ok_or_else(|| {
            Failure::Usage("the provisioning API's address is missing: give it with --api-url URL or in CLESYDE_API_URL".to_owned())
        })
    }
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Register this device with the platform
    Provision(provision::ProvisionArgs),
    /// Connect, and stay connected until SIGINT or SIGTERM
    Run(run::RunArgs),
    /// Show what is provisioned, and how a running instance is connected
    #[command(after_help = status::EXIT_CODES)]
    Status,
    /// Check the whole path to the cloud, and say what to do about what is wrong
    Doctor(doctor::DoctorArgs),
    /// Look at the device's certificates
    #[command(subcommand)]
    Cert(cert::CertCommand),
    /// Look at a shadow of the device, report to it, follow it
    Shadow(shadow::ShadowArgs),
    /// Publish one message
    Publish(messages::PublishArgs),
    /// Ask the platform one question, and show its answer
    Request(messages::RequestArgs),
    /// Remove the device's configuration
    Reset(reset::ResetArgs),
    /// Run a Clesyde cloud on this machine, for trying things out
    #[cfg(feature = "sim")]
    Sim(sim::SimArgs),
    /// Show everything at work: a cloud and a device in one process
    #[cfg(feature = "sim")]
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell
    Completions(generate::CompletionsArgs),
    /// Print the manual page, of the program or of one command
    Man(generate::ManArgs),
}

impl Command {
    /// Whether it goes on until it is told to stop, so that what changes meanwhile is worth a log line.
    pub(crate) fn is_long_running(&self) -> bool {
        match self {
            Self::Run(_) => true,
            #[cfg(feature = "sim")]
            Self::Sim(_) => true,
            _ => false,
        }
    }
}

/// Reads a command line, and the environment for what it lacks. A variable that is empty counts as none: EnvironmentFile= of
/// systemd and the files of container tools cannot leave one out as easily.
pub(crate) fn parse<I, T>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let mut command = without_empty_variables(Cli::command());
    let mut matches = command
        .try_get_matches_from_mut(arguments)
        .map_err(without_secrets)?;
    let sn_source = matches.value_source("sn");
    let mut cli = Cli::from_arg_matches_mut(&mut matches)
        .map_err(|error| without_secrets(error.format(&mut command)))?;
    cli.global.sn_source = sn_source;
    Ok(cli)
}

/// A command that does not look at variables that are empty.
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

/// Prints why a command line was not read, or the help or version that it asked for.
pub(crate) fn print(mut error: clap::Error) {
    // A closed standard output or standard error is ignored.
    if matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    ) {
        let _ = error.print();
        return;
    }
    // These hold arguments as they were given.
    let repeated: Vec<_> = error
        .context()
        .filter_map(|(kind, value)| match value {
            ContextValue::String(text) => Some((kind, terminal::line(text).into_owned())),
            _ => None,
        })
        .collect();
    for (kind, text) in repeated {
        error.insert(kind, ContextValue::String(text));
    }
    let message = error.render().to_string();
    let _ = io::stderr().write_all(terminal::text(&message).as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_stand_before_or_after_the_command() {
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
    fn every_command_and_option_has_a_help_text() {
        fn check(command: &clap::Command) {
            assert!(
                command.get_about().is_some(),
                "{} says nothing about itself",
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
