//! A rate limit for log lines that a peer can cause.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Lines that go out at once: enough to see what happens.
const BURST: u32 = 5;
/// A line more for each of these afterwards.
const INTERVAL: Duration = Duration::from_secs(60);

/// A token bucket for one kind of log line: 5 lines at once, then one each minute.
///
/// What a peer can cause as often as it likes would otherwise fill the disk and hide what matters.
/// One throttle is for one kind of line of one device. Use it with
/// [`error_throttled!`](crate::error_throttled), [`warn_throttled!`](crate::warn_throttled) or
/// [`info_throttled!`](crate::info_throttled), which add the number of lines left out before as the
/// field `suppressed`.
///
/// ```
/// use cloud_net::{LogThrottle, warn_throttled};
///
/// let malformed = LogThrottle::new();
/// for _ in 0..10_000 {
///     warn_throttled!(malformed, topic = "a/b", "a message is not JSON"); // logs five lines
/// }
/// ```
#[derive(Debug, Default)]
pub struct LogThrottle(Mutex<Bucket>);

#[derive(Debug, Default)]
struct Bucket {
    /// Tokens taken, less those that time has given back by `at`.
    taken: u32,
    /// Where the time that gives tokens back is counted from. `None` before the first line.
    at: Option<Instant>,
    suppressed: u64,
}

impl LogThrottle {
    /// A full bucket.
    #[must_use]
    pub const fn new() -> Self {
        Self(Mutex::new(Bucket {
            taken: 0,
            at: None,
            suppressed: 0,
        }))
    }

    /// Takes a token for one line. `Some` with the number of lines suppressed since the last one
    /// that went out, `None` if this one is to be suppressed too.
    pub fn allow(&self) -> Option<u64> {
        let mut bucket = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let at = *bucket.at.get_or_insert(now);
        let refilled = now.saturating_duration_since(at).as_secs() / INTERVAL.as_secs();
        let refilled = u32::try_from(refilled).unwrap_or(u32::MAX);
        if refilled >= bucket.taken {
            bucket.taken = 0;
            bucket.at = Some(now);
        } else {
            bucket.taken -= refilled;
            bucket.at = Some(at + INTERVAL * refilled);
        }
        if bucket.taken >= BURST {
            bucket.suppressed = bucket.suppressed.saturating_add(1);
            return None;
        }
        bucket.taken += 1;
        Some(std::mem::take(&mut bucket.suppressed))
    }
}

/// Logs an error unless its [`LogThrottle`] suppresses it: `error_throttled!(throttle, field =
/// value, "message")`.
#[macro_export]
macro_rules! error_throttled {
    ($throttle:expr, $($line:tt)+) => {
        $crate::throttled!($throttle, error, $($line)+)
    };
}

/// Logs a warning unless its [`LogThrottle`] suppresses it: `warn_throttled!(throttle, field =
/// value, "message")`.
#[macro_export]
macro_rules! warn_throttled {
    ($throttle:expr, $($line:tt)+) => {
        $crate::throttled!($throttle, warn, $($line)+)
    };
}

/// Logs an information unless its [`LogThrottle`] suppresses it: `info_throttled!(throttle, field =
/// value, "message")`.
#[macro_export]
macro_rules! info_throttled {
    ($throttle:expr, $($line:tt)+) => {
        $crate::throttled!($throttle, info, $($line)+)
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! throttled {
    ($throttle:expr, $level:ident, $($line:tt)+) => {
        if let Some(suppressed) = $throttle.allow() {
            let suppressed = (suppressed > 0).then_some(suppressed);
            $crate::private::tracing::$level!(suppressed, $($line)+);
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(throttle: &LogThrottle, attempts: u32) -> Vec<u64> {
        (0..attempts).filter_map(|_| throttle.allow()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_one_each_minute() {
        let throttle = LogThrottle::new();
        assert_eq!(lines(&throttle, 1_000), [0; 5]);
        tokio::time::advance(INTERVAL - Duration::from_millis(1)).await;
        assert!(lines(&throttle, 1).is_empty());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(lines(&throttle, 3), [996]);
        tokio::time::advance(INTERVAL).await;
        assert_eq!(lines(&throttle, 3), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_come_back_one_by_one_up_to_the_burst() {
        let throttle = LogThrottle::new();
        lines(&throttle, 5);
        tokio::time::advance(INTERVAL * 3).await;
        assert_eq!(lines(&throttle, 10).len(), 3);
        tokio::time::advance(INTERVAL * 1_000).await;
        assert_eq!(lines(&throttle, 10).len(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_trickle_below_the_rate_is_never_suppressed() {
        let throttle = LogThrottle::new();
        for _ in 0..100 {
            assert_eq!(throttle.allow(), Some(0));
            tokio::time::advance(INTERVAL).await;
        }
    }
}
