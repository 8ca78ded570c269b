//! SIGHUP: reads the configuration file again, with the same command line and environment.
//!
//! What callers reach and how, the proxy and the level of the log change at once, without cutting a
//! connection. If the file cannot be used, nothing changes.

use std::ffi::OsString;

use tokio::signal::unix::{Signal, SignalKind};
use tokio::task::JoinHandle;

use crate::device::Served;
use crate::error::Result;
use crate::logging::LogLevel;
use crate::settings::Settings;
use crate::shutdown::install;

/// The settings that are read at the start only. All others change.
const READ_AT_START: &[&str] = &[
    "access-log",
    "access-log-file",
    "access-log-keep",
    "access-log-max-size",
    "access-log-query",
    "base-path",
    "device-logo",
    "device-model",
    "device-name",
    "health",
    "health-allow",
    "health-log",
    "health-page",
    "health-public",
    "json",
    "log-format",
    "outbox",
    "outbox-messages",
    "outbox-overflow",
    "outbox-size",
    "session-expiry",
    "sn",
];

/// The settings after a reload.
#[derive(Debug)]
pub(crate) struct Reloaded {
    pub(crate) served: Served,
    pub(crate) log_level: LogLevel,
    pub(crate) settings: Settings,
}

/// Reads the settings for a command line. The error is one line.
pub(crate) type Reader = fn(Vec<OsString>) -> Result<Box<Reloaded>, String>;

/// What happens on a signal.
#[derive(Debug)]
pub(crate) enum ReloadEvent {
    /// The settings are being read.
    Started,
    /// They are read; or one line that says why they cannot be used.
    Ended(Result<Box<Reloaded>, String>),
}

/// Reloads the settings on SIGHUP. Created before the work starts: until then the signal ends the
/// program.
#[derive(Debug)]
pub(crate) struct Reloader {
    signal: Signal,
    read: Reader,
    /// The settings of the start.
    initial: Settings,
    /// The settings that hold.
    current: Settings,
    /// The reading, which may have to wait for the disk.
    reading: Option<JoinHandle<Result<Box<Reloaded>, String>>>,
}

impl Reloader {
    pub(crate) fn install(settings: &Settings, read: Reader) -> Result<Self> {
        Ok(Self {
            read,
            signal: install(SignalKind::hangup())?,
            initial: settings.clone(),
            current: settings.clone(),
            reading: None,
        })
    }

    /// Returns the next event.
    ///
    /// # Cancel safety
    /// No signal and no event is lost.
    pub(crate) async fn next(&mut self) -> ReloadEvent {
        if let Some(reading) = &mut self.reading {
            let read = reading.await;
            self.reading = None;
            return ReloadEvent::Ended(read.unwrap_or_else(|error| Err(error.to_string())));
        }
        if self.signal.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        let (read, arguments) = (self.read, self.current.arguments.clone());
        self.reading = Some(tokio::task::spawn_blocking(move || read(arguments)));
        ReloadEvent::Started
    }

    /// Records that these settings hold, and logs what has changed.
    pub(crate) fn accept(&mut self, reloaded: Settings) {
        let needs_restart = |key: &&str| READ_AT_START.contains(key);
        let changed = self.current.changed_keys(&reloaded);
        let changed: Vec<_> = changed
            .into_iter()
            .filter(|key| !needs_restart(key))
            .collect();
        if changed.is_empty() {
            tracing::info!("the settings are reloaded; none has changed");
        } else {
            tracing::info!(changed = changed.join(", "), "the settings are reloaded");
        }
        let pending = self.initial.changed_keys(&reloaded);
        let pending: Vec<_> = pending.into_iter().filter(needs_restart).collect();
        if !pending.is_empty() {
            tracing::warn!(
                settings = pending.join(", "),
                "settings that changed are read at the start only: restart to apply them"
            );
        }
        for warning in &reloaded.warnings {
            tracing::warn!("{warning}");
        }
        self.current = reloaded;
    }
}
