//! Dates as text: RFC 3339, in UTC.

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// Formats a time as RFC 3339, in UTC. RFC 3339 covers the years 0 to 9999, which include the dates
/// of all certificates; others use the default format.
#[must_use]
pub fn rfc3339(time: OffsetDateTime) -> String {
    time.to_offset(UtcOffset::UTC)
        .format(&Rfc3339)
        .unwrap_or_else(|_| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_formatted_in_utc() {
        let time = OffsetDateTime::from_unix_timestamp(1_893_456_000).unwrap();
        let east = time.to_offset(UtcOffset::from_hms(2, 0, 0).unwrap());
        assert_eq!(rfc3339(east), "2030-01-01T00:00:00Z");
    }
}
