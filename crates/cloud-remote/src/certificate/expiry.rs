//! Expiry notices of a certificate: 30, 14 and 3 days in advance, once each.
//!
//! The platform's operator should have set a new certificate by then. Notices are not persistent:
//! after a restart, the latest one is repeated.

use std::time::Duration;

/// Notice periods in days, in descending order.
const NOTICE_DAYS: [u16; 3] = [30, 14, 3];

/// The expiry notices of one certificate.
///
/// ```
/// let mut watch = cloud_remote::ExpiryWatch::default();
/// let days = |days: u64| std::time::Duration::from_secs(days * 86_400);
/// assert_eq!(watch.due(days(31)), None);
/// assert_eq!(watch.due(days(29)), Some(30));
/// assert_eq!(watch.due(days(28)), None, "given already");
/// ```
#[derive(Debug, Default)]
pub struct ExpiryWatch {
    last_notice: Option<u16>,
}

impl ExpiryWatch {
    /// Returns the notice that is due, in days, for this remaining time, which is zero for an
    /// expired certificate. A missed notice is skipped once a later one was due.
    pub fn due(&mut self, left: Duration) -> Option<u16> {
        let nearest = NOTICE_DAYS
            .into_iter()
            .filter(|days| left <= self::days(u64::from(*days)))
            .min()?;
        if self.last_notice.is_some_and(|last| last <= nearest) {
            return None;
        }
        self.last_notice = Some(nearest);
        Some(nearest)
    }
}

/// Returns a duration of days.
fn days(days: u64) -> Duration {
    Duration::from_secs(days * 86_400)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notice_is_given_once() {
        let mut watch = ExpiryWatch::default();
        let mut notices = Vec::new();
        for hours_left in (0..90 * 24).rev() {
            notices.extend(
                watch
                    .due(Duration::from_secs(hours_left * 3_600))
                    .map(|days| (hours_left, days)),
            );
        }
        assert_eq!(notices, [(30 * 24, 30), (14 * 24, 14), (3 * 24, 3)]);
    }

    #[test]
    fn late_start_gives_nearest_notice_and_clock_back_gives_none() {
        let mut watch = ExpiryWatch::default();
        assert_eq!(watch.due(days(10)), Some(14));
        assert_eq!(watch.due(days(29)), None);
        assert_eq!(watch.due(days(10)), None);
        assert_eq!(watch.due(Duration::ZERO), Some(3));
        assert_eq!(ExpiryWatch::default().due(days(31)), None);
    }
}
