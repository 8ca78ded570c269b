//! What time it is by the platform's clock.
//!
//! The wall clock of a device may be wrong by years: a flat battery, no time server yet. What has to be judged by a date (a
//! token's `valid`, a certificate's validity) is therefore judged by what the platform has last told, carried on by a clock
//! that only goes forward. Until it has told anything, the wall clock has to do; whatever depends on it must then neither
//! block nor loop.

use std::sync::{Arc, Mutex, PoisonError};

use cloud_net::{LogThrottle, warn_throttled};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};
use tokio::time::Instant;

/// A difference of this many seconds is worth a warning; less is usual without a time server.
const WORTH_A_WARNING: u64 = 300;

/// The platform's clock, as far as it is known. Clones are the same one, shared by all who need it.
///
/// ```
/// let clock = cloud_remote::PlatformClock::default();
/// assert!(!clock.is_set(), "until then it shows what the wall clock does");
/// clock.set(1_893_456_000);
/// assert!(clock.unix() >= 1_893_456_000);
/// ```
#[derive(Debug, Clone, Default)]
pub struct PlatformClock(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    reading: Mutex<Option<Reading>>,
    wrong_log: LogThrottle,
    never_set_log: LogThrottle,
}

#[derive(Debug, Clone, Copy)]
struct Reading {
    unix: i64,
    at: Instant,
}

impl PlatformClock {
    /// The platform's clock shows `unix` seconds now. What it was told before is forgotten.
    pub fn set(&self, unix: i64) {
        let wall_ahead = OffsetDateTime::now_utc()
            .unix_timestamp()
            .saturating_sub(unix);
        if wall_ahead.unsigned_abs() >= WORTH_A_WARNING {
            warn_throttled!(
                self.0.wrong_log,
                wall_ahead,
                "this device's clock is wrong by so many seconds; the platform's is used"
            );
        }
        let reading = Reading {
            unix,
            at: Instant::now(),
        };
        *self
            .0
            .reading
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(reading);
    }

    /// The device's own clock shows so many milliseconds too little (or, if negative, too much).
    pub fn set_offset(&self, milliseconds: i64) {
        let wall = OffsetDateTime::now_utc().unix_timestamp();
        self.set(wall.saturating_add(milliseconds / 1000));
    }

    /// Whether the platform has told the time.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.get().is_some()
    }

    /// Unix seconds: what was told last, carried on by a clock that only goes forward, or else the wall clock.
    #[must_use]
    pub fn unix(&self) -> i64 {
        match self.get() {
            Some(reading) => {
                let since = i64::try_from(reading.at.elapsed().as_secs()).unwrap_or(i64::MAX);
                reading.unix.saturating_add(since)
            }
            None => OffsetDateTime::now_utc().unix_timestamp(),
        }
    }

    /// The same as a date.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.unix())
            .unwrap_or_else(|_| OffsetDateTime::now_utc())
    }

    /// Limits the warnings about a clock that was never set.
    pub(crate) fn never_set_log(&self) -> &LogThrottle {
        &self.0.never_set_log
    }

    fn get(&self) -> Option<Reading> {
        *self
            .0
            .reading
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A moment as text. RFC 3339 knows the years 0 to 9999, within which every certificate's dates lie; beyond them the
/// default form has to do.
pub(crate) fn rfc3339(moment: OffsetDateTime) -> String {
    moment
        .to_offset(UtcOffset::UTC)
        .format(&Rfc3339)
        .unwrap_or_else(|_| moment.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn set_time_advances_independently_of_wall_clock() {
        let clock = PlatformClock::default();
        let wall = OffsetDateTime::now_utc().unix_timestamp();
        assert!(!clock.is_set() && clock.unix() >= wall);
        clock.set(1_893_456_000);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(clock.unix(), 1_893_459_600);
        assert_eq!(clock.now().unix_timestamp(), 1_893_459_600);
        assert!(clock.clone().is_set());
        for no_date in [i64::MAX, i64::MIN] {
            clock.set(no_date);
            assert!(clock.now().unix_timestamp() >= wall);
        }
    }
}
