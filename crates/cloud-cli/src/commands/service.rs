//! `service`: the program as a service of systemd: `install`, `uninstall` and `status`.
//!
//! The unit is the one in `docs/systemd`, with the path of this program. `systemctl` does what is
//! not writing and removing files.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::{Args, Subcommand};
use directories::BaseDirs;
use serde_json::json;
use tempfile::NamedTempFile;

use crate::error::{CliError, Result};
use crate::options::{GlobalOptions, NAME};
use crate::output::Output;
use crate::redact::RedactedPath;

const UNIT: &str = include_str!("../../systemd/clesyde-cloud.service");
const USER_UNIT: &str = include_str!("../../systemd/user/clesyde-cloud.service");
const ENVIRONMENT: &str = include_str!("../../systemd/clesyde-cloud.default");

/// The program's path in the units.
const PACKAGED_PROGRAM: &str = "/usr/bin/clesyde-cloud";

/// Everyone may read units; the environment may have a proxy's password.
const UNIT_MODE: u32 = 0o644;
const ENVIRONMENT_MODE: u32 = 0o600;

/// Directories that the unit's sandbox hides, or that are emptied.
const HIDDEN_DIRECTORIES: [&str; 5] = ["/home", "/root", "/run", "/tmp", "/var/tmp"];

/// Exists while systemd runs the machine: see sd_booted(3).
const SYSTEMD: &str = "/run/systemd/system";

const EXAMPLES: &str = "\
Examples:
  sudo clesyde-cloud service install --sn SN0001 --api-url https://api.example.com
  clesyde-cloud service status
  sudo clesyde-cloud service uninstall";

/// Arguments of `service`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ServiceArgs {
    #[command(subcommand)]
    command: ServiceCommand,
}

/// The commands of `service`.
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Install this program as a service that starts with the machine
    ///
    /// Writes the unit and, if there is none, the environment file with --sn and --api-url. Does
    /// not start the service: the device has to be provisioned first.
    Install(Place),
    /// Stop the service and remove its unit; the environment file and the device's directory stay
    Uninstall(Place),
    /// Show whether the service is installed, enabled and running; exit code 1 unless it is running
    Status(Place),
}

/// Where the service is.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// A service of this user, which runs while the user is logged in (or lingers)
    #[arg(long)]
    user: bool,

    /// Work on the file system below this directory, such as an image for devices
    #[arg(long, value_name = "DIR", conflicts_with = "user")]
    root: Option<PathBuf>,
}

pub(crate) fn run(global: &GlobalOptions, arguments: &ServiceArgs, output: &Output) -> Result {
    let (ServiceCommand::Install(place)
    | ServiceCommand::Uninstall(place)
    | ServiceCommand::Status(place)) = &arguments.command;
    if let Some(root) = place.root.as_ref().filter(|root| !root.is_dir()) {
        return Err(CliError::Failed(format!(
            "there is no directory {}: name that of an image with --root DIR",
            RedactedPath(root)
        )));
    }
    match &arguments.command {
        ServiceCommand::Install(place) => install(global, place, output),
        ServiceCommand::Uninstall(place) => uninstall(place, output),
        ServiceCommand::Status(place) => status(place, output),
    }
}

fn install(global: &GlobalOptions, place: &Place, output: &Output) -> Result {
    let program = std::env::current_exe()
        .map_err(|error| CliError::with_cause("could not find this program's file", &error))?;
    // In an image the program is where packages put it.
    let program = match &place.root {
        Some(_) => PACKAGED_PROGRAM,
        None => usable_path(&program, place.user)?,
    };
    // Without the values: one may be a key in the wrong place.
    let mut retry = format!("sudo {program} service install");
    for (option, is_given) in [
        (" --sn …", global.sn.is_some()),
        (" --api-url …", global.api_url.is_some()),
    ] {
        retry += if is_given { option } else { "" };
    }
    let unit = place.unit_file()?;
    let text = if place.user { USER_UNIT } else { UNIT };
    write(&unit, &text.replace(PACKAGED_PROGRAM, program), UNIT_MODE)
        .map_err(|error| place.write_error(&unit, &error, &retry))?;
    let environment = place.environment_file()?;
    let is_new = !environment.exists();
    if is_new {
        write(&environment, &environment_text(global), ENVIRONMENT_MODE)
            .map_err(|error| place.write_error(&environment, &error, &retry))?;
    }
    if !place.is_offline() {
        // The unit is read at the next start of systemd at the latest.
        let _ = place.systemctl(&["daemon-reload"]);
    }
    let enabled = place.systemctl(&["enable", NAME]).is_ok();

    let mut lines = vec![
        format!("wrote {}", RedactedPath(&unit)),
        format!(
            "{} {}",
            if is_new { "wrote" } else { "kept" },
            RedactedPath(&environment)
        ),
    ];
    lines.push(if enabled {
        "enabled the service; it starts with the machine".to_owned()
    } else {
        format!(
            "systemd is not here, or refused: enable the service with `{} enable {NAME}`",
            place.systemctl_line()
        )
    });
    lines.push(place.next_steps(program, &environment));
    let result = json!({
        "event": "service_installed",
        "unit": unit,
        "environment": environment,
        "environment_written": is_new,
        "enabled": enabled,
    });
    output.result(&result, lines.join("\n"))
}

fn uninstall(place: &Place, output: &Output) -> Result {
    let unit = place.unit_file()?;
    if !unit.exists() {
        return output.result(
            &json!({ "event": "service_uninstalled", "unit": null }),
            format_args!("there is no {}: nothing was done", RedactedPath(&unit)),
        );
    }
    // Without rights nothing is stopped either.
    let removable = NamedTempFile::new_in(unit.parent().unwrap_or(&unit));
    let retry = format!("sudo {NAME} service uninstall");
    removable
        .and_then(|_| {
            // A failure is that of a systemd that does not run: then neither does the service.
            let now = if place.is_offline() {
                None
            } else {
                Some("--now")
            };
            let _ = place.systemctl(
                &["disable"]
                    .into_iter()
                    .chain(now)
                    .chain([NAME])
                    .collect::<Vec<_>>(),
            );
            fs::remove_file(&unit)
        })
        .map_err(|error| place.write_error(&unit, &error, &retry))?;
    if !place.is_offline() {
        let _ = place.systemctl(&["daemon-reload"]);
    }
    output.result(
        &json!({ "event": "service_uninstalled", "unit": unit }),
        format_args!(
            "removed {}; {} and the device's directory stay",
            RedactedPath(&unit),
            RedactedPath(&place.environment_file()?)
        ),
    )
}

fn status(place: &Place, output: &Output) -> Result {
    let unit = place.unit_file()?;
    // A package has it elsewhere.
    let packaged = place
        .below_root("/usr/lib/systemd/system")
        .join(unit_name());
    let unit = [unit, packaged].into_iter().find(|path| path.exists());
    let ask = |verb| {
        place
            .ask_systemctl(verb)
            .unwrap_or_else(|| "unknown".to_owned())
    };
    let enabled = ask("is-enabled");
    let active = if place.is_offline() {
        "unknown".to_owned()
    } else {
        ask("is-active")
    };
    let result = json!({
        "event": "service",
        "unit": unit,
        "enabled": enabled,
        "active": active,
    });
    let installed = match &unit {
        Some(path) => format!("installed: {}", RedactedPath(path)),
        None => "not installed: `clesyde-cloud service install` does that".to_owned(),
    };
    output.result(
        &result,
        format_args!("{installed}\nat start of the machine: {enabled}\nnow: {active}"),
    )?;
    if active == "active" {
        Ok(())
    } else {
        Err(CliError::Failed("the service does not run".to_owned()))
    }
}

impl Place {
    fn below_root(&self, path: &str) -> PathBuf {
        match &self.root {
            Some(root) => root.join(path.trim_start_matches('/')),
            None => path.into(),
        }
    }

    fn unit_file(&self) -> Result<PathBuf> {
        let directory = if self.user {
            user_config()?.join("systemd/user")
        } else {
            self.below_root("/etc/systemd/system")
        };
        Ok(directory.join(unit_name()))
    }

    fn environment_file(&self) -> Result<PathBuf> {
        Ok(if self.user {
            user_config()?.join(NAME).join("environment")
        } else {
            self.below_root("/etc/default").join(NAME)
        })
    }

    /// Whether there is no service manager to talk to: the file system is an image, or systemd does
    /// not run.
    fn is_offline(&self) -> bool {
        self.root.is_some() || (!self.user && !Path::new(SYSTEMD).exists())
    }

    fn systemctl_line(&self) -> String {
        let user = if self.user { " --user" } else { "" };
        format!("systemctl{user}")
    }

    fn command(&self) -> Command {
        let mut command = Command::new("systemctl");
        if self.user {
            command.arg("--user");
        }
        if let Some(root) = &self.root {
            command.arg("--root").arg(root);
        }
        command.stdin(Stdio::null());
        command
    }

    /// Runs systemctl, whose complaints go to standard error.
    fn systemctl(&self, arguments: &[&str]) -> io::Result<()> {
        let status = self
            .command()
            .args(arguments)
            .stdout(Stdio::null())
            .status()?;
        if status.success() {
            Ok(())
        } else {
            Err(io::Error::other(format!("systemctl: {status}")))
        }
    }

    /// Returns the answer of systemctl, which is a word.
    fn ask_systemctl(&self, verb: &str) -> Option<String> {
        let answer = self.command().args([verb, NAME]).output().ok()?;
        let word = String::from_utf8(answer.stdout).ok()?.trim().to_owned();
        (!word.is_empty()).then_some(word)
    }

    /// An error of writing, with the command to run if rights are missing.
    fn write_error(&self, path: &Path, error: &io::Error, retry: &str) -> CliError {
        let context = format!("could not change {}", RedactedPath(path));
        let failed = CliError::with_cause(context, error);
        if error.kind() == io::ErrorKind::PermissionDenied && self.root.is_none() && !self.user {
            CliError::Failed(format!(
                "{failed}; nothing was done: a service of the system needs root. Run: {retry}"
            ))
        } else {
            failed
        }
    }

    fn next_steps(&self, program: &str, environment: &Path) -> String {
        let environment = RedactedPath(environment);
        let control = self.systemctl_line();
        let provision = if self.user {
            format!("set -a; . {environment}; {program} provision --token-file key.txt")
        } else {
            format!(
                "systemd-run --pipe --wait -p DynamicUser=yes -p User={NAME} -p StateDirectory={NAME} \\\n      \
                 -p EnvironmentFile=/etc/default/{NAME} {program} provision --token-file - < key.txt"
            )
        };
        format!(
            "next:\n  check CLESYDE_SN and CLESYDE_API_URL in {environment}\n  {provision}\n  {control} start {NAME}"
        )
    }
}

fn unit_name() -> String {
    format!("{NAME}.service")
}

fn user_config() -> Result<PathBuf> {
    BaseDirs::new()
        .map(|directories| directories.config_dir().to_owned())
        .ok_or_else(|| CliError::Failed("there is no home directory".to_owned()))
}

/// Returns the program's path if the unit can name it and the service can read it.
fn usable_path(program: &Path, user: bool) -> Result<&str> {
    let advice = "install it first: sudo install -m 755 clesyde-cloud /usr/local/bin/";
    let is_plain = |text: &&str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || "/._+-".contains(c))
    };
    let text = program.to_str().filter(is_plain).ok_or_else(|| {
        CliError::Failed(format!(
            "the path of this program has characters that a unit cannot have; {advice}"
        ))
    })?;
    let is_hidden = HIDDEN_DIRECTORIES
        .iter()
        .any(|hidden| program.starts_with(hidden));
    if is_hidden && !user {
        return Err(CliError::Failed(format!(
            "the service cannot read {text}, which its sandbox hides; {advice}"
        )));
    }
    Ok(text)
}

/// The environment file with the options that were given.
fn environment_text(global: &GlobalOptions) -> String {
    let mut text = ENVIRONMENT.to_owned();
    if let Some(sn) = &global.sn {
        text = text.replace("#CLESYDE_SN=SN0001", &format!("CLESYDE_SN={sn}"));
    }
    if let Some(url) = &global.api_url {
        text = text.replace(
            "#CLESYDE_API_URL=https://api.example.com",
            &format!("CLESYDE_API_URL={url}"),
        );
    }
    text
}

/// Writes a file as a whole.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let mut file = NamedTempFile::new_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file()
        .set_permissions(fs::Permissions::from_mode(mode))?;
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_name_program_once() {
        for unit in [UNIT, USER_UNIT] {
            let starts = format!("\nExecStart={PACKAGED_PROGRAM} run\n");
            assert_eq!(unit.matches(&starts).count(), 1, "{unit}");
            assert!(unit.contains("\nExecReload="), "{unit}");
        }
    }

    #[test]
    fn path_that_service_cannot_read_is_refused() {
        for (path, user, usable) in [
            ("/usr/local/bin/clesyde-cloud", false, true),
            ("/opt/a b/clesyde-cloud", false, false),
            ("/run/media/clesyde-cloud", false, false),
            ("/run/media/clesyde-cloud", true, true),
            ("/tmp/clesyde-cloud", false, false),
            ("/opt/100%/clesyde-cloud", true, false),
        ] {
            assert_eq!(usable_path(Path::new(path), user).is_ok(), usable, "{path}");
        }
    }
}
