//! Notifications for systemd: readiness, reloads, status, watchdog and stopping.
//!
//! Without `NOTIFY_SOCKET` in the environment, every method does nothing. The socket can be full,
//! so notifications go through an [`Outlet`].

use std::io::{self, Write};
use std::time::Duration;

use cloud_net::{LogThrottle, warn_throttled};
use sd_notify::NotifyState;
use tokio::time::Instant;

use crate::error::{CliError, Result};
use crate::health::HEARTBEAT_INTERVAL;
use crate::outlet::{LostLines, Outlet, OutletSettings};
use crate::terminal;

/// No watchdog makes the heartbeat faster than this.
const MIN_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Sends notifications to systemd. Returns at once from every method.
#[derive(Debug)]
pub(crate) struct SystemdNotifier {
    outlet: Option<Outlet>,
    /// Half of the watchdog's time limit, if the watchdog is enabled.
    interval: Option<Duration>,
    last_watchdog: Instant,
    /// The newest status, if it was lost.
    lost_status: Option<String>,
}

impl SystemdNotifier {
    pub(crate) fn from_environment() -> Result<Self> {
        let is_used = std::env::var_os("NOTIFY_SOCKET").is_some();
        Ok(Self {
            outlet: if is_used { Some(start()?) } else { None },
            interval: sd_notify::watchdog_enabled().map(|limit| limit / 2),
            last_watchdog: Instant::now(),
            lost_status: None,
        })
    }

    /// Reports that the program is ready: connections follow, and a device without a network is
    /// ready too.
    pub(crate) fn ready(&self) {
        self.notify(NotifyState::Ready);
    }

    /// Reports that the settings are read again; [`ready`](Self::ready) ends that.
    pub(crate) fn reloading(&self) {
        if let Ok(time) = NotifyState::monotonic_usec_now() {
            // One notification, as systemd expects it.
            let text = format!("{}\n{time}", NotifyState::Reloading);
            self.notify(NotifyState::Custom(&text));
        }
    }

    /// Reports the status, in a line that `systemctl status` shows.
    pub(crate) fn status(&mut self, line: String) {
        let escaped = terminal::line(&line);
        let is_lost = !self.notify(NotifyState::Status(&escaped));
        self.lost_status = is_lost.then_some(line);
    }

    /// Returns how often to call [`keep_alive`](Self::keep_alive): at the usual interval, or more
    /// often for a watchdog with a short time limit.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        self.interval.map_or(HEARTBEAT_INTERVAL, |interval| {
            interval.clamp(MIN_HEARTBEAT_INTERVAL, HEARTBEAT_INTERVAL)
        })
    }

    /// Keeps the watchdog alive. Call it often; it sends at the required interval.
    pub(crate) fn keep_alive(&mut self) {
        if let Some(status) = self.lost_status.take() {
            self.status(status);
        }
        if self.is_watchdog_due() {
            self.last_watchdog = Instant::now();
            self.notify(NotifyState::Watchdog);
        }
    }

    /// Returns whether the next heartbeat would be too late: a timer may be early or late by some
    /// milliseconds, and the watchdog's time limit is only twice the interval.
    fn is_watchdog_due(&self) -> bool {
        let at_next_heartbeat = self.last_watchdog.elapsed() + self.heartbeat_interval();
        self.interval
            .is_some_and(|interval| at_next_heartbeat > interval)
    }

    pub(crate) fn stopping(&self) {
        self.notify(NotifyState::Stopping);
    }

    /// Waits until every notification is sent.
    pub(crate) async fn flush(&self) {
        if let Some(outlet) = &self.outlet {
            outlet.flush().await;
        }
    }

    /// Returns the count of lost notifications.
    pub(crate) fn lost_lines(&self) -> Option<LostLines> {
        self.outlet.as_ref().map(Outlet::lost_lines)
    }

    /// Returns whether there was room for the notification.
    fn notify(&self, state: NotifyState<'_>) -> bool {
        let outlet = self.outlet.as_ref();
        outlet.is_none_or(|outlet| outlet.push(state.to_string()))
    }
}

fn start() -> Result<Outlet> {
    let (lost_log, failure_log) = (LogThrottle::new(), LogThrottle::new());
    let settings = OutletSettings {
        name: "systemd",
        note: Box::new(move |lost| {
            warn_throttled!(
                lost_log,
                lost,
                "notifications to systemd were lost because it did not read them"
            );
            None
        }),
        on_error: Box::new(move |error| {
            warn_throttled!(failure_log, %error, "could not notify systemd");
        }),
    };
    Outlet::start(settings, NotifySocket)
        .map_err(|error| CliError::with_cause("could not start a thread", &error))
}

/// Each write is a notification.
struct NotifySocket;

impl Write for NotifySocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = String::from_utf8_lossy(bytes);
        sd_notify::notify(&[NotifyState::Custom(state.trim())])?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    /// The longest time between two notifications of the watchdog, with heartbeats that are early
    /// or late in turns.
    async fn longest_gap(limit: Duration) -> Duration {
        let jitter = Duration::from_millis(3);
        let mut systemd = SystemdNotifier {
            outlet: None,
            interval: Some(limit / 2),
            last_watchdog: Instant::now(),
            lost_status: None,
        };
        let mut longest = Duration::ZERO;
        for turn in 0..100 {
            let before = systemd.last_watchdog;
            if turn % 2 == 0 {
                sleep(systemd.heartbeat_interval() - jitter).await;
            } else {
                sleep(systemd.heartbeat_interval() + jitter).await;
            }
            systemd.keep_alive();
            longest = longest.max(before.elapsed());
        }
        longest
    }

    #[tokio::test(start_paused = true)]
    async fn watchdog_is_kept_alive_well_before_its_limit() {
        for seconds in [2, 3, 4, 6, 10, 11, 12, 30, 60] {
            let limit = Duration::from_secs(seconds);
            let gap = longest_gap(limit).await;
            assert!(gap < limit * 9 / 10, "{gap:?} of {limit:?}");
        }
    }
}
