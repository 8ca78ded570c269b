//! Dates as text: RFC 3339, in UTC.

use std::time::SystemTime;

use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// Formats a time as RFC 3339, in UTC. RFC 3339 covers the years 0 to 9999, which include the dates
/// of all certificates; other times become the nearest second of these years.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let (date, limit) = match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => {
            let since = Duration::try_from(since).unwrap_or(Duration::MAX);
            let date = OffsetDateTime::UNIX_EPOCH.checked_add(since);
            (date, "9999-12-31T23:59:59Z")
        }
        Err(until) => {
            let until = Duration::try_from(until.duration()).unwrap_or(Duration::MAX);
            let date = OffsetDateTime::UNIX_EPOCH.checked_sub(until);
            (date, "0000-01-01T00:00:00Z")
        }
    };
    date.and_then(|date| date.format(&Rfc3339).ok())
        .unwrap_or_else(|| limit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_formatted_in_utc_and_clamped() {
        let epoch = SystemTime::UNIX_EPOCH;
        let seconds = std::time::Duration::from_secs;
        for (time, text) in [
            (epoch + seconds(1_893_456_000), "2030-01-01T00:00:00Z"),
            (epoch - seconds(1), "1969-12-31T23:59:59Z"),
            (epoch + seconds(1 << 40), "9999-12-31T23:59:59Z"),
            (epoch - seconds(1 << 40), "0000-01-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(time), text);
        }
    }
}
