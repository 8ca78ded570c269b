//! systemd, where it started us: it is told when we run, how we fare, that we are alive, and that we stop.
//!
//! Without `NOTIFY_SOCKET` in the environment all of it does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

/// The line to the supervisor.
#[derive(Debug)]
pub(crate) struct Supervisor {
    /// How often it wants to hear of us, if it does; half of its limit.
    interval: Option<Duration>,
    told: Instant,
}

impl Supervisor {
    pub(crate) fn from_environment() -> Self {
        Self {
            interval: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            told: Instant::now(),
        }
    }

    /// Everything is started; connections come by themselves from now on, and a device without a network runs too.
    pub(crate) fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// How we fare, in a line that `systemctl status` shows.
    pub(crate) fn status(&self, line: &str) {
        // A line break would begin a message of its own.
        let line: String = line
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        tell(&[NotifyState::Status(&line)]);
    }

    /// We are alive. Called often, said as often as it is wanted.
    pub(crate) fn alive(&mut self) {
        if self
            .interval
            .is_some_and(|interval| self.told.elapsed() >= interval)
        {
            self.told = Instant::now();
            tell(&[NotifyState::Watchdog]);
        }
    }

    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the supervisor does not listen");
    }
}
