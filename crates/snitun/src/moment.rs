//! Time, as the core sees it: handed in, never asked for.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

/// A point in time on the clock of whoever drives the core: how long after a start of the driver's own choosing.
///
/// Not [`std::time::Instant`], which can only be had from the system's clock, and of which a target without one has none. Of a
/// clock the core needs that it goes on; a moment that is a little older than the one before does no harm. It counts
/// nanoseconds for 584 years and stands still then.
///
/// ```
/// use std::time::Duration;
/// use snitun::Moment;
///
/// let now = Moment::after_start(Duration::from_millis(250));
/// let later = now + Duration::from_secs(1);
/// assert_eq!(later - now, Duration::from_secs(1));
/// assert_eq!(now - later, Duration::ZERO); // there is no time before
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    nanos: u64,
}

impl Moment {
    /// When the driver's clock began.
    pub const START: Self = Self { nanos: 0 };

    /// So long after the start.
    pub fn after_start(time: Duration) -> Self {
        Self { nanos: nanos(time) }
    }

    /// How long after the start this is.
    pub fn since_start(self) -> Duration {
        Duration::from_nanos(self.nanos)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, time: Duration) -> Self {
        Self {
            nanos: self.nanos.saturating_add(nanos(time)),
        }
    }
}

impl AddAssign<Duration> for Moment {
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

impl Sub for Moment {
    type Output = Duration;

    /// How long it was from `earlier` until this; nothing if that is later.
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanos.saturating_sub(earlier.nanos))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
