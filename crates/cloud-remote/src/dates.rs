//! Dates as text in messages and log lines, the same everywhere: RFC 3339, in UTC.

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

/// A moment as text. RFC 3339 knows the years 0 to 9999, within which every certificate's dates lie; beyond them the
/// default form has to do.
pub(crate) fn rfc3339(moment: OffsetDateTime) -> String {
    moment
        .to_offset(UtcOffset::UTC)
        .format(&Rfc3339)
        .unwrap_or_else(|_| moment.to_string())
}
