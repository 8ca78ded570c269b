//! `man`: manual pages, generated from the definition of the command line, with what stands in no
//! definition: further variables, files and exit codes.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use crate::error::{CliError, Result};
use crate::output::write_raw;
use crate::redact::Redacted;

/// Arguments of `man`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  clesyde-cloud man run | man -l -\n  clesyde-cloud man --all /usr/share/man/man1"
)]
pub(crate) struct ManArgs {
    /// The command that the page documents [default: the program]
    #[arg(value_name = "COMMAND", num_args = 0..)]
    command: Vec<String>,

    /// Write the pages of the program and of all commands into this directory
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    all: Option<PathBuf>,
}

/// Variables that no option names, and the commands that read them; none is all.
const VARIABLES: &[(&str, &[&str], &str)] = &[
    (
        "CLESYDE_TOKEN",
        &["provision"],
        "The provisioning key, if --token-file is not given.",
    ),
    (
        "STATE_DIRECTORY",
        CLOUD_COMMANDS,
        "The base path, if --base-path is not given; systemd sets it.",
    ),
    (
        "HTTPS_PROXY, ALL_PROXY, NO_PROXY",
        CLOUD_COMMANDS,
        "The proxy, if --proxy is not given, and the hosts that are reached without it.",
    ),
    (
        "NOTIFY_SOCKET, WATCHDOG_USEC",
        &["run"],
        "Where systemd is notified, and how often; systemd sets them.",
    ),
    (
        "RUST_LOG",
        &[],
        "The level of log lines, such as info,cloud_iot=debug, if neither -v nor -q is given.",
    ),
    ("NO_COLOR", &[], "If not empty, log lines have no colours."),
];

/// The commands that use a device's directory or the network.
const CLOUD_COMMANDS: &[&str] = &[
    "provision",
    "run",
    "status",
    "doctor",
    "cert",
    "shadow",
    "publish",
    "subscribe",
    "request",
    "events",
    "config",
    "reset",
    "service",
];

/// Files, and the commands that use them; none is the program's own page.
const FILES: &[(&str, &[&str], &str)] = &[
    (
        "BASE_PATH/.clesydecloud/",
        CLOUD_COMMANDS,
        "The configuration, certificates and keys of the device, for its owner alone. BASE_PATH is \
         --base-path, else $STATE_DIRECTORY, else ~/.local/share/clesyde-cloud.",
    ),
    (
        "/var/lib/clesyde-cloud/",
        &["run", "service"],
        "The base path of the service.",
    ),
    (
        "BASE_PATH/clesyde-cloud.toml, /etc/clesyde/clesyde-cloud.toml",
        CLOUD_COMMANDS,
        "The settings, if --config does not name another file; clesyde-cloud config template prints one.",
    ),
    (
        "/etc/default/clesyde-cloud",
        &["run", "service"],
        "The environment of the service, for root alone: CLESYDE_SN and other variables.",
    ),
    (
        "DATA_DIR/simulator.json, ca.pem, public-root.pem, control-token",
        &["sim"],
        "What --data-dir keeps: the simulated cloud, the roots to trust, and the token of the control API.",
    ),
];

const EXIT_CODES: &[(&str, &str)] = &[
    ("0", "Done."),
    ("1", "Failed."),
    ("2", "Wrong usage: nothing was sent or written."),
    ("3", "The device is not provisioned."),
];

pub(crate) fn man(arguments: &ManArgs, mut root: Command) -> Result {
    root.build();
    if let Some(directory) = &arguments.all {
        return write_all(&root, "", directory);
    }
    let mut command = &root;
    for name in &arguments.command {
        command = command
            .find_subcommand(name)
            .ok_or_else(|| CliError::Usage(format!("there is no command {}", Redacted(name))))?;
    }
    let top = arguments.command.first().map_or("", String::as_str);
    write_raw(&page(command, top)?)
}

/// Writes the page of a command, and those of its subcommands. `top` is the command below the
/// program that it belongs to.
fn write_all(command: &Command, top: &str, directory: &Path) -> Result {
    let path = directory.join(Man::new(command.clone()).get_filename());
    fs::write(&path, page(command, top)?)
        .map_err(|error| CliError::with_path("could not write", &path, &error))?;
    let subcommands = command.get_subcommands();
    // The help command repeats all others.
    for subcommand in subcommands.filter(|subcommand| subcommand.get_name() != "help") {
        let top = if top.is_empty() {
            subcommand.get_name()
        } else {
            top
        };
        write_all(subcommand, top, directory)?;
    }
    Ok(())
}

fn page(command: &Command, top: &str) -> Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone())
        .render(&mut page)
        .and_then(|()| sections(command, top).to_writer(&mut page))
        .map_err(|error| CliError::with_cause("could not write the manual page", &error))?;
    Ok(page)
}

/// The sections ENVIRONMENT, FILES, EXIT STATUS and SEE ALSO.
fn sections(command: &Command, top: &str) -> Roff {
    let mut roff = Roff::new();
    roff.control("SH", ["ENVIRONMENT"]);
    for argument in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        if let (Some(variable), Some(option)) = (argument.get_env(), argument.get_long()) {
            let text = format!("The value of --{option}, if that is not given.");
            entry(&mut roff, &variable.to_string_lossy(), &text);
        }
    }
    for (variable, commands, text) in VARIABLES {
        if commands.is_empty() || commands.contains(&top) {
            entry(&mut roff, variable, text);
        }
    }
    let files: Vec<_> = FILES
        .iter()
        .filter(|(_, commands, _)| top.is_empty() || commands.contains(&top))
        .collect();
    roff.control("SH", ["FILES"]);
    if files.is_empty() {
        roff.text([roman("None.")]);
    }
    for (file, _, text) in files {
        entry(&mut roff, file, text);
    }
    roff.control("SH", ["EXIT STATUS"]);
    for (code, text) in EXIT_CODES {
        entry(&mut roff, code, text);
    }
    if !top.is_empty() {
        roff.control("SH", ["SEE ALSO"]);
        roff.text([bold("clesyde-cloud"), roman("(1)")]);
    }
    roff
}

fn entry(roff: &mut Roff, term: &str, text: &str) {
    roff.control("TP", []);
    roff.text([bold(term)]);
    roff.text([roman(text)]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_page_with_all_sections() {
        let directory = tempfile::tempdir().unwrap();
        let mut root = crate::cli::documented();
        root.build();
        write_all(&root, "", directory.path()).unwrap();
        for name in [
            "clesyde-cloud",
            "clesyde-cloud-run",
            "clesyde-cloud-cert-show",
        ] {
            let path = directory.path().join(format!("{name}.1"));
            let page = fs::read_to_string(path).unwrap();
            for section in ["SYNOPSIS", "ENVIRONMENT", "FILES", "\"EXIT STATUS\""] {
                assert!(page.contains(&format!(".SH {section}")), "{section} {page}");
            }
            assert!(
                page.contains("CLESYDE_SN") || page.contains("CLESYDE\\_SN"),
                "{page}"
            );
        }
        assert!(!directory.path().join("clesyde-cloud-help.1").exists());
    }

    #[test]
    fn tables_name_commands_that_exist() {
        let mut root = crate::cli::documented();
        root.build();
        let tables = VARIABLES.iter().chain(FILES);
        for name in tables.flat_map(|(_, commands, _)| *commands) {
            let is_known = root.find_subcommand(name).is_some() || !cfg!(feature = "sim");
            assert!(is_known, "{name}");
        }
    }
}
