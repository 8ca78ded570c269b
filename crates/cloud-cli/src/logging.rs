//! Logging, on standard error.
//!
//! `-v` and `-q` set the level of this project's crates; dependencies stay two levels quieter and
//! never log below `info`, because their `debug` output is not guaranteed to be free of secrets.

use std::io::{self, IsTerminal};

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::terminal::LogWriter;

/// The crates whose levels `-v` and `-q` set.
const OWN_CRATES: &[&str] = &[
    "cloud_cli",
    "cloud_config",
    "cloud_facade",
    "cloud_iot",
    "cloud_provision",
    "cloud_remote",
    "cloud_shadow",
    "cloud_sim",
    "snitun",
];

/// From least to most verbose.
const LEVELS: &[&str] = &["off", "error", "warn", "info", "debug", "trace"];
const WARN: usize = 2;
const INFO: usize = 3;

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging, once per process. `long_running` commands log at `info` by default.
pub(crate) fn init(format: LogFormat, verbose: u8, quiet: u8, long_running: bool) {
    let filter = EnvFilter::new(directives(level(verbose, quiet, long_running)));
    let colour = io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || LogWriter::new(io::stderr(), colour))
        .with_ansi(colour)
        // A closed standard error must not cause messages on standard error.
        .log_internal_errors(false);
    // An error means that the caller of the library has set up logging; that configuration stays.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}

fn level(verbose: u8, quiet: u8, long_running: bool) -> usize {
    let base = if long_running { INFO } else { WARN };
    (base + usize::from(verbose))
        .saturating_sub(usize::from(quiet))
        .min(LEVELS.len() - 1)
}

fn directives(level: usize) -> String {
    let others = LEVELS[level.saturating_sub(2).min(INFO)];
    let own = OWN_CRATES
        .iter()
        .map(|name| format!(",{name}={}", LEVELS[level]));
    std::iter::once(others.to_owned()).chain(own).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_stay_in_range_and_dependencies_stay_at_info() {
        assert_eq!(LEVELS[level(0, 0, true)], "info");
        assert_eq!(LEVELS[level(0, 0, false)], "warn");
        assert_eq!(LEVELS[level(0, 9, true)], "off");
        assert_eq!(LEVELS[level(9, 0, false)], "trace");
        assert!(directives(level(9, 0, true)).starts_with("info,cloud_cli=trace,"));
        assert!(directives(level(0, 0, true)).starts_with("error,cloud_cli=info,"));
    }

    #[test]
    fn every_filter_is_valid() {
        for level in 0..LEVELS.len() {
            EnvFilter::try_new(directives(level)).unwrap();
        }
    }
}
