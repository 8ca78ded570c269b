//! SIGINT and SIGTERM: the signals by which a person or a supervisor stops the program.

use std::sync::OnceLock;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::error::{CliError, Result};

/// The time of the first signal. Signals are for the process, and so is this.
static REQUESTED_AT: OnceLock<Instant> = OnceLock::new();

/// Returns the time of the first signal, if there was one.
pub(crate) fn requested_at() -> Option<Instant> {
    REQUESTED_AT.get().copied()
}

/// Waits for either signal. Created before the work starts, so that no signal is missed.
#[derive(Debug)]
pub(crate) struct Shutdown {
    interrupt: Signal,
    terminate: Signal,
}

impl Shutdown {
    pub(crate) fn install() -> Result<Self> {
        Ok(Self {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
        })
    }

    /// Returns when a signal has arrived.
    ///
    /// # Cancel safety
    /// The next call sees a signal that arrives in between.
    pub(crate) async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
        REQUESTED_AT.get_or_init(Instant::now);
    }
}

/// Installs a handler for a signal, which replaces the system's default.
pub(crate) fn install(kind: SignalKind) -> Result<Signal> {
    signal(kind).map_err(|error| CliError::with_cause("could not install signal handlers", &error))
}
