//! Timestamps as text: RFC 3339, in UTC.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// Formats a timestamp. RFC 3339 covers the years 0 to 9999, as do certificates; other years use
/// the default format.
pub(crate) fn rfc3339(timestamp: OffsetDateTime) -> String {
    timestamp
        .format(&Rfc3339)
        .unwrap_or_else(|_| timestamp.to_string())
}

/// Returns the current time.
pub(crate) fn now() -> String {
    rfc3339(OffsetDateTime::now_utc())
}
