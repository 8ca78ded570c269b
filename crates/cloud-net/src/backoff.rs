//! Back-off: delays that grow with consecutive failures, with jitter, so that devices that failed
//! together do not retry together.

use std::time::Duration;

/// Delays that double with each failure. What counts as a failure is up to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExponentialBackoff {
    /// The bound of the delay after the first failure.
    pub first: Duration,
    /// The maximum of all delays.
    pub max: Duration,
}

impl ExponentialBackoff {
    /// Returns the bound of the delay after the `failures`-th consecutive failure: `first`, doubled
    /// for each failure after the first one, at most `max`.
    #[must_use]
    pub fn bound(self, failures: u32) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }

    /// Returns a delay between half of that bound and all of it; `random` is uniform in 0–1.
    #[must_use]
    pub fn delay(self, failures: u32, random: f64) -> Duration {
        let half = self.bound(failures) / 2;
        half + half.mul_f64(random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: ExponentialBackoff = ExponentialBackoff {
        first: Duration::from_secs(4),
        max: Duration::from_secs(30),
    };

    #[test]
    fn bound_doubles_up_to_the_maximum() {
        let bounds = [0, 1, 2, 3, 4, 5, u32::MAX].map(|n| BACKOFF.bound(n).as_secs());
        assert_eq!(bounds, [4, 4, 8, 16, 30, 30, 30]);
        let max = Duration::MAX;
        assert_eq!(ExponentialBackoff { first: max, max }.bound(9), max);
    }

    #[test]
    fn delay_is_between_half_and_all_of_the_bound() {
        let seconds = |random| BACKOFF.delay(2, random).as_secs();
        assert_eq!([-1.0, 0.0, 0.5, 1.0, 2.0].map(seconds), [4, 4, 6, 8, 8]);
    }
}
