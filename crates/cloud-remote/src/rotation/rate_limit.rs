//! The rate limit of one certificate's rotations.
//!
//! A token bucket: each request takes a token, and a token returns after [`REFILL`]. The fewer
//! tokens are left, the longer is the time until the next one may be taken, so that there is no
//! step between "at once" and "in a quarter of an hour": a second rotation follows the first after
//! seconds, and a burst soon ends with the newest certificate. Each installation follows a request,
//! so this limits both.

use std::time::Duration;

/// A token returns after this time. This is also the longest time between two requests, so a
/// platform that keeps naming other certificates causes 96 a day: each is 3 renames and 5 syncs of
/// small files, and a reconnect for the broker's certificate.
const REFILL: Duration = Duration::from_secs(15 * 60);
/// The time until the second request. Certificates named within it cause one request, for the
/// newest.
const FIRST_GAP: Duration = Duration::from_secs(2);
/// Each further token multiplies the time by this factor: 2 s, 4 s, 8 s and so on, at most
/// [`REFILL`].
const GROWTH: u32 = 2;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct RateLimit {
    /// Tokens that were taken and have not returned by `counted`.
    taken: u32,
    /// The time until which the return of tokens is counted.
    counted: Duration,
    last: Duration,
}

impl RateLimit {
    /// Returns the time from which a token may be taken: not after `now` if one is available.
    pub(super) fn next(&self, now: Duration) -> Duration {
        match self.taken_at(now).0.checked_sub(1) {
            None => now,
            Some(exponent) => {
                let gap = FIRST_GAP.saturating_mul(GROWTH.saturating_pow(exponent));
                self.last + gap.min(REFILL)
            }
        }
    }

    pub(super) fn take(&mut self, now: Duration) {
        let (taken, counted) = self.taken_at(now);
        *self = Self {
            taken: taken.saturating_add(1),
            counted,
            last: now,
        };
    }

    fn taken_at(&self, now: Duration) -> (u32, Duration) {
        let returned = now.saturating_sub(self.counted).as_secs() / REFILL.as_secs();
        let returned = u32::try_from(returned).unwrap_or(u32::MAX);
        if returned >= self.taken {
            (0, now)
        } else {
            (self.taken - returned, self.counted + REFILL * returned)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    /// Takes each token as soon as possible and returns the times.
    fn flood(limit: &mut RateLimit, from: Duration, to: Duration) -> Vec<Duration> {
        let mut times = Vec::new();
        let mut now = from;
        loop {
            now = now.max(limit.next(now));
            if now > to {
                return times;
            }
            limit.take(now);
            times.push(now - from);
        }
    }

    #[test]
    fn flood_is_slowed_to_one_per_refill() {
        let mut limit = RateLimit::default();
        let times = flood(&mut limit, Duration::ZERO, DAY);
        let first = [0, 2, 6, 14, 30, 62, 126, 254, 510].map(Duration::from_secs);
        assert_eq!(times[..first.len()], first);
        assert!(times.len() <= 96 + first.len(), "{} in a day", times.len());
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] <= REFILL));
    }

    #[test]
    fn one_after_calm_is_immediate() {
        let mut limit = RateLimit::default();
        flood(&mut limit, Duration::ZERO, DAY);
        let now = DAY + REFILL;
        assert!(limit.next(now) <= now);
        let later = now + REFILL * 10;
        assert_eq!(flood(&mut limit, later, later + 10 * SECOND).len(), 3);
    }

    #[test]
    fn steady_requests_below_the_rate_never_wait() {
        let mut limit = RateLimit::default();
        for round in 0..1_000 {
            let now = REFILL * round;
            assert_eq!(limit.next(now), now, "round {round}");
            limit.take(now);
        }
    }
}
