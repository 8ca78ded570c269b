//! SIGINT and SIGTERM: the two ways in which a person or a supervisor ends the program.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Failure, Outcome};

/// Waits for either signal. Made before the work begins, so that a signal during it is not missed.
#[derive(Debug)]
pub(crate) struct Shutdown {
    interrupt: Signal,
    terminate: Signal,
}

impl Shutdown {
    pub(crate) fn install() -> Outcome<Self> {
        let install = |kind| {
            signal(kind).map_err(|error| Failure::because("could not watch for signals", &error))
        };
        Ok(Self {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
        })
    }

    /// Returns when a signal has come.
    ///
    /// # Cancel safety
    /// A signal that comes while nobody waits is seen by the next wait.
    pub(crate) async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
