//! Delays that grow with the failures in a row, with jitter, so that devices that failed together do not come back
//! together.

use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;

/// Between requests for a token, and between requests that the session to the platform does not survive.
pub(crate) const TOKEN_RETRY: Backoff = Backoff {
    first: Duration::from_secs(5),
    longest: Duration::from_secs(300),
};
/// Between requests for a certificate: nobody waits for it, and the platform has to make it.
pub(crate) const ROTATION_RETRY: Backoff = Backoff {
    first: Duration::from_secs(30),
    longest: Duration::from_secs(3_600),
};
/// Least time before the tunnel is tried again.
const TUNNEL_MIN: Duration = Duration::from_secs(1);
/// Longest time before the first retries of the tunnel. The Python library and Home Assistant's client wait 1 to 15 s before every
/// one, so that is what relays are used to: the devices of a relay that restarts come back spread over a quarter of a minute.
const TUNNEL_INITIAL_MAX: Duration = Duration::from_secs(15);
/// Retries in a row before that time grows: a relay that restarts twice within a minute costs two to four.
const TUNNEL_FAST_RETRIES: u32 = 3;
/// Longest time before any retry of the tunnel: a device is back a minute after its relay at the latest, and a relay that is down
/// for long gets a quarter of the attempts that the fixed range would cause.
const TUNNEL_MAX: Duration = Duration::from_secs(60);

/// A delay that doubles.
pub(crate) struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Half to all of `first`, doubled for each failure in a row after the first one, at most `longest`.
    pub(crate) fn delay(&self, failures: u32, rng: &mut StdRng) -> Duration {
        let doublings = failures.saturating_sub(1).min(16);
        let full = self.first.saturating_mul(1 << doublings).min(self.longest);
        full.mul_f64(rng.random_range(0.5..=1.0))
    }
}

/// The delay before the tunnel is tried again, after so many failures in a row: at random between a second and a time that
/// doubles with each failure after the third, from 15 s to a minute.
pub(crate) fn tunnel_delay(failures: u32, rng: &mut StdRng) -> Duration {
    let doublings = failures.saturating_sub(TUNNEL_FAST_RETRIES).min(16);
    let longest = TUNNEL_INITIAL_MAX
        .saturating_mul(1 << doublings)
        .min(TUNNEL_MAX);
    rng.random_range(TUNNEL_MIN..=longest)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// The longest delays before the first retries, over many seeds, and what they add up to for the unluckiest.
    fn longest(retries: u32) -> (Vec<Duration>, Duration) {
        let mut longest = vec![Duration::ZERO; retries as usize];
        let mut total = Duration::ZERO;
        for seed in 0..2_000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut sum = Duration::ZERO;
            for (failures, longest) in (1..).zip(&mut longest) {
                let delay = tunnel_delay(failures, &mut rng);
                assert!(delay >= TUNNEL_MIN);
                *longest = delay.max(*longest);
                sum += delay;
            }
            total = total.max(sum);
        }
        (longest, total)
    }

    #[test]
    fn tunnel_delay_grows_after_third_failure_to_a_minute() {
        let (delays, _) = longest(8);
        for (delay, most) in delays.iter().zip([15, 15, 15, 30, 60, 60, 60, 60]) {
            let most = Duration::from_secs(most);
            assert!(*delay <= most && *delay > most.mul_f64(0.95), "{delays:?}");
        }
        assert!(tunnel_delay(u32::MAX, &mut StdRng::seed_from_u64(1)) <= TUNNEL_MAX);
    }

    /// Each restart is a loss and perhaps an attempt that comes too early.
    #[test]
    fn two_relay_restarts_cost_at_most_75_s() {
        let (_, total) = longest(4);
        assert!(total <= Duration::from_secs(75), "{total:?}");
    }

    /// A relay restarts, and all its devices notice in the same moment.
    #[test]
    fn fleet_reconnects_evenly_spread() {
        let mut seconds = [0_u32; 15];
        for seed in 0..15_000 {
            let delay = tunnel_delay(1, &mut StdRng::seed_from_u64(seed));
            seconds[usize::try_from(delay.as_secs()).unwrap().min(14)] += 1;
        }
        assert_eq!(seconds[0], 0);
        let even = 15_000 / 14;
        assert!(
            seconds[1..].iter().all(|count| count.abs_diff(even) < 200),
            "{seconds:?}"
        );
    }
}
