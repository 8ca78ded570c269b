//! The health as a log line at an interval, where logs alone are watched.

use std::future::pending;
use std::time::Duration;

use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::HealthState;

/// When the next line is due; never without an interval.
#[derive(Debug)]
pub(crate) struct HealthLog(Option<Interval>);

impl HealthLog {
    pub(crate) fn new(every: Option<Duration>) -> Self {
        Self(every.map(|every| {
            let mut interval = interval_at(Instant::now() + every, every);
            // One line after a suspension is enough.
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        }))
    }

    /// Waits until a line is due. May be cancelled.
    pub(crate) async fn due(&mut self) {
        match &mut self.0 {
            Some(interval) => {
                interval.tick().await;
            }
            None => pending().await,
        }
    }
}

impl HealthState {
    /// Writes the line: what is missing for `/readyz`, with the reasons.
    pub(crate) fn log(&self) {
        let missing = self.missing();
        if missing.is_empty() {
            tracing::info!("health: everything is connected");
            return;
        }
        for missing in missing {
            let reason = missing.reason.unwrap_or_default();
            tracing::warn!(reason, "health: {} is not connected", missing.part);
        }
    }
}
