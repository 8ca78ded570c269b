//! Notifications for systemd: readiness, status, watchdog and stopping.
//!
//! Without `NOTIFY_SOCKET` in the environment, every method does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;

/// Sends notifications to systemd.
#[derive(Debug)]
pub(crate) struct SystemdNotifier {
    /// Half of the watchdog's time limit, if the watchdog is enabled.
    interval: Option<Duration>,
    last_watchdog: Instant,
}

impl SystemdNotifier {
    pub(crate) fn from_environment() -> Self {
        Self {
            interval: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            last_watchdog: Instant::now(),
        }
    }

    /// Reports that the program is ready: connections follow, and a device without a network is
    /// ready too.
    pub(crate) fn ready(&self) {
        notify(&[NotifyState::Ready]);
    }

    /// Reports the status, in a line that `systemctl status` shows.
    pub(crate) fn status(&self, line: &str) {
        // A line break would start another message.
        let line: String = line
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        notify(&[NotifyState::Status(&line)]);
    }

    /// Keeps the watchdog alive. Call it often; it sends at the required interval.
    pub(crate) fn keep_alive(&mut self) {
        if self
            .interval
            .is_some_and(|interval| self.last_watchdog.elapsed() >= interval)
        {
            self.last_watchdog = Instant::now();
            notify(&[NotifyState::Watchdog]);
        }
    }

    pub(crate) fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "could not notify systemd");
    }
}
