//! Points in time as text, the same everywhere: RFC 3339, in UTC.

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment as text. RFC 3339 knows the years 0 to 9999, within which every certificate's dates lie; beyond them the
/// default form has to do.
pub(crate) fn rfc3339(moment: OffsetDateTime) -> String {
    moment
        .format(&Rfc3339)
        .unwrap_or_else(|_| moment.to_string())
}

/// This moment.
pub(crate) fn now() -> String {
    rfc3339(OffsetDateTime::now_utc())
}
