//! Back-off between connection attempts.
//!
//! After the `n`-th consecutive failure the delay is `base_delay × 2^min(max_exponent, n)` plus a
//! random part between 0 and `jitter × n`, and at most `max_delay`. The count returns to zero only
//! when a connection has lasted for `reset_after`, so a server that accepts and drops connections
//! is retried as slowly as one that is down.
//!
//! Failures that do not pass by themselves have longer delays; see [`Retry`].

use std::time::Duration;

use cloud_net::ExponentialBackoff;

use crate::session::setters::setters;

/// Class of a failure, which determines the delay before the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// The failure may pass at any time: the delay follows the formula.
    Transient,
    /// The server is busy or a quota is exceeded, and more attempts make it worse: the delay is two
    /// exponents higher.
    Busy,
    /// The failure needs a change: of a certificate, a policy, or a second device with the same
    /// client ID. The delay starts where the formula ends and doubles up to `max_delay`.
    Persistent,
}

/// Delays between connection attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backoff {
    /// Delay that doubles with each failure. Default: 1 s.
    pub base_delay: Duration,
    /// Maximum number of doublings, 0–16. Default: 4, so 16 s.
    pub max_exponent: u32,
    /// Growth of the random part with each failure, so that a thousand devices do not reconnect
    /// together. Default: 4 s.
    pub jitter: Duration,
    /// Maximum delay, from `base_delay` to one day. Default: 5 min, so that a device is back soon
    /// after a long outage.
    pub max_delay: Duration,
    /// How long a connection must last before earlier failures are forgotten. Default: 60 s.
    pub reset_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            base_delay: Duration::from_secs(1),
            max_exponent: 4,
            jitter: Duration::from_secs(4),
            max_delay: Duration::from_secs(300),
            reset_after: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// Returns the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        base_delay: Duration,
        max_exponent: u32,
        jitter: Duration,
        max_delay: Duration,
        reset_after: Duration,
    }

    /// Returns the delay after the `failures`-th consecutive failure; `random` is uniform in 0–1.
    pub(crate) fn delay(&self, retry: Retry, failures: u32, random: f64) -> Duration {
        let exponent = match retry {
            Retry::Transient => failures.min(self.max_exponent),
            Retry::Busy => failures.saturating_add(2).min(self.max_exponent),
            Retry::Persistent => failures.saturating_add(self.max_exponent),
        };
        let doubled = ExponentialBackoff {
            first: self.base_delay,
            max: self.max_delay,
        }
        .bound(exponent.saturating_add(1));
        let jitter = self.jitter.saturating_mul(failures).min(self.max_delay);
        doubled
            .saturating_add(jitter.mul_f64(random.clamp(0.0, 1.0)))
            .min(self.max_delay)
    }
}

/// Number of consecutive failures.
#[derive(Debug, Default)]
pub(crate) struct Failures(u32);

impl Failures {
    /// Counts a failure; `connected` is how long the previous connection lasted.
    pub(crate) fn record(&mut self, backoff: &Backoff, connected: Option<Duration>) -> u32 {
        self.credit(backoff, connected);
        self.0 = self.0.saturating_add(1);
        self.0
    }

    /// Resets the count if the connection lasted long enough.
    pub(crate) fn credit(&mut self, backoff: &Backoff, connected: Option<Duration>) {
        if connected.is_some_and(|time| time >= backoff.reset_after) {
            self.0 = 0;
        }
    }

    pub(crate) fn count(&self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn grows_by_the_formula() {
        let backoff = Backoff::default();
        let seconds = |n, random| backoff.delay(Retry::Transient, n, random).as_secs();
        assert_eq!([1, 2, 3, 4, 5].map(|n| seconds(n, 0.0)), [2, 4, 8, 16, 16]);
        assert_eq!(
            [1, 2, 3, 4, 5].map(|n| seconds(n, 1.0)),
            [6, 12, 20, 32, 36]
        );
        assert_eq!(seconds(u32::MAX, 1.0), 300);
    }

    #[test]
    fn persistent_failure_waits_longer() {
        let backoff = Backoff::default();
        let waits = |retry| [1, 2, 3, 4, 5, 6].map(|n| backoff.delay(retry, n, 0.0).as_secs());
        assert_eq!(waits(Retry::Transient), [2, 4, 8, 16, 16, 16]);
        assert_eq!(waits(Retry::Busy), [8, 16, 16, 16, 16, 16]);
        assert_eq!(waits(Retry::Persistent), [32, 64, 128, 256, 300, 300]);
        assert_eq!(
            backoff.delay(Retry::Persistent, u32::MAX, 1.0),
            backoff.max_delay
        );
    }

    #[test]
    fn reset_by_time_spent_connected_only() {
        let backoff = Backoff::default();
        let mut failures = Failures::default();
        for n in 1..=10 {
            assert_eq!(failures.record(&backoff, Some(Duration::from_secs(1))), n);
        }
        assert_eq!(failures.record(&backoff, None), 11);
        assert_eq!(failures.record(&backoff, Some(Duration::from_secs(60))), 1);
    }

    proptest! {
        #[test]
        fn stays_within_its_bounds(failures in any::<u32>(), random in 0.0..1.0_f64) {
            let backoff = Backoff::default();
            let delay = backoff.delay(Retry::Transient, failures, random);
            prop_assert!(delay <= backoff.max_delay);
            prop_assert!(delay >= backoff.delay(Retry::Transient, failures, 0.0));
        }
    }
}
