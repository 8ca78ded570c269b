//! Timestamps as text: RFC 3339, in UTC.

use std::time::SystemTime;

pub(crate) use cloud_net::rfc3339;

/// Returns the current time.
pub(crate) fn now() -> String {
    rfc3339(SystemTime::now())
}
