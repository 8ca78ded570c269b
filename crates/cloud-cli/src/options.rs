//! The global options, which every command accepts before or after its name, and the limits on
//! callers.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use cloud_facade::config::SerialNumber;
use cloud_facade::remote::Limits;
use directories::ProjectDirs;

use crate::error::{CliError, Result};
use crate::logging::LogFormat;
use crate::value_parsers::{ApiUrl, ProxyUrl};

/// The name of the installed program.
pub(crate) const NAME: &str = "clesyde-cloud";

/// Values of the global options.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalOptions {
    /// Read settings from this file, in TOML [default: clesyde-cloud.toml in the base path, else in
    /// /etc/clesyde]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Directory that contains the device's `.clesydecloud` [default: $STATE_DIRECTORY, else the
    /// user's data directory]
    #[arg(long, global = true, value_name = "DIR")]
    base_path: Option<PathBuf>,

    /// The device's serial number: 1 to 128 of A-Z a-z 0-9 _ - . :
    #[arg(long, global = true, value_name = "SN")]
    pub(crate) sn: Option<SerialNumber>,

    /// The option, variable or key that set the serial number.
    #[arg(skip)]
    pub(crate) sn_name: String,

    /// The platform's provisioning API; http:// only on this machine
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) api_url: Option<ApiUrl>,

    /// Connect to API, broker and relay through this proxy, http://HOST:PORT or socks5://HOST:PORT
    /// [default: HTTPS_PROXY or ALL_PROXY, except for the hosts in NO_PROXY]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) proxy: Option<ProxyUrl>,

    /// Format of log lines on standard error
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

    /// Print results as JSON, one object per line
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

impl GlobalOptions {
    /// Returns the base path of the device's directory, which may not exist yet.
    pub(crate) fn base_path(&self) -> Result<PathBuf> {
        if let Some(path) = &self.base_path {
            return Ok(path.clone());
        }
        default_base_path().ok_or_else(|| {
            CliError::Usage(
                "there is no home directory: name a directory with --base-path DIR".to_owned(),
            )
        })
    }

    /// Returns the configuration file that is named by option or variable.
    pub(crate) fn config_file(&self) -> Option<PathBuf> {
        let variable = || std::env::var_os("CLESYDE_CONFIG").filter(|value| !value.is_empty());
        self.config
            .clone()
            .or_else(|| variable().map(PathBuf::from))
    }

    /// Returns the serial number.
    ///
    /// # Errors
    /// Usage error if it is missing.
    pub(crate) fn require_sn(&self) -> Result<&SerialNumber> {
        self.sn.as_ref().ok_or_else(|| {
            CliError::Usage(
                "the serial number is missing: give it with --sn SN or in CLESYDE_SN".to_owned(),
            )
        })
    }

    /// Returns the API's address.
    ///
    /// # Errors
    /// Usage error if it is missing.
    pub(crate) fn require_api_url(&self) -> Result<&ApiUrl> {
        self.api_url.as_ref().ok_or_else(|| {
            CliError::Usage("the provisioning API's address is missing: give it with --api-url URL or in CLESYDE_API_URL".to_owned())
        })
    }
}

/// Returns the base path unless one is given: systemd's directory, else the user's.
pub(crate) fn default_base_path() -> Option<PathBuf> {
    // systemd sets this variable for `StateDirectory=`; the first of several directories is used.
    let state = std::env::var_os("STATE_DIRECTORY").filter(|value| !value.is_empty());
    let first = state
        .as_ref()
        .and_then(|paths| std::env::split_paths(paths).next());
    first.or_else(|| {
        let directories = ProjectDirs::from("", "", NAME)?;
        Some(directories.data_dir().to_owned())
    })
}

/// The limits on callers.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitOptions {
    /// Answer a request with status 504 after this many seconds without a response of the
    /// application
    #[arg(
        long,
        value_name = "SECONDS",
        value_parser = seconds,
        default_value = "120",
        conflicts_with_all = ["ui", "forward_tcp", "passthrough"]
    )]
    response_timeout: Duration,

    /// Close a connection after this many seconds without traffic
    ///
    /// Relays may close it earlier. WebSockets are kept open by PINGs.
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "180")]
    idle_timeout: Duration,

    /// Maximum concurrent connections of all callers, and maximum concurrent requests
    #[arg(long, value_name = "NUMBER", default_value = "256")]
    max_connections: NonZeroUsize,

    /// Maximum concurrent connections of one caller, which is an IPv4 address or an IPv6 /64
    /// network
    ///
    /// Long-lived streams (event streams, WebSockets) do not count, up to three quarters of
    /// --max-connections.
    #[arg(long, value_name = "NUMBER", default_value = "64")]
    max_connections_per_caller: NonZeroUsize,

    /// Maximum concurrent requests of one caller; others wait
    ///
    /// Long-lived streams do not count, up to three quarters of --max-connections.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "64",
        conflicts_with_all = ["forward_tcp", "passthrough"]
    )]
    max_requests_per_caller: NonZeroUsize,

    /// Maximum header fields of a request, and of a response of a web server
    ///
    /// A number above 99 costs 64 bytes for each of them with each message.
    #[arg(
        long,
        value_name = "NUMBER",
        default_value = "200",
        conflicts_with_all = ["forward_tcp", "passthrough"]
    )]
    max_header_fields: NonZeroUsize,
}

/// Parses a number of seconds of at least one.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("is not a whole number of seconds from 1".to_owned()),
        Ok(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

impl LimitOptions {
    /// Returns the limits.
    pub(crate) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        limits.response = self.response_timeout;
        limits.idle = self.idle_timeout;
        limits.connections = self.max_connections.get();
        limits.connections_per_address = self.max_connections_per_caller.get();
        limits.requests_per_address = self.max_requests_per_caller.get();
        limits.header_fields = self.max_header_fields.get();
        limits
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct TestCli {
        #[arg(long)]
        ui: bool,
        #[arg(long)]
        forward_tcp: bool,
        #[arg(long)]
        passthrough: bool,
        #[command(flatten)]
        limits: LimitOptions,
    }

    fn parse(options: &str) -> Result<Limits, clap::Error> {
        TestCli::try_parse_from(format!("run {options}").split_whitespace())
            .map(|cli| cli.limits.limits())
    }

    #[test]
    fn limits_are_those_of_the_options() {
        assert_eq!(parse("").unwrap(), Limits::default());
        let limits = parse(
            "--response-timeout 600 --idle-timeout 30 --max-connections 512 \
             --max-connections-per-caller 100 --max-requests-per-caller 200 \
             --max-header-fields 300",
        )
        .unwrap();
        assert_eq!(limits.response, Duration::from_secs(600));
        assert_eq!(limits.idle, Duration::from_secs(30));
        assert_eq!(limits.connections, 512);
        assert_eq!(limits.connections_per_address, 100);
        assert_eq!(limits.requests_per_address, 200);
        assert_eq!(limits.header_fields, 300);
        for invalid in [
            "--response-timeout 0",
            "--idle-timeout 1.5",
            "--max-connections 0",
            "--forward-tcp --max-requests-per-caller 1",
        ] {
            assert!(parse(invalid).is_err(), "{invalid}");
        }
    }
}
