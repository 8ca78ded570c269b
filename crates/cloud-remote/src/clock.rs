//! What time it is by the platform's clock.
//!
//! The wall clock of a device may be wrong by years: a flat battery, no time server yet. What has to be judged by a date (a
//! token's `valid`, a certificate's validity) is therefore judged by what the platform has last told, carried on by a clock
//! that only goes forward. Until it has told anything, the wall clock has to do; whatever depends on it must then neither
//! block nor loop.

use std::sync::{Arc, Mutex, PoisonError};

use cloud_net::{LogThrottle, warn_throttled};
use time::OffsetDateTime;
use tokio::time::Instant;

/// A difference of this many seconds is worth a warning; less is usual without a time server.
const WORTH_A_WARNING: u64 = 300;

/// The platform's clock, as far as it is known. Clones are the same one, shared by all who need it.
///
/// ```
/// let clock = cloud_remote::PlatformClock::default();
/// assert!(!clock.is_told(), "until then it shows what the wall clock does");
/// clock.told(1_893_456_000);
/// assert!(clock.unix() >= 1_893_456_000);
/// ```
#[derive(Debug, Clone, Default)]
pub struct PlatformClock(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    told: Mutex<Option<Told>>,
    wrong_log: LogThrottle,
    never_set_log: LogThrottle,
}

#[derive(Debug, Clone, Copy)]
struct Told {
    unix: i64,
    at: Instant,
}

impl PlatformClock {
    /// The platform's clock shows `unix` seconds now. What it was told before is forgotten.
    pub fn told(&self, unix: i64) {
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
        let told = Told {
            unix,
            at: Instant::now(),
        };
        *self.0.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }

    /// The device's own clock shows so many milliseconds too little (or, if negative, too much).
    pub fn corrected_by(&self, milliseconds: i64) {
        let wall = OffsetDateTime::now_utc().unix_timestamp();
        self.told(wall.saturating_add(milliseconds / 1000));
    }

    /// Whether the platform has told the time.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.get().is_some()
    }

    /// Unix seconds: what was told last, carried on by a clock that only goes forward, or else the wall clock.
    #[must_use]
    pub fn unix(&self) -> i64 {
        match self.get() {
            Some(told) => {
                let since = i64::try_from(told.at.elapsed().as_secs()).unwrap_or(i64::MAX);
                told.unix.saturating_add(since)
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

    fn get(&self) -> Option<Told> {
        *self.0.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_told_goes_on_whatever_the_wall_clock_says() {
        let clock = PlatformClock::default();
        let wall = OffsetDateTime::now_utc().unix_timestamp();
        assert!(!clock.is_told() && clock.unix() >= wall);
        clock.told(1_893_456_000);
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(clock.unix(), 1_893_459_600);
        assert_eq!(clock.now().unix_timestamp(), 1_893_459_600);
        assert!(clock.clone().is_told());
        for no_date in [i64::MAX, i64::MIN] {
            clock.told(no_date);
            assert!(clock.now().unix_timestamp() >= wall);
        }
    }
}
