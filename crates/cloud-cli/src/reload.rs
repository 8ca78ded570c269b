//! SIGHUP: the signal by which a service manager asks for the settings to be read again.
//!
//! The settings of `run` come from its command line and environment, which do not change while it
//! runs. So the signal has no effect but a log line, and does not end the program, as it would by
//! default.

use tokio::signal::unix::{Signal, SignalKind};

use crate::error::Result;
use crate::shutdown::install;

/// Receives SIGHUP. Created before the work starts: until then the signal ends the program.
#[derive(Debug)]
pub(crate) struct ReloadSignal(Signal);

impl ReloadSignal {
    pub(crate) fn install() -> Result<Self> {
        install(SignalKind::hangup()).map(Self)
    }

    /// Returns when the signal has arrived.
    ///
    /// # Cancel safety
    /// The next call sees a signal that arrives in between.
    pub(crate) async fn received(&mut self) {
        if self.0.recv().await.is_none() {
            std::future::pending().await
        }
    }
}

/// Handles the signal.
pub(crate) fn reload() {
    tracing::warn!(
        "SIGHUP is ignored: settings are read at the start only; restart to change them"
    );
}
