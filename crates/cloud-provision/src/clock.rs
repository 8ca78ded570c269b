//! Our clock against the platform's: by the `Date` of its answer, or by what a certificate's dates give away.
//!
//! A device whose battery was flat starts in 1970, and then everything fails for reasons that look like anything else.
//! This module measures and words it; it sets no clock, and nothing is trusted because of it.

use std::fmt;
use std::time::{Duration, SystemTime};

/// Deviations up to this are not worth a word: certificates and tokens allow for more.
const TOLERATED: Duration = Duration::from_secs(30);

/// How far this device's clock is from the platform's, as its answer showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockSkew {
    correction_ms: i64,
    uncertainty: Duration,
}

impl ClockSkew {
    /// What an answer says that is dated `date`, to a request sent when our clock showed `sent` and answered in `took`.
    ///
    /// The date is cut to whole seconds, and was written at some moment between the two: so the middle of both is taken.
    pub(crate) fn measure(date: SystemTime, sent: SystemTime, took: Duration) -> Self {
        let theirs = milliseconds(date) + 500;
        let ours = milliseconds(sent + took / 2);
        Self {
            correction_ms: theirs.saturating_sub(ours),
            uncertainty: took / 2 + Duration::from_millis(500),
        }
    }

    /// Milliseconds to add to this device's clock to get the platform's: more than 0 if ours is slow.
    #[must_use]
    pub fn correction_ms(&self) -> i64 {
        self.correction_ms
    }

    /// How far [`correction_ms`](Self::correction_ms) may be off: half of the time that the answer took, and half a second.
    #[must_use]
    pub fn uncertainty(&self) -> Duration {
        self.uncertainty
    }

    /// Whether the clock is wrong by more than the measurement may be, and by more than 30 s.
    #[must_use]
    pub fn is_significant(&self) -> bool {
        self.size() > self.uncertainty.max(TOLERATED)
    }

    fn size(&self) -> Duration {
        Duration::from_millis(self.correction_ms.unsigned_abs())
    }
}

/// As in "the clock of this device is *2 h 5 min slow*".
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
        write!(f, "{} {direction}", Rough(self.size()))
    }
}

/// A span of time as people say it: in its two largest units.
pub(crate) struct Rough(pub(crate) Duration);

impl fmt::Display for Rough {
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

/// Since 1970, and before it for clocks that are there.
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
    fn a_right_clock_is_right_however_long_the_answer_took() {
        for took in [0, 2, 40] {
            // Written half-way, in the middle of its second.
            let sent = at(1_000_000) - Duration::from_millis(took * 500 - took * 500 % 1000);
            let skew = ClockSkew::measure(at(1_000_000), sent, Duration::from_secs(took));
            assert!(!skew.is_significant(), "{skew:?}");
            assert!(skew.to_string().starts_with("right within"), "{skew}");
        }
    }

    #[test]
    fn a_wrong_clock_is_told_with_size_and_direction() {
        let second = Duration::from_secs(1);
        let slow = ClockSkew::measure(at(1_790_000_000), at(12), second);
        assert!(slow.is_significant());
        assert_eq!(slow.correction_ms(), (1_790_000_000 - 12) * 1000);
        assert_eq!(slow.to_string(), "20717 d 14 h slow");
        let fast = ClockSkew::measure(at(1_000_000), at(1_007_500), second);
        assert_eq!(fast.correction_ms(), -7_500_000);
        assert_eq!(fast.to_string(), "2 h 5 min fast");
        assert!(ClockSkew::measure(at(1_000_100), at(1_000_000), second).is_significant());
        // A minute's doubt outweighs 40 s.
        let doubtful = ClockSkew::measure(at(1_000_100), at(1_000_000), 120 * second);
        assert!(!doubtful.is_significant());
    }
}
