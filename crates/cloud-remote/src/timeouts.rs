//! Time spans that fit today's platform and can be set for another.

use std::time::Duration;

/// Maximum time for a response of the platform, the same as in the other implementation.
pub(crate) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Shorter spans would have the device do nothing else.
pub(crate) const MIN_DURATION: Duration = Duration::from_millis(100);
/// Whoever asks for longer wants no end at all; and of what is much longer, clocks cannot tell the end.
pub(crate) const MAX_DURATION: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Time spans that fit today's platform. Other values are for a platform with other habits, and for tests.
///
/// ```
/// use std::time::Duration;
///
/// let mut timing = cloud_remote::Timeouts::default();
/// timing.dead_link = Duration::from_secs(20);
/// assert_eq!(timing.refresh_before, Duration::from_secs(15 * 60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Everything is looked at again this often even if nothing happens, in case a timer was off (a suspended board).
    /// Also the least time between two refreshes of the token, however short-lived tokens are. Default 300 s.
    pub check_interval: Duration,
    /// A token is replaced when no more than this is left of it. Default 15 min.
    pub refresh_before: Duration,
    /// How often the relay looks whether the token of a running tunnel has expired. Default 14,400 s.
    pub relay_check: Duration,
    /// A tunnel whose other end is gone without a word is noticed within this time: it is pinged each half of it, and
    /// the answer may take the other half. Default 30 s: an idle line carries a small frame each 15 s, and a line that stands
    /// still for less than 15 s is kept. Relays drop a tunnel that is silent for 90 s, so no more than 100 s make sense.
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
    /// With no span so short that the device does nothing else, and none so long that the end of it cannot be told.
    pub(crate) fn clamped(mut self) -> Self {
        for span in [
            &mut self.check_interval,
            &mut self.relay_check,
            &mut self.dead_link,
        ] {
            *span = (*span).clamp(MIN_DURATION, MAX_DURATION);
        }
        self
    }
}
