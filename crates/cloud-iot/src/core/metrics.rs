//! Metrics of a session, through the `metrics` facade. The crate documentation lists the names.
//!
//! Without the feature `metrics`, all methods do nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::error::cause::Cause;

/// The metrics of one session, labelled with its client ID.
#[derive(Debug)]
pub(crate) struct Metrics {
    #[cfg(feature = "metrics")]
    client: metrics::SharedString,
    /// Up to when the online time has been counted; `None` while offline.
    #[cfg(feature = "metrics")]
    counted: Option<Instant>,
    /// The last values of the gauges.
    #[cfg(feature = "metrics")]
    last_reported: Option<(usize, usize)>,
}

#[cfg(not(feature = "metrics"))]
#[allow(
    clippy::unused_self,
    reason = "the same calls with and without the feature"
)]
impl Metrics {
    pub(crate) fn new(_client_id: &str) -> Self {
        Self {}
    }

    pub(crate) fn online(&mut self, _now: Instant) {}

    pub(crate) fn lost(&mut self, _cause: &Cause, _now: Instant) {}

    pub(crate) fn ended(&mut self) {}

    pub(crate) fn acknowledged(&self, _after: Option<Duration>, _refused: bool) {}

    pub(crate) fn update(
        &mut self,
        _queued: usize,
        _in_flight: usize,
        _dropped: &BTreeMap<&'static str, u64>,
        _now: Instant,
    ) {
    }
}

#[cfg(feature = "metrics")]
impl Metrics {
    pub(crate) fn new(client_id: &str) -> Self {
        Self {
            client: std::sync::Arc::<str>::from(client_id).into(),
            counted: None,
            last_reported: None,
        }
    }

    /// Records that the session is online.
    pub(crate) fn online(&mut self, now: Instant) {
        self.counted = Some(now);
        metrics::gauge!("cloud_iot_connected", "client_id" => self.client.clone()).set(1);
    }

    /// Records a lost connection or a failed attempt.
    pub(crate) fn lost(&mut self, cause: &Cause, now: Instant) {
        self.count(now);
        self.offline();
        metrics::counter!(
            "cloud_iot_disconnections_total",
            "client_id" => self.client.clone(),
            "cause" => cause.name(),
        )
        .increment(1);
    }

    /// Records the end of the session, with an empty outbox.
    pub(crate) fn ended(&mut self) {
        self.offline();
        self.gauges(0, 0);
    }

    fn offline(&mut self) {
        self.counted = None;
        metrics::gauge!("cloud_iot_connected", "client_id" => self.client.clone()).set(0);
    }

    /// Records the acknowledgement of a QoS 1 message, and how long after its writing.
    pub(crate) fn acknowledged(&self, after: Option<Duration>, refused: bool) {
        let counter = if refused {
            metrics::counter!("cloud_iot_refused_total", "client_id" => self.client.clone())
        } else {
            metrics::counter!("cloud_iot_acknowledged_total", "client_id" => self.client.clone())
        };
        counter.increment(1);
        if let Some(after) = after {
            metrics::histogram!(
                "cloud_iot_acknowledgement_seconds",
                "client_id" => self.client.clone(),
            )
            .record(after);
        }
    }

    /// Updates the metrics of the outbox: its gauges, and the messages dropped since the last call.
    pub(crate) fn update(
        &mut self,
        queued: usize,
        in_flight: usize,
        dropped: &BTreeMap<&'static str, u64>,
        now: Instant,
    ) {
        self.count(now);
        for (&reason, &messages) in dropped {
            metrics::counter!(
                "cloud_iot_dropped_total",
                "client_id" => self.client.clone(),
                "reason" => reason,
            )
            .increment(messages);
        }
        self.gauges(queued, in_flight);
    }

    #[allow(
        clippy::cast_precision_loss,
        reason = "the outbox holds at most a million"
    )]
    fn gauges(&mut self, queued: usize, in_flight: usize) {
        if self.last_reported.replace((queued, in_flight)) != Some((queued, in_flight)) {
            let gauge =
                |name: &'static str| metrics::gauge!(name, "client_id" => self.client.clone());
            gauge("cloud_iot_queued_messages").set(queued as f64);
            gauge("cloud_iot_in_flight_messages").set(in_flight as f64);
        }
    }

    /// Counts the whole seconds spent online.
    fn count(&mut self, now: Instant) {
        let Some(counted) = &mut self.counted else {
            return;
        };
        let seconds = now.saturating_duration_since(*counted).as_secs();
        if seconds > 0 {
            *counted += Duration::from_secs(seconds);
            metrics::counter!("cloud_iot_connected_seconds_total", "client_id" => self.client.clone())
                .increment(seconds);
        }
    }
}
