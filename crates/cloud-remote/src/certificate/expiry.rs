//! Expiry notices of a certificate: 30, 14 and 3 days in advance, once each.
//!
//! The platform's operator should have set a new certificate by then. Notices are not persistent:
//! after a restart, the latest one is repeated.

use time::Duration;

/// Notice periods in days, in descending order.
const NOTICE_DAYS: [u16; 3] = [30, 14, 3];

/// The expiry notices of one certificate.
///
/// ```
/// let mut watch = cloud_remote::ExpiryWatch::default();
/// assert_eq!(watch.due(time::Duration::days(31)), None);
/// assert_eq!(watch.due(time::Duration::days(29)), Some(30));
/// assert_eq!(watch.due(time::Duration::days(28)), None, "given already");
/// ```
#[derive(Debug, Default)]
pub struct ExpiryWatch {
    last_notice: Option<u16>,
}

impl ExpiryWatch {
    /// Returns the notice that is due, in days, for this remaining time. A missed notice is skipped
    /// once a later one was due.
    pub fn due(&mut self, left: Duration) -> Option<u16> {
        let nearest = NOTICE_DAYS
            .into_iter()
            .filter(|days| left <= Duration::days(i64::from(*days)))
            .min()?;
        if self.last_notice.is_some_and(|last| last <= nearest) {
            return None;
        }
        self.last_notice = Some(nearest);
        Some(nearest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notice_is_given_once() {
        let mut watch = ExpiryWatch::default();
        let mut notices = Vec::new();
        for hours_left in (-48..90 * 24).rev() {
            notices.extend(
                watch
                    .due(Duration::hours(hours_left))
                    .map(|days| (hours_left, days)),
            );
        }
        assert_eq!(notices, [(30 * 24, 30), (14 * 24, 14), (3 * 24, 3)]);
    }

    #[test]
    fn late_start_gives_nearest_notice_and_clock_back_gives_none() {
        let mut watch = ExpiryWatch::default();
        assert_eq!(watch.due(Duration::days(10)), Some(14));
        assert_eq!(watch.due(Duration::days(29)), None);
        assert_eq!(watch.due(Duration::days(10)), None);
        assert_eq!(watch.due(Duration::days(-1)), Some(3));
        assert_eq!(ExpiryWatch::default().due(Duration::days(31)), None);
    }
}
