//! The delays between attempts.

use std::time::Duration;

use cloud_net::ExponentialBackoff;
use rand::RngExt;
use rand::rngs::StdRng;

/// Back-off of token requests, and of requests during which the session to the platform ends.
pub(crate) const TOKEN_RETRY: ExponentialBackoff = ExponentialBackoff {
    first: Duration::from_secs(5),
    max: Duration::from_secs(300),
};
/// Back-off of certificate requests: none is urgent, and the platform has to create the
/// certificate.
pub(crate) const ROTATION_RETRY: ExponentialBackoff = ExponentialBackoff {
    first: Duration::from_secs(30),
    max: Duration::from_secs(3_600),
};
/// Minimum delay before a reconnect of the tunnel.
const TUNNEL_MIN: Duration = Duration::from_secs(1);
/// Maximum delay of the first reconnects. The Python library and Home Assistant's client wait 1 to
/// 15 s before each one, so relays expect that: the devices of a restarted relay reconnect within a
/// quarter of a minute.
const TUNNEL_FIRST_MAX: Duration = Duration::from_secs(15);
/// Consecutive failures after which that maximum grows: a relay that restarts twice within a minute
/// causes two to four.
const TUNNEL_FAST_RETRIES: u32 = 3;
/// Maximum delay of any reconnect: a device is back at most a minute after its relay, and a relay
/// that is down for long gets a quarter of the attempts of the fixed range.
const TUNNEL_MAX: Duration = Duration::from_secs(60);

/// The maximum delay of reconnects, from the last of [`TUNNEL_FAST_RETRIES`] on.
const TUNNEL_RETRY: ExponentialBackoff = ExponentialBackoff {
    first: TUNNEL_FIRST_MAX,
    max: TUNNEL_MAX,
};

/// Returns the delay before a reconnect after this number of consecutive failures: random between a
/// second and a maximum that doubles with each failure after the third, from 15 s to a minute.
pub(crate) fn tunnel_delay(failures: u32, rng: &mut StdRng) -> Duration {
    let max = TUNNEL_RETRY.bound(failures.saturating_sub(TUNNEL_FAST_RETRIES - 1));
    rng.random_range(TUNNEL_MIN..=max)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// Returns the maximum delays of the first retries over many seeds, and the maximum of their
    /// sum.
    fn max_delays(retries: u32) -> (Vec<Duration>, Duration) {
        let mut max = vec![Duration::ZERO; retries as usize];
        let mut total = Duration::ZERO;
        for seed in 0..2_000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut sum = Duration::ZERO;
            for (failures, max) in (1..).zip(&mut max) {
                let delay = tunnel_delay(failures, &mut rng);
                assert!(delay >= TUNNEL_MIN);
                *max = delay.max(*max);
                sum += delay;
            }
            total = total.max(sum);
        }
        (max, total)
    }

    #[test]
    fn tunnel_delay_grows_after_third_failure_to_a_minute() {
        let (delays, _) = max_delays(8);
        for (delay, most) in delays.iter().zip([15, 15, 15, 30, 60, 60, 60, 60]) {
            let most = Duration::from_secs(most);
            assert!(*delay <= most && *delay > most.mul_f64(0.95), "{delays:?}");
        }
        assert!(tunnel_delay(u32::MAX, &mut StdRng::seed_from_u64(1)) <= TUNNEL_MAX);
    }

    /// Each restart is a loss and possibly a premature attempt.
    #[test]
    fn two_relay_restarts_cost_at_most_75_s() {
        let (_, total) = max_delays(4);
        assert!(total <= Duration::from_secs(75), "{total:?}");
    }

    /// A relay restarts, and all its devices notice at the same time.
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
