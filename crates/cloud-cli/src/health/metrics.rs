//! `/metrics`: the state in the Prometheus text format, rendered by `metrics-exporter-prometheus`.
//!
//! What this program knows is collected for each request, with a recorder of its own: a value that
//! is unknown now is absent. The session with the broker reports to the recorder of the process,
//! which [`Metrics::install`] sets; without it, as without `run --health`, metrics cost nothing.

use std::sync::OnceLock;
use std::time::Duration;

use cloud_facade::config::CredentialSlot;
use cloud_facade::remote::{ReconnectCause, Refusal, RemoteAccess, UpstreamFailure};
use cloud_net::unix_seconds;
use metrics::{counter, gauge, with_local_recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use super::catalogue::{self, IOT, OWN};
use super::liveness::HealthState;
use super::process;
use super::request_counters::{Counts, RequestCounters};
use crate::outlet::LostLines;

pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Interval at which samples of the histogram are summed, so that they take no memory while nobody
/// reads `/metrics`.
pub(super) const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Upper bounds of the histogram of acknowledgements, in seconds: from a broker nearby to the time
/// limit.
const ACKNOWLEDGEMENT_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Outlets by name, and their lost lines if they are used.
pub(crate) type Outlets = Vec<(&'static str, Option<LostLines>)>;

/// The recorder of the process, to which libraries report. `None` if the caller of this library has
/// set one.
static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();

/// The sources of `/metrics`.
#[derive(Debug, Clone)]
pub(crate) struct Metrics {
    libraries: Option<PrometheusHandle>,
    requests: RequestCounters,
}

impl Metrics {
    /// Sets the recorder of the process. Call it before the device starts.
    pub(crate) fn install() -> Self {
        let libraries = RECORDER.get_or_init(|| {
            let name = Matcher::Full("cloud_iot_acknowledgement_seconds".to_owned());
            let builder = PrometheusBuilder::new();
            let recorder = builder
                .set_buckets_for_metric(name, ACKNOWLEDGEMENT_BUCKETS)
                .ok()?
                .build_recorder();
            let handle = recorder.handle();
            with_local_recorder(&recorder, || catalogue::describe(IOT));
            metrics::set_global_recorder(recorder).ok()?;
            Some(handle)
        });
        Self {
            libraries: libraries.clone(),
            requests: RequestCounters::default(),
        }
    }

    /// Returns the counters of requests.
    pub(crate) fn requests(&self) -> RequestCounters {
        self.requests.clone()
    }

    /// Sums the samples of histograms.
    pub(super) fn upkeep(&self) {
        if let Some(libraries) = &self.libraries {
            libraries.run_upkeep();
        }
    }

    /// Returns all metrics as text.
    pub(super) async fn render(&self, state: &HealthState, outlets: &Outlets) -> String {
        let store = state.store();
        // Read from the disk, as other processes may have replaced the certificates.
        let ends = tokio::task::spawn_blocking(move || {
            [
                ("iot", CredentialSlot::Iot),
                ("remote", CredentialSlot::Remote),
            ]
            .map(|(name, pair)| {
                let end = store.inspect(pair).map(|report| report.info.not_after);
                (name, end.ok().map(unix_seconds))
            })
        });
        let ends = ends.await.unwrap_or_default();
        let recorder = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&recorder, || {
            catalogue::describe(OWN);
            report_state(state);
            report_counters(state);
            report_requests(&self.requests.snapshot());
            report_outlets(outlets);
            report_certificates(&ends);
            process::report();
        });
        let mut text = recorder.handle().render();
        if let Some(libraries) = &self.libraries {
            text += &libraries.render();
        }
        text
    }
}

fn set(name: &'static str, value: i64) {
    gauge!(name).set(value as f64);
}

fn flag(value: bool) -> f64 {
    f64::from(u8::from(value))
}

/// The size of a collection as the value of a gauge.
fn size(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn report_state(state: &HealthState) {
    let cloud = state.cloud();
    let status = cloud
        .as_ref()
        .map(|cloud| cloud.status())
        .unwrap_or_default();
    let remote = cloud.and_then(|cloud| cloud.remote().ok()).flatten();
    gauge!("clesyde_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1);
    set("clesyde_start_time_seconds", unix_seconds(state.started()));
    set("clesyde_iot_connected", status.iot.connected.into());
    set("clesyde_remote_connected", status.remote.connected.into());
    for (certificate, rotation) in [
        ("iot", &status.iot_certificate_rotation),
        ("remote", &status.certificate_rotation),
    ] {
        gauge!("clesyde_certificate_rotation_rate_limited", "certificate" => certificate)
            .set(flag(rotation.is_rate_limited()));
    }
    let applications = state.applications();
    if !applications.is_empty() {
        let answers = applications.iter().filter_map(|state| state.answers);
        if let Some(answer) = answers.min() {
            set("clesyde_application_up", answer.into());
        }
        for state in &applications {
            if let Some(answers) = state.answers {
                gauge!("clesyde_upstream_up", "upstream" => state.address.clone())
                    .set(flag(answers));
            }
        }
        let health = remote.as_ref().map(RemoteAccess::upstream_health);
        let health = health.unwrap_or_default();
        for kind in UpstreamFailure::ALL {
            counter!("clesyde_application_failures_total", "kind" => kind.name())
                .absolute(health.failures(kind));
        }
    }
    if let Some(remote) = &remote {
        report_remote(remote);
    }
}

fn report_remote(remote: &RemoteAccess) {
    set(
        "clesyde_remote_open_connections",
        size(remote.open_connections()),
    );
    set("clesyde_remote_visitors", size(remote.visitors().len()));
    let token = remote.status().borrow().token_valid.map(unix_seconds);
    if let Some(end) = token {
        set("clesyde_remote_token_not_after_timestamp_seconds", end);
    }
    for cause in ReconnectCause::ALL {
        counter!("clesyde_remote_reconnects_total", "cause" => cause.name())
            .absolute(remote.reconnects(cause));
    }
    let tunnels = remote.tunnel_stats();
    for (name, value) in [
        ("snitun_channels_opened_total", tunnels.channels_opened),
        ("snitun_channels_refused_total", tunnels.channels_refused),
        ("snitun_channels_overrun_total", tunnels.channels_overrun),
        ("snitun_received_bytes_total", tunnels.bytes_received),
        ("snitun_sent_bytes_total", tunnels.bytes_sent),
        ("snitun_pauses_sent_total", tunnels.pauses_sent),
        ("snitun_pauses_received_total", tunnels.pauses_received),
        ("snitun_throttled_total", tunnels.throttled),
    ] {
        counter!(name).absolute(value);
    }
    let traffic = remote.traffic();
    counter!("clesyde_remote_connections_total").absolute(traffic.connections);
    for (direction, bytes) in [("received", traffic.received), ("sent", traffic.sent)] {
        counter!("clesyde_remote_traffic_bytes_total", "direction" => direction).absolute(bytes);
    }
}

fn report_counters(state: &HealthState) {
    let counters = state.counters();
    for (name, value) in [
        ("clesyde_iot_connections_total", counters.iot_connections),
        ("clesyde_iot_connections_lost_total", counters.iot_losses),
        ("clesyde_iot_connect_failures_total", counters.iot_failures),
        ("clesyde_remote_tokens_total", counters.tokens),
        ("clesyde_remote_tunnels_total", counters.tunnels),
        ("clesyde_remote_tunnels_lost_total", counters.tunnel_losses),
        (
            "clesyde_remote_connect_failures_total",
            counters.tunnel_failures,
        ),
        ("clesyde_certificate_rotations_total", counters.rotations),
        (
            "clesyde_certificate_rotation_failures_total",
            counters.rotation_failures,
        ),
        ("clesyde_shadow_deltas_total", counters.deltas),
        ("clesyde_platform_messages_total", counters.messages),
        ("clesyde_events_missed_total", counters.missed),
    ] {
        counter!(name).absolute(value);
    }
}

fn report_requests(counts: &Counts) {
    for ((upstream, class), counts) in &counts.requests {
        for (name, value) in [
            ("clesyde_remote_requests_total", counts.requests),
            ("clesyde_remote_requests_cut_total", counts.cut),
            ("clesyde_remote_received_bytes_total", counts.received),
            ("clesyde_remote_sent_bytes_total", counts.sent),
        ] {
            counter!(name, "class" => *class, "upstream" => upstream.clone()).absolute(value);
        }
    }
    for reason in Refusal::ALL {
        let count = counts.refusals.get(reason.name()).copied();
        counter!("clesyde_remote_refused_total", "reason" => reason.name())
            .absolute(count.unwrap_or_default());
    }
}

fn report_outlets(outlets: &Outlets) {
    for (outlet, lost) in outlets {
        if let Some(lost) = lost {
            counter!("clesyde_lines_lost_total", "outlet" => *outlet).absolute(lost.count());
        }
    }
}

fn report_certificates(ends: &[(&'static str, Option<i64>)]) {
    for (certificate, end) in ends {
        if let Some(end) = end {
            let name = "clesyde_certificate_not_after_timestamp_seconds";
            gauge!(name, "certificate" => *certificate).set(*end as f64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_follow_prometheus_text_format() {
        let recorder = PrometheusBuilder::new().build_recorder();
        with_local_recorder(&recorder, || {
            catalogue::describe(OWN);
            report_certificates(&[("iot", Some(1_800_000_017)), ("remote", None)]);
        });
        assert_eq!(
            recorder.handle().render(),
            "# HELP clesyde_certificate_not_after_timestamp_seconds The end of a certificate, in Unix seconds.\n\
             # TYPE clesyde_certificate_not_after_timestamp_seconds gauge\n\
             clesyde_certificate_not_after_timestamp_seconds{certificate=\"iot\"} 1800000017\n\n"
        );
    }

    #[test]
    fn every_reported_metric_is_in_the_catalogue_with_its_labels() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let base = tempfile::tempdir().unwrap();
        let state = HealthState::for_test(base.path());
        let requests = RequestCounters::default();
        with_local_recorder(&recorder, || {
            report_state(&state);
            report_counters(&state);
            report_requests(&requests.snapshot());
            report_certificates(&[("iot", Some(1))]);
            process::report();
        });
        let text = recorder.handle().render();
        for line in text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
        {
            let name = line.split(['{', ' ']).next().unwrap();
            let metric = OWN.iter().find(|metric| metric.name == name).expect(name);
            let labels = line.split_once('{').map_or("", |(_, labels)| labels);
            let labels: Vec<_> = labels.matches("=\"").collect();
            let expected = metric.labels.split(',').filter(|label| !label.is_empty());
            assert_eq!(labels.len(), expected.count(), "{line}");
        }
    }
}
