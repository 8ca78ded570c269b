//! The command line as clap parses it: global options and the list of commands. Each command
//! defines its own arguments, in [`crate::commands`].

use std::ffi::OsString;
use std::io::{self, Write};

use clap::builder::styling::{AnsiColor, Styles};
use clap::error::{ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{
    cert, completions, config, doctor, manual, messages, provision, reset, run, service, shadow,
    status,
};
#[cfg(feature = "sim")]
use crate::commands::{demo, sim};
use crate::logging::LogLevel;
use crate::options::{GlobalOptions, NAME};
use crate::proxy;
use crate::settings::definition::{Definition, with_variables};
use crate::settings::{Origin, Settings};
use crate::terminal;
use crate::usage_error::redact_values;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Examples of the simulator's commands.
const WITH_SIM: &str = if cfg!(feature = "sim") {
    // A line break after a backslash would take the indentation with it.
    "  Demonstrate everything on this machine alone
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

    /// Where the values come from.
    #[arg(skip)]
    pub(crate) settings: Settings,
}

impl Cli {
    /// Returns how much to log. `RUST_LOG` precedes the configuration file only.
    pub(crate) fn log_level(&self) -> LogLevel {
        let is_given = |key| {
            let setting = self.settings.get(key);
            setting.is_some_and(|setting| !matches!(setting.origin, Origin::File(_)))
        };
        LogLevel {
            verbose: self.global.verbose,
            quiet: self.global.quiet,
            precedes_rust_log: is_given("verbose") || is_given("quiet"),
            long_running: self.command.is_long_running(),
        }
    }
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
    /// Print the messages of a topic, until SIGINT or SIGTERM
    Subscribe(messages::SubscribeArgs),
    /// Print the events of a running instance, as `run --json` does
    #[command(after_help = messages::EVENTS_DETAILS)]
    Events,
    /// Send one request to the platform and print the response
    Request(messages::RequestArgs),
    /// Show the settings, or check the configuration file
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Remove the device's configuration
    Reset(reset::ResetArgs),
    /// Install or remove the program as a service of systemd, or show its state
    Service(service::ServiceArgs),
    /// Run a simulated Clesyde cloud on this machine
    #[cfg(feature = "sim")]
    Sim(sim::SimArgs),
    /// Demonstrate everything: a cloud and a device in one process
    #[cfg(feature = "sim")]
    Demo(demo::DemoArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
    /// Print the manual page of the program or of one command
    Man(manual::ManArgs),
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

/// Returns the definition of the command line, as help and manual pages show it.
pub(crate) fn documented() -> clap::Command {
    without_ignored_options(with_variables(Cli::command()))
}

/// Hides the global options that a command accepts but ignores.
fn without_ignored_options(program: clap::Command) -> clap::Command {
    IGNORED_OPTIONS
        .iter()
        .fold(program, |root, (command, ignored)| {
            let is_ignored = |argument: &&clap::Arg| ignored.contains(&argument.get_id().as_str());
            let hidden: Vec<_> = root
                .get_arguments()
                .filter(is_ignored)
                .map(|argument| argument.clone().hide(true))
                .collect();
            // Absent in a build without it.
            if root.find_subcommand(command).is_none() {
                return root;
            }
            // A command's own definition takes the place of the global one.
            root.mut_subcommand(command, |subcommand| subcommand.args(hidden))
        })
}

/// Global options that commands ignore.
const IGNORED_OPTIONS: [(&str, &[&str]); 4] = [
    ("sim", &["base_path", "sn", "api_url", "proxy"]),
    ("demo", &["base_path", "api_url", "proxy"]),
    (
        "completions",
        &["base_path", "sn", "api_url", "proxy", "json"],
    ),
    ("man", &["base_path", "sn", "api_url", "proxy", "json"]),
];

/// Returns the settings of the program.
pub(crate) fn settings() -> Definition {
    Definition::settings(&Cli::command())
}

/// Parses the command line, with environment variables and the configuration file for what it does
/// not set.
pub(crate) fn parse<I, T>(arguments: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let mut command = Cli::command();
    let matches = match command.try_get_matches_from_mut(&arguments) {
        Ok(matches) => matches,
        Err(error) if is_help(&error) => {
            let shown = documented().try_get_matches_from(&arguments);
            return Err(shown.err().unwrap_or(error));
        }
        Err(error) => return Err(redact_values(error)),
    };
    let is_run = matches.subcommand_name() == Some("run");
    let definition = settings();
    let settings = Settings::collect(&definition, &matches, arguments)?;
    let merged = settings.merged_arguments(&definition, is_run);
    let mut matches = command
        .try_get_matches_from_mut(merged)
        .map_err(redact_values)?;
    let mut cli = Cli::from_arg_matches_mut(&mut matches)
        .map_err(|error| redact_values(error.format(&mut command)))?;
    cli.global.sn_name = settings.name("sn");
    let proxy = settings.get("proxy").map(|setting| setting.origin);
    if let (Some(Origin::Option), Some(url)) = (proxy, &cli.global.proxy) {
        proxy::refuse_credentials(url)?;
    }
    cli.settings = settings;
    Ok(cli)
}

fn is_help(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// Returns a parse error as one line.
pub(crate) fn error_line(error: &clap::Error) -> String {
    let message = error.render().to_string();
    let first = message.lines().next().unwrap_or_default();
    let first = first.strip_prefix("error: ").unwrap_or(first);
    terminal::line(first).into_owned()
}

/// Prints a parse error, or the requested help or version.
pub(crate) fn print_error(mut error: clap::Error) {
    // A closed output is ignored.
    if is_help(&error) || error.kind() == ErrorKind::DisplayVersion {
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
    use crate::settings::file;
    use crate::settings::reference::{route_table, table, template};

    #[test]
    fn clap_definition_is_consistent() {
        documented().debug_assert();
    }

    #[test]
    fn examples_are_indented_alike() {
        let examples = examples();
        let lines = examples.lines().filter(|line| line.starts_with("  "));
        assert_eq!(lines.count(), if cfg!(feature = "sim") { 8 } else { 4 });
    }

    #[test]
    fn ignored_options_are_accepted_but_not_listed() {
        for (name, ignored) in IGNORED_OPTIONS {
            let mut root = documented();
            root.build();
            let Some(subcommand) = root.find_subcommand(name) else {
                continue;
            };
            let help = subcommand.clone().render_long_help().to_string();
            for id in ignored {
                let option = format!("--{}", id.replace('_', "-"));
                let is_listed = |line: &str| line.trim_start().starts_with(&option);
                assert!(!help.lines().any(is_listed), "{name} {id}: {help}");
            }
            assert!(help.contains("--verbose"), "{name}: {help}");
        }
        let line = "clesyde-cloud demo --once --api-url https://a.example.com --base-path /x";
        let matches = Cli::command()
            .try_get_matches_from(line.split(' '))
            .unwrap();
        let cli = Cli::from_arg_matches(&matches).unwrap();
        assert_eq!(cli.global.base_path().unwrap(), std::path::Path::new("/x"));
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

    #[test]
    fn template_has_every_key_with_a_value_of_its_type() {
        let is_setting =
            |line: &&str| line.starts_with('#') && !line.starts_with("# ") && *line != "#";
        let template = template(&settings());
        let lines: Vec<_> = template.lines().filter(is_setting).collect();
        let text: String = lines
            .iter()
            .map(|line| format!("{}\n", &line[1..]))
            .collect();
        let definition = settings();
        let content = file::parse(&text, &definition);
        assert_eq!(content.problems, []);
        assert_eq!(content.entries.len(), definition.options().count());
        let keys = content.routes[0].entries.len();
        assert_eq!(keys, Definition::route().options().count());
        assert!(template.lines().all(|line| line.len() <= 120));
        assert_eq!(file::parse(&template, &definition).entries.len(), 0);
    }

    #[test]
    fn documentation_has_the_table_of_all_settings() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        let text = std::fs::read_to_string(path).unwrap();
        for table in [table(&settings()), route_table()] {
            assert!(
                text.contains(&table),
                "docs/configuration.md needs this table:\n{table}"
            );
        }
    }
}
