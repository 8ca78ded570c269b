//! The global options, which every command accepts before or after its name.

use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgAction, Args};
use cloud_facade::config::SerialNumber;
use directories::ProjectDirs;

use crate::error::{CliError, Result};
use crate::logging::LogFormat;
use crate::value_parsers::ApiUrl;

/// The name of the installed program.
pub(crate) const NAME: &str = "clesyde-cloud";

/// Values of the global options.
#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct GlobalOptions {
    /// Directory that contains the device's `.clesydecloud` [default: $STATE_DIRECTORY, else the
    /// user's data directory]
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

    /// The source of the serial number.
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

    /// Connect to API and broker through this HTTP proxy, http://HOST:PORT [default: HTTPS_PROXY or
    /// ALL_PROXY, except for the hosts in NO_PROXY]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) proxy: Option<String>,

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
        // systemd sets this variable for `StateDirectory=`; the first of several directories is
        // used.
        let state = std::env::var_os("STATE_DIRECTORY").filter(|value| !value.is_empty());
        if let Some(first) = state
            .as_ref()
            .and_then(|paths| std::env::split_paths(paths).next())
        {
            return Ok(first);
        }
        let directories = ProjectDirs::from("", "", NAME).ok_or_else(|| {
            CliError::Usage(
                "there is no home directory: name a directory with --base-path DIR".to_owned(),
            )
        })?;
        Ok(directories.data_dir().to_owned())
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

    /// Returns the name of the option or variable that set the serial number.
    pub(crate) fn sn_name(&self) -> &'static str {
        match self.sn_source {
            Some(ValueSource::EnvVariable) => "CLESYDE_SN",
            _ => "--sn",
        }
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
