//! How long to wait before the next attempt.
//!
//! After the `n`-th failure in a row the wait is `unit × 2^min(max_exponent, n)` plus a random part
//! between nothing and `jitter × n`, and never more than `ceiling`. The count goes back to zero
//! only when a connection has stayed up for `reset_after`: a server that accepts and drops at once
//! makes the wait grow like one that is down.
//!
//! A cause that does not pass by itself waits longer; see [`Retry`].
//!
//! See docs/protocol.md, "IoT messaging".

use std::time::Duration;

/// How a failure delays the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Retry {
    /// It may pass at any time, by itself: by the formula.
    Ordinary,
    /// The server is busy or a quota is used up; more attempts make it worse: two steps further on.
    Busy,
    /// Somebody has to act: a certificate, a policy, or a second device with the same client id. It
    /// begins where the formula ends and doubles from there up to the ceiling.
    Stubborn,
}

/// The waits between attempts to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    /// The time that is doubled with each failure. Default: 1 s.
    pub unit: Duration,
    /// How often it is doubled at most, 0–16. Default: 4, so 16 s.
    pub max_exponent: u32,
    /// The random part grows by up to this with each failure, so that a thousand devices do not
    /// come back together. Default: 4 s.
    pub jitter: Duration,
    /// The longest wait, from `unit` to one day. Default: 5 min, so that a device is back soon after a long outage.
    pub ceiling: Duration,
    /// How long a connection must have lasted for the failures before it to be forgotten.
    /// Default: 60 s.
    pub reset_after: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            unit: Duration::from_secs(1),
            max_exponent: 4,
            jitter: Duration::from_secs(4),
            ceiling: Duration::from_secs(300),
            reset_after: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// The wait after the `failures`-th failure in a row; `random` is uniform in 0–1.
    pub(crate) fn delay(&self, retry: Retry, failures: u32, random: f64) -> Duration {
        let exponent = match retry {
            Retry::Ordinary => failures.min(self.max_exponent),
            Retry::Busy => failures.saturating_add(2).min(self.max_exponent),
            Retry::Stubborn => failures.saturating_add(self.max_exponent),
        };
        let doubled = self.unit.saturating_mul(1 << exponent.min(16));
        let jitter = self.jitter.saturating_mul(failures).min(self.ceiling);
        doubled
            .saturating_add(jitter.mul_f64(random.clamp(0.0, 1.0)))
            .min(self.ceiling)
    }
}

/// The failures in a row so far.
#[derive(Debug, Default)]
pub(crate) struct Failures(u32);

impl Failures {
    /// Counts a failure, `connected` being how long the connection before it had lasted.
    pub(crate) fn record(&mut self, backoff: &Backoff, connected: Option<Duration>) -> u32 {
        self.credit(backoff, connected);
        self.0 = self.0.saturating_add(1);
        self.0
    }

    /// Forgets them if the connection has lasted long enough.
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
        let seconds = |n, random| backoff.delay(Retry::Ordinary, n, random).as_secs();
        assert_eq!([1, 2, 3, 4, 5].map(|n| seconds(n, 0.0)), [2, 4, 8, 16, 16]);
        assert_eq!(
            [1, 2, 3, 4, 5].map(|n| seconds(n, 1.0)),
            [6, 12, 20, 32, 36]
        );
        assert_eq!(seconds(u32::MAX, 1.0), 300);
    }

    #[test]
    fn what_does_not_pass_by_itself_waits_longer() {
        let backoff = Backoff::default();
        let waits = |retry| [1, 2, 3, 4, 5, 6].map(|n| backoff.delay(retry, n, 0.0).as_secs());
        assert_eq!(waits(Retry::Ordinary), [2, 4, 8, 16, 16, 16]);
        assert_eq!(waits(Retry::Busy), [8, 16, 16, 16, 16, 16]);
        assert_eq!(waits(Retry::Stubborn), [32, 64, 128, 256, 300, 300]);
        assert_eq!(
            backoff.delay(Retry::Stubborn, u32::MAX, 1.0),
            backoff.ceiling
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
            let delay = backoff.delay(Retry::Ordinary, failures, random);
            prop_assert!(delay <= backoff.ceiling);
            prop_assert!(delay >= backoff.delay(Retry::Ordinary, failures, 0.0));
        }
    }
}
