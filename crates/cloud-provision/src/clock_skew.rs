//! Clock skew between this device and the platform, measured by the `Date` header.
//!
//! A device without a battery-backed clock may start in 1970, and then TLS fails with misleading
//! errors. This module only measures and formats the skew: it sets no clock, and no trust decision
//! depends on it.

use std::fmt;
use std::time::{Duration, SystemTime};

/// Deviations up to this are insignificant: certificates and tokens tolerate more.
const TOLERATED: Duration = Duration::from_secs(30);

/// Deviation of this device's clock from the platform's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSkew {
    correction_ms: i64,
    uncertainty: Duration,
}

impl ClockSkew {
    /// Computes the skew from a response dated `date`, to a request sent at `sent` by this clock
    /// and answered in `took`.
    ///
    /// The date is truncated to seconds and lies between request and response, so both midpoints
    /// are used.
    pub(crate) fn measure(date: SystemTime, sent: SystemTime, took: Duration) -> Self {
        let theirs = milliseconds(date) + 500;
        let ours = milliseconds(sent + took / 2);
        Self {
            correction_ms: theirs.saturating_sub(ours),
            uncertainty: took / 2 + Duration::from_millis(500),
        }
    }

    /// Returns the milliseconds to add to this device's clock to get the platform's: positive if
    /// this clock is slow.
    #[must_use]
    pub fn correction_ms(&self) -> i64 {
        self.correction_ms
    }

    /// Returns the maximum error of [`correction_ms`](Self::correction_ms): half of the response
    /// time plus half a second.
    #[must_use]
    pub fn uncertainty(&self) -> Duration {
        self.uncertainty
    }

    /// Reports whether the deviation exceeds both the measurement's uncertainty and 30 s.
    #[must_use]
    pub fn is_significant(&self) -> bool {
        self.size() > self.uncertainty.max(TOLERATED)
    }

    fn size(&self) -> Duration {
        Duration::from_millis(self.correction_ms.unsigned_abs())
    }
}

/// Formats the skew as in "the clock of this device is *2 h 5 min slow*".
impl fmt::Display for ClockSkew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.size() <= self.uncertainty {
            return write!(f, "right within {} s", self.uncertainty.as_secs() + 1);
        }
        let direction = if self.correction_ms > 0 {
            "slow"
        } else {
            "fast"
        };
        write!(f, "{} {direction}", HumanDuration(self.size()))
    }
}

/// Formats a duration in its two largest units.
pub(crate) struct HumanDuration(pub(crate) Duration);

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
        match (days, hours, minutes) {
            (1.., ..) => write!(f, "{days} d {} h", hours % 24),
            (0, 1.., _) => write!(f, "{hours} h {} min", minutes % 60),
            (0, 0, 1..) => write!(f, "{minutes} min {} s", seconds % 60),
            (0, 0, 0) => write!(f, "{seconds} s"),
        }
    }
}

/// Milliseconds since the Unix epoch, negative before it.
fn milliseconds(time: SystemTime) -> i64 {
    let in_range = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX / 4);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => in_range(after),
        Err(before) => -in_range(before.duration()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn correct_clock_is_insignificant_for_any_response_time() {
        for took in [0, 2, 40] {
            // The date is written halfway through the exchange, in the middle of its second.
            let sent = at(1_000_000) - Duration::from_millis(took * 500 - took * 500 % 1000);
            let skew = ClockSkew::measure(at(1_000_000), sent, Duration::from_secs(took));
            assert!(!skew.is_significant(), "{skew:?}");
            assert!(skew.to_string().starts_with("right within"), "{skew}");
        }
    }

    #[test]
    fn wrong_clock_is_reported_with_size_and_direction() {
        let second = Duration::from_secs(1);
        let slow = ClockSkew::measure(at(1_790_000_000), at(12), second);
        assert!(slow.is_significant());
        assert_eq!(slow.correction_ms(), (1_790_000_000 - 12) * 1000);
        assert_eq!(slow.to_string(), "20717 d 14 h slow");
        let fast = ClockSkew::measure(at(1_000_000), at(1_007_500), second);
        assert_eq!(fast.correction_ms(), -7_500_000);
        assert_eq!(fast.to_string(), "2 h 5 min fast");
        assert!(ClockSkew::measure(at(1_000_100), at(1_000_000), second).is_significant());
        // An uncertainty of a minute outweighs 40 s.
        let uncertain = ClockSkew::measure(at(1_000_100), at(1_000_000), 120 * second);
        assert!(!uncertain.is_significant());
    }
}
