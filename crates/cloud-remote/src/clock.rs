//! The platform's clock.
//!
//! A device's wall clock may be wrong by years (flat battery, no time server). Dates (a token's
//! `valid`, a certificate's validity) are therefore checked by the last known platform time,
//! advanced by a monotonic clock. Until it is set, the wall clock is used; a check that depends on
//! it must neither block nor loop.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use cloud_net::{LogThrottle, from_unix_seconds, unix_seconds, warn_throttled};
use rustls::pki_types::UnixTime;
use tokio::time::Instant;

/// Differences from this many seconds are logged as a warning; smaller ones are usual without a
/// time server.
const WARNING_THRESHOLD: u64 = 300;

/// The platform's clock. Clones share it.
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// let clock = cloud_remote::PlatformClock::default();
/// assert!(!clock.is_set(), "initially it shows the wall clock");
/// let platform_time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000);
/// clock.set(platform_time);
/// assert!(clock.now() >= platform_time);
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
    time: SystemTime,
    at: Instant,
}

impl PlatformClock {
    /// Sets the platform's clock.
    pub fn set(&self, time: SystemTime) {
        let wall_ahead = unix_seconds(SystemTime::now()).saturating_sub(unix_seconds(time));
        if wall_ahead.unsigned_abs() >= WARNING_THRESHOLD {
            warn_throttled!(
                self.0.wrong_log,
                wall_ahead,
                "this device's clock is ahead by this many seconds; the platform's is used"
            );
        }
        let reading = Reading {
            time,
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
        let wall = unix_seconds(SystemTime::now());
        self.set(from_unix_seconds(wall.saturating_add(milliseconds / 1000)));
    }

    /// Returns whether the clock was set.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.get().is_some()
    }

    /// Returns the current time: the last set time, advanced by a monotonic clock, or else the wall
    /// clock.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        let advanced = |reading: Reading| reading.time.checked_add(reading.at.elapsed());
        self.get()
            .and_then(advanced)
            .unwrap_or_else(SystemTime::now)
    }

    /// Returns the current time as rustls takes it.
    pub(crate) fn for_rustls(&self) -> UnixTime {
        let since = self.now().duration_since(UNIX_EPOCH);
        UnixTime::since_unix_epoch(since.unwrap_or_default())
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
        let wall = SystemTime::now();
        assert!(!clock.is_set() && clock.now() >= wall);
        clock.set(from_unix_seconds(1_893_456_000));
        tokio::time::advance(Duration::from_secs(3_600)).await;
        assert_eq!(clock.now(), from_unix_seconds(1_893_459_600));
        assert!(clock.clone().is_set());
    }
}
