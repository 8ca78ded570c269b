//! Standard error: log lines and messages, through an [`Outlet`], so that a reader that stops
//! reading delays nothing.
//!
//! `-v`, `-q`, `RUST_LOG` or the configuration file set the level of this project's crates;
//! dependencies stay two levels quieter and never log below `info`, because their `debug` output is
//! not guaranteed to be free of secrets.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Write};
use std::sync::{Mutex, OnceLock, PoisonError};

use clap::ValueEnum;
use serde_json::json;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, registry, reload};

use crate::error::{CliError, Result};
use crate::journal::{self, Priority};
use crate::outlet::{LostLines, Outlet, OutletSettings};
use crate::terminal::{self, LogWriter};
use crate::time_fmt::now;

/// The crates whose levels are set.
const OWN_CRATES: &[&str] = &[
    "cloud_cli",
    "cloud_config",
    "cloud_facade",
    "cloud_iot",
    "cloud_net",
    "cloud_provision",
    "cloud_remote",
    "cloud_shadow",
    "cloud_sim",
    "snitun",
];

/// The environment variable with directives such as `info,cloud_iot=debug`.
const FILTER_VARIABLE: &str = "RUST_LOG";

/// From least to most verbose.
const LEVELS: &[LevelFilter] = &[
    LevelFilter::OFF,
    LevelFilter::ERROR,
    LevelFilter::WARN,
    LevelFilter::INFO,
    LevelFilter::DEBUG,
    LevelFilter::TRACE,
];
const WARN: usize = 2;
const INFO: usize = 3;

/// Settings that log lines of the libraries name, and the options of `run` that set them. A name
/// precedes those that it begins with.
const SETTINGS: [(&str, &str); 7] = [
    (
        "Limits::connections_per_address",
        "--max-connections-per-caller",
    ),
    ("Limits::connections", "--max-connections"),
    ("Limits::requests_per_address", "--max-requests-per-caller"),
    ("Limits::header_fields", "--max-header-fields"),
    ("Limits::response", "--response-timeout"),
    ("Limits::idle", "--idle-timeout"),
    ("HttpOptions::allow_host", "--host"),
];

/// Standard error of the process: the log of a process is global, and so is its outlet.
static STDERR: OnceLock<Outlet> = OnceLock::new();

/// The newest log lines of the process, for a bundle.
static RECENT: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// Lines that are kept: some minutes of a busy device.
const MAX_RECENT: usize = 500;

/// Bytes of a line that are kept. Together with the number, the bound of the memory: 500 KiB.
const MAX_RECENT_LINE: usize = 1024;
/// Changes the filter of the process's log.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// How much to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLevel {
    pub(crate) verbose: u8,
    pub(crate) quiet: u8,
    /// Whether an option or a variable of this program sets the level; the file does not count.
    pub(crate) precedes_rust_log: bool,
    /// Such commands log at `info` by default.
    pub(crate) long_running: bool,
}

impl LogLevel {
    /// Returns the filter, and whether `RUST_LOG` is invalid.
    ///
    /// Its directives name targets and levels. Those for spans and fields would need an engine for
    /// regular expressions.
    fn filter(self) -> (Targets, bool) {
        let variable = std::env::var(FILTER_VARIABLE).ok();
        let variable = variable.filter(|text| !text.is_empty() && !self.precedes_rust_log);
        let from_variable = variable.map(|text| text.parse::<Targets>());
        let is_invalid = matches!(from_variable, Some(Err(_)));
        let filter = match from_variable {
            Some(Ok(filter)) => filter,
            _ => targets(level(self.verbose, self.quiet, self.long_running)),
        };
        (filter, is_invalid)
    }
}

/// Changes the level of the log.
pub(crate) fn set_level(level: LogLevel) {
    if let Some(handle) = FILTER.get() {
        let (filter, _) = level.filter();
        // Fails only without the subscriber that `init` has set.
        let _ = handle.reload(filter);
    }
}

/// Whether the journal reads standard error.
static IS_JOURNAL: OnceLock<bool> = OnceLock::new();

/// Returns the line with its priority, if the journal reads it.
fn for_journal(line: String, priority: Priority) -> String {
    if *IS_JOURNAL.get_or_init(journal::is_stderr) {
        priority.line(&line)
    } else {
        line
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Starts logging, once per process.
pub(crate) fn init(format: LogFormat, level: LogLevel) -> Result {
    if STDERR.get().is_some() {
        return Ok(());
    }
    let settings = OutletSettings {
        name: "log",
        note: Box::new(move |lost| Some(lost_note(format, lost))),
        // Standard error is where it would be reported.
        on_error: Box::new(|_| ()),
    };
    let outlet = Outlet::start(settings, io::stderr())
        .map_err(|error| CliError::with_cause("could not start a thread", &error))?;
    let outlet = STDERR.get_or_init(|| outlet);

    let (filter, is_invalid) = level.filter();
    let (filter, handle) = reload::Layer::new(filter);

    let colour = format == LogFormat::Text
        && io::stderr().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = fmt::layer()
        .with_writer(LogLines { outlet, colour })
        // `LogWriter` colours the lines, once they are escaped.
        .with_ansi(false)
        .log_internal_errors(false);
    let has_time = !*IS_JOURNAL.get_or_init(journal::is_stderr);
    let lines = match (format, has_time) {
        (LogFormat::Text, true) => lines.boxed(),
        (LogFormat::Text, false) => lines.without_time().boxed(),
        (LogFormat::Json, true) => lines.json().flatten_event(true).boxed(),
        (LogFormat::Json, false) => lines.json().flatten_event(true).without_time().boxed(),
    };
    let recent = fmt::layer()
        .with_writer(|| LogWriter::new(Recent, false))
        .with_ansi(false)
        .log_internal_errors(false);
    // An error means that the caller of the library has set up logging; that configuration stays.
    let started = registry()
        .with(filter)
        .with(filter_fn(is_permitted))
        .with(lines)
        .with(recent)
        .try_init();
    if started.is_ok() {
        FILTER.get_or_init(|| handle);
        std::panic::set_hook(Box::new(log_panic));
    }
    if is_invalid {
        tracing::warn!(
            "{FILTER_VARIABLE} is ignored: it is not a list of directives such as cloud_iot=debug"
        );
    }
    Ok(())
}

/// Writes a message for people. Returns at once.
pub(crate) fn message(text: &str) {
    let text = terminal::text(text);
    let lines = text.lines();
    let lines = lines.map(|line| for_journal(format!("{line}\n"), Priority::Error));
    let line: String = lines.collect();
    match STDERR.get() {
        Some(outlet) => {
            outlet.push(line);
        }
        // A closed standard error is ignored.
        None => {
            let _ = io::stderr().write_all(line.as_bytes());
        }
    }
}

/// Writes a line of the access log, without its line break. Returns at once.
pub(crate) fn access_line(line: &str) {
    if let Some(outlet) = STDERR.get() {
        outlet.push(for_journal(
            format!("{}\n", terminal::line(line)),
            Priority::Info,
        ));
    }
}

/// Waits until everything is written.
pub(crate) async fn flush() {
    if let Some(outlet) = STDERR.get() {
        outlet.flush().await;
    }
}

/// [`flush`] for code that is not asynchronous.
pub(crate) fn blocking_flush() {
    if let Some(outlet) = STDERR.get() {
        outlet.blocking_flush();
    }
}

/// Returns the newest log lines, also those that standard error has lost.
pub(crate) fn recent() -> String {
    let lines = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
    lines.iter().map(String::as_str).collect()
}

/// Returns the count of lost lines.
pub(crate) fn lost_lines() -> Option<LostLines> {
    STDERR.get().map(Outlet::lost_lines)
}

/// Makes the writers of log lines.
struct LogLines {
    outlet: &'static Outlet,
    colour: bool,
}

impl LogLines {
    fn writer(&self, priority: Priority) -> LogWriter<Line> {
        let line = Line {
            outlet: self.outlet,
            priority,
        };
        LogWriter::new(line, self.colour)
    }
}

impl<'a> MakeWriter<'a> for LogLines {
    type Writer = LogWriter<Line>;

    fn make_writer(&'a self) -> Self::Writer {
        self.writer(Priority::Info)
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Self::Writer {
        self.writer(event.level().into())
    }
}

/// A writer whose writes are lines.
struct Line {
    outlet: &'static Outlet,
    priority: Priority,
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = with_options(&String::from_utf8_lossy(bytes)).into_owned();
        self.outlet.push(for_journal(line, self.priority));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A writer whose writes are lines to be kept.
struct Recent;

impl Write for Recent {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let line = String::from_utf8_lossy(bytes);
        let line = with_options(&line);
        let end = line.floor_char_boundary(MAX_RECENT_LINE);
        let line = match line.get(..end) {
            Some(kept) if end < line.len() => format!("{kept}…\n"),
            _ => line.into_owned(),
        };
        let mut lines = RECENT.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MAX_RECENT {
            lines.pop_front();
        }
        lines.push_back(line);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names the options of the program instead of the settings of its libraries.
fn with_options(line: &str) -> Cow<'_, str> {
    SETTINGS
        .iter()
        .fold(line.into(), |line, (setting, option)| {
            if line.contains(setting) {
                line.replace(setting, option).into()
            } else {
                line
            }
        })
}

fn lost_note(format: LogFormat, lost: u64) -> String {
    let text = format!("{lost} log lines were lost because standard error was not read");
    let line = match format {
        LogFormat::Text => format!("{}  WARN cloud_cli: {text}\n", now()),
        LogFormat::Json => {
            let line = json!({ "timestamp": now(), "level": "WARN", "message": text, "lost": lost, "target": "cloud_cli" });
            format!("{line}\n")
        }
    };
    for_journal(line, Priority::Warning)
}

/// The default hook writes to standard error, which may block.
fn log_panic(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string);
    let reason = panic.payload_as_str();
    tracing::error!(place, reason, "internal error; please report it");
}

fn level(verbose: u8, quiet: u8, long_running: bool) -> usize {
    let base = if long_running { INFO } else { WARN };
    (base + usize::from(verbose))
        .saturating_sub(usize::from(quiet))
        .min(LEVELS.len() - 1)
}

fn targets(level: usize) -> Targets {
    Targets::new()
        .with_default(LEVELS[level.saturating_sub(2).min(INFO)])
        .with_targets(OWN_CRATES.iter().map(|name| (*name, LEVELS[level])))
}

/// Whether an event may be logged at any verbosity.
fn is_permitted(event: &Metadata<'_>) -> bool {
    let name = event.target().split("::").next().unwrap_or_default();
    *event.level() <= Level::INFO || OWN_CRATES.contains(&name)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn levels_stay_in_range_and_dependencies_stay_at_info() {
        assert_eq!(LEVELS[level(0, 0, true)], LevelFilter::INFO);
        assert_eq!(LEVELS[level(0, 0, false)], LevelFilter::WARN);
        assert_eq!(LEVELS[level(0, 9, true)], LevelFilter::OFF);
        assert_eq!(LEVELS[level(9, 0, false)], LevelFilter::TRACE);
        let loudest = targets(level(9, 0, true));
        assert!(loudest.would_enable("cloud_cli::logging", &Level::TRACE));
        assert!(loudest.would_enable("hyper", &Level::INFO));
        assert!(!loudest.would_enable("hyper", &Level::DEBUG));
        let default = targets(level(0, 0, true));
        assert!(default.would_enable("snitun", &Level::INFO));
        assert!(!default.would_enable("snitun", &Level::DEBUG));
        assert!(default.would_enable("hyper", &Level::ERROR));
        assert!(!default.would_enable("hyper", &Level::WARN));
    }

    #[test]
    fn log_lines_name_options_that_run_has() {
        let command = crate::cli::Cli::command();
        let run = command.find_subcommand("run").unwrap();
        for (setting, option) in SETTINGS {
            for line in [
                format!("setting={setting:?} maximum=1"),
                json!({ "setting": setting }).to_string(),
            ] {
                assert_eq!(with_options(&line), line.replace(setting, option));
            }
            let known = run.get_arguments().any(|argument| {
                argument
                    .get_long()
                    .is_some_and(|long| option == format!("--{long}"))
            });
            assert!(known, "{option}");
        }
    }

    #[test]
    fn recent_lines_are_bounded() {
        for number in 0..MAX_RECENT + 3 {
            let line = format!("line {number} {}\n", "é".repeat(MAX_RECENT_LINE));
            Recent.write_all(line.as_bytes()).unwrap();
        }
        let text = recent();
        assert!(!text.contains("line 2 ") && text.contains("line 502 "));
        assert!(
            text.len() <= MAX_RECENT * (MAX_RECENT_LINE + 4),
            "{}",
            text.len()
        );
    }
}
