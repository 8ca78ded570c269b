//! Time as an input of the core.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A point on the driver's clock, as the time since an arbitrary start.
///
/// Not [`std::time::Instant`], which only the system's clock can create and which panics on a
/// target without one. The clock must advance; a timestamp that is slightly older than the previous
/// one does no harm. It counts nanoseconds for 584 years and saturates then.
///
/// ```
/// use std::time::Duration;
/// use snitun::Timestamp;
///
/// let now = Timestamp::after_start(Duration::from_millis(250));
/// let later = now + Duration::from_secs(1);
/// assert_eq!(later - now, Duration::from_secs(1));
/// assert_eq!(now - later, Duration::ZERO); // there is no time before
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp {
    nanos: u64,
}

impl Timestamp {
    /// The start of the driver's clock.
    pub const START: Self = Self { nanos: 0 };

    /// Returns the timestamp `time` after the start.
    pub fn after_start(time: Duration) -> Self {
        Self { nanos: nanos(time) }
    }

    /// Returns the time since the start.
    pub fn since_start(self) -> Duration {
        Duration::from_nanos(self.nanos)
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self {
            nanos: self.nanos.saturating_add(nanos(time)),
        }
    }
}

impl AddAssign<Duration> for Timestamp {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

impl Sub for Timestamp {
    type Output = Duration;

    /// Returns the time from `earlier` to `self`; zero if `earlier` is later.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
