//! Dates as numbers: seconds since 1970, as JSON of platforms has them.

use std::time::{Duration, SystemTime};

/// The end of the year 9999. Dates of certificates, and dates in RFC 3339, end with it.
const LATEST: u64 = 253_402_300_799;

/// Returns the seconds between 1970 and `time`, 0 for a time before 1970.
#[must_use]
pub fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.unwrap_or_default().as_secs()).unwrap_or(i64::MAX)
}

/// Returns the time that is `seconds` after 1970, clamped to the years 1970 to 9999.
#[must_use]
pub fn from_unix_seconds(seconds: i64) -> SystemTime {
    let seconds = u64::try_from(seconds).unwrap_or(0).min(LATEST);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_clamped_to_years_1970_to_9999() {
        for (seconds, clamped) in [
            (i64::MIN, 0),
            (-1, 0),
            (1_893_456_000, 1_893_456_000),
            (i64::MAX, 253_402_300_799),
        ] {
            assert_eq!(unix_seconds(from_unix_seconds(seconds)), clamped);
        }
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(unix_seconds(before), 0);
    }
}
