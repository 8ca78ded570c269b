//! Suspend detection: notices that the wall clock has jumped ahead of the monotonic clock.
//!
//! The monotonic clock stops while a machine is suspended; the wall clock does not. After a
//! suspension the server has closed the connection, or a router has dropped it, and no timer
//! notices. Setting the wall clock looks the same, and costs an unnecessary reconnection.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Readings of both clocks at the last check.
#[derive(Debug)]
pub(crate) struct SuspendDetector {
    monotonic: Instant,
    wall: SystemTime,
}

impl SuspendDetector {
    pub(crate) fn new(monotonic: Instant, wall: SystemTime) -> Self {
        Self { monotonic, wall }
    }

    /// Returns how far the wall clock has jumped since the last check, if more than `tolerance`.
    pub(crate) fn jump(
        &mut self,
        monotonic: Instant,
        wall: SystemTime,
        tolerance: Duration,
    ) -> Option<Duration> {
        let before = std::mem::replace(self, Self { monotonic, wall });
        let passed = monotonic.saturating_duration_since(before.monotonic);
        // A clock that was set back is not a suspension.
        let wall_elapsed = wall.duration_since(before.wall).unwrap_or_default();
        wall_elapsed
            .checked_sub(passed)
            .filter(|gain| *gain > tolerance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forward_jump_is_detected_backward_is_not() {
        let seconds = Duration::from_secs;
        let (mut monotonic, mut wall) = (Instant::now(), SystemTime::now());
        let mut detector = SuspendDetector::new(monotonic, wall);
        let mut after = |by_monotonic: u64, by_wall: i64| {
            monotonic += seconds(by_monotonic);
            let difference = seconds(by_wall.unsigned_abs());
            wall = if by_wall < 0 {
                wall - difference
            } else {
                wall + difference
            };
            detector.jump(monotonic, wall, seconds(60))
        };
        assert_eq!(after(3600, 3600), None);
        assert_eq!(after(10, 70), None);
        assert_eq!(after(10, 3610), Some(seconds(3600)));
        assert_eq!(after(10, 10), None, "reported once");
        assert_eq!(after(10, -86_400), None);
    }
}
