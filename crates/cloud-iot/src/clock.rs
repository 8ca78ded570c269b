//! Notices that the clock on the wall has jumped ahead of the one that measures time.
//!
//! While a machine is suspended its monotonic clock stands still and the wall clock goes on. After that the server has
//! long ended the connection, or a router has forgotten it, and no timer here knows. A wall clock that is set looks the
//! same; an unneeded reconnection is then the price.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// The two clocks when they were last looked at.
#[derive(Debug)]
pub(crate) struct Clocks {
    steady: Instant,
    wall: SystemTime,
}

impl Clocks {
    pub(crate) fn new(steady: Instant, wall: SystemTime) -> Self {
        Self { steady, wall }
    }

    /// By how much the wall clock has gained since the last look, if that is more than `tolerance`.
    pub(crate) fn jump(
        &mut self,
        steady: Instant,
        wall: SystemTime,
        tolerance: Duration,
    ) -> Option<Duration> {
        let before = std::mem::replace(self, Self { steady, wall });
        let passed = steady.saturating_duration_since(before.steady);
        // A clock that was set back is no suspension.
        let told = wall.duration_since(before.wall).unwrap_or_default();
        told.checked_sub(passed).filter(|gain| *gain > tolerance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gain_is_a_jump_and_a_loss_is_none() {
        let seconds = Duration::from_secs;
        let (mut steady, mut wall) = (Instant::now(), SystemTime::now());
        let mut clocks = Clocks::new(steady, wall);
        let mut after = |by_steady: u64, by_wall: i64| {
            steady += seconds(by_steady);
            let difference = seconds(by_wall.unsigned_abs());
            wall = if by_wall < 0 {
                wall - difference
            } else {
                wall + difference
            };
            clocks.jump(steady, wall, seconds(60))
        };
        assert_eq!(after(3600, 3600), None);
        assert_eq!(after(10, 70), None);
        assert_eq!(after(10, 3610), Some(seconds(3600)));
        assert_eq!(after(10, 10), None, "told once");
        assert_eq!(after(10, -86_400), None);
    }
}
