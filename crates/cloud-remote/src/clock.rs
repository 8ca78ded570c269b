//! The platform's clock.
//!
//! A device's wall clock may be wrong by years (flat battery, no time server). Dates (a token's
//! `valid`, a certificate's validity) are therefore checked by the last known platform time,
//! advanced by a monotonic clock. Until it is set, the wall clock is used; a check that depends on
//! it must neither block nor loop.

use std::sync::{Arc, Mutex, PoisonError};

use cloud_net::{LogThrottle, warn_throttled};
use time::OffsetDateTime;
use tokio::time::Instant;

/// Differences from this many seconds are logged as a warning; smaller ones are usual without a
/// time server.
const WARNING_THRESHOLD: u64 = 300;

/// The platform's clock. Clones share it.
///
/// ```
/// let clock = cloud_remote::PlatformClock::default();
/// assert!(!clock.is_set(), "initially it shows the wall clock");
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
    /// Sets the platform's clock to `unix` seconds.
    pub fn set(&self, unix: i64) {
        let wall_ahead = OffsetDateTime::now_utc()
            .unix_timestamp()
            .saturating_sub(unix);
        if wall_ahead.unsigned_abs() >= WARNING_THRESHOLD {
            warn_throttled!(
                self.0.wrong_log,
                wall_ahead,
                "this device's clock is ahead by this many seconds; the platform's is used"
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

    /// Sets the platform's clock to the wall clock plus this many milliseconds.
    pub fn set_offset(&self, milliseconds: i64) {
        let wall = OffsetDateTime::now_utc().unix_timestamp();
        self.set(wall.saturating_add(milliseconds / 1000));
    }

    /// Returns whether the clock was set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.get().is_some()
    }

    /// Returns Unix seconds: the last set time, advanced by a monotonic clock, or else the wall
    /// clock.
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

    /// Returns the current time as a date.
    #[must_use]
    pub fn now(&self) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(self.unix())
            .unwrap_or_else(|_| OffsetDateTime::now_utc())
    }

    /// Throttles the warnings about a clock that was never set.
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
