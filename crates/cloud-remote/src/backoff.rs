//! Delays that grow with the failures in a row, with jitter, so that devices that failed together do not come back
//! together.

use std::ops::RangeInclusive;
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
/// Before the first retry of the tunnel, in seconds.
const TUNNEL_RETRY: RangeInclusive<f64> = 1.0..=15.0;
/// The range doubles with each further failure, this often at most: two minutes are bearable for an owner, and gentle
/// enough for a relay that has lost all its devices at once.
const TUNNEL_DOUBLINGS: u32 = 3;

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

/// The delay before the tunnel is tried again.
pub(crate) fn tunnel_delay(failures: u32, rng: &mut StdRng) -> Duration {
    let doublings = failures.saturating_sub(1).min(TUNNEL_DOUBLINGS);
    Duration::from_secs_f64(rng.random_range(TUNNEL_RETRY) * f64::from(1_u32 << doublings))
}
