//! Keeps strangers from filling the log: what they can cause as often as they like is worth a warning now and then.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The least time between two warnings of a kind.
const INTERVAL: Duration = Duration::from_secs(60);

/// Lets one through each minute.
#[derive(Debug, Default)]
pub(crate) struct Seldom(Mutex<Option<Instant>>);

impl Seldom {
    /// Whether it is time again.
    pub(crate) fn due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|last| last.elapsed() >= INTERVAL);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn once_a_minute() {
        let seldom = Seldom::default();
        assert!(seldom.due());
        assert!(!seldom.due());
        tokio::time::advance(INTERVAL).await;
        assert!(seldom.due());
        assert!(!seldom.due());
    }
}
