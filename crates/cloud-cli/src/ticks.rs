//! Common times for periodic work, so that an idle device wakes up once for all of it: each wake-up
//! costs a small board energy, and one timer of the runtime needs up to three of them.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// All periods are counted from here.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Returns the next multiple of the period (not zero) since the first call in this process.
pub(crate) fn next_tick(period: Duration) -> Instant {
    let (start, now) = (*START, Instant::now());
    let past = now.saturating_duration_since(start).as_nanos() % period.as_nanos();
    now + period - Duration::from_nanos_u128(past)
}

/// Returns ticks at these times. Missed ones are left out.
pub(crate) fn ticks(period: Duration) -> Interval {
    let mut ticks = interval_at(next_tick(period), period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    ticks
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const PERIOD: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn ticks_that_start_at_different_times_coincide() {
        let mut first = ticks(PERIOD);
        advance(Duration::from_millis(1_234)).await;
        let (mut second, mut rare) = (ticks(PERIOD), ticks(2 * PERIOD));
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(first.tick().await);
            assert_eq!(second.tick().await, seen[seen.len() - 1]);
        }
        assert!(seen.contains(&rare.tick().await));
    }

    #[tokio::test(start_paused = true)]
    async fn next_tick_is_at_most_one_period_ahead() {
        for _ in 0..1_000 {
            let ahead = next_tick(PERIOD) - Instant::now();
            assert!(ahead > Duration::ZERO && ahead <= PERIOD, "{ahead:?}");
            sleep(Duration::from_millis(37)).await;
        }
    }
}
