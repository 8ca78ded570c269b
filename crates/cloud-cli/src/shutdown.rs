//! SIGINT and SIGTERM: the signals by which a person or a supervisor stops the program.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{CliError, Result};

/// Waits for either signal. Created before the work starts, so that no signal is missed.
#[derive(Debug)]
pub(crate) struct Shutdown {
    interrupt: Signal,
    terminate: Signal,
}

impl Shutdown {
    pub(crate) fn install() -> Result<Self> {
        let install = |kind| {
            signal(kind)
                .map_err(|error| CliError::with_cause("could not install signal handlers", &error))
        };
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
    }
}
