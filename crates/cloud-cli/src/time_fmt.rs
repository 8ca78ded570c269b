//! Timestamps as text: RFC 3339, in UTC.

pub(crate) use cloud_net::rfc3339;
use time::OffsetDateTime;

/// Returns the current time.
pub(crate) fn now() -> String {
    rfc3339(OffsetDateTime::now_utc())
}
