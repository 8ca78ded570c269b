//! Timeouts and intervals.

use std::time::Duration;

/// Maximum time for a response of the platform, the same as in the other implementation.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Minimum of configured durations: a shorter one would keep the device busy.
pub(crate) const MIN_DURATION: Duration = Duration::from_millis(100);
/// Maximum of configured durations: a longer one means "unbounded", and a much longer one overflows
/// the clock.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Timeouts and intervals. The defaults fit the current platform; other values are for other
/// platforms, and for tests.
///
/// ```
/// use std::time::Duration;
///
/// let mut timeouts = cloud_remote::Timeouts::default();
/// timeouts.dead_link = Duration::from_secs(20);
/// assert_eq!(timeouts.refresh_before, Duration::from_secs(15 * 60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// The interval at which all state is checked even without events, in case a timer was late (a
    /// suspended board). Also the minimum time between two token refreshes. Default 300 s.
    pub check_interval: Duration,
    /// The remaining lifetime at which a token is refreshed. Default 15 min.
    pub refresh_before: Duration,
    /// The interval at which the relay checks whether the token of a running tunnel has expired.
    /// Default 14,400 s.
    pub relay_check: Duration,
    /// The time within which a dead tunnel is detected: pings are sent at half of it, and a
    /// response may take the other half. Default 30 s: an idle tunnel carries a small frame each 15
    /// s, and an interruption of less than 15 s is tolerated. Relays drop a tunnel that is silent
    /// for 90 s, so values over 100 s are useless.
    pub dead_link: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            check_interval: Duration::from_secs(300),
            refresh_before: Duration::from_secs(15 * 60),
            relay_check: Duration::from_secs(14_400),
            dead_link: Duration::from_secs(30),
        }
    }
}

impl Timeouts {
    /// Returns the timeouts clamped to between [`MIN_DURATION`] and [`MAX_DURATION`].
    pub(crate) fn clamped(mut self) -> Self {
        for duration in [
            &mut self.check_interval,
            &mut self.relay_check,
            &mut self.dead_link,
        ] {
            *duration = (*duration).clamp(MIN_DURATION, MAX_DURATION);
        }
        self
    }
}
