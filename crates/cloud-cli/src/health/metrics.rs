//! `/metrics`: the health state in the Prometheus text format.
//!
//! The format is simple, so no library with a registry of its own is used. Names begin with
//! `clesyde_` and are stable; new ones may be added.

use std::fmt::{Display, Write};

use axum::http::header;
use axum::response::IntoResponse;
use cloud_facade::Status;
use cloud_facade::config::CredentialSlot;
use cloud_facade::remote::UpstreamFailure;
use cloud_net::unix_seconds;

use super::liveness::{Counters, HealthState};
use crate::outlet::LostLines;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Outlets by name, and their lost lines if they are used.
pub(super) type Outlets = [(&'static str, Option<LostLines>); 3];

/// Returns the response to `/metrics`.
pub(super) async fn page(health_state: HealthState, outlets: Outlets) -> impl IntoResponse {
    let store = health_state.store();
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
    let mut text = Text::default();
    text.state(&health_state);
    text.counters(&health_state.counters());
    text.lost_lines(&outlets);
    text.certificates(&ends.await.unwrap_or_default());
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], text.0)
}

#[derive(Default)]
struct Text(String);

impl Text {
    /// Writes one metric: kind, name, help text and samples, each with its label.
    fn metric<'a, V: Display>(
        &mut self,
        kind: &str,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Option<(&'static str, &'a str)>, V)>,
    ) {
        // Writing to a String cannot fail.
        let _ = write!(
            self.0,
            "# HELP clesyde_{name} {help}\n# TYPE clesyde_{name} {kind}\n"
        );
        for (label, value) in samples {
            let _ = match label {
                Some((label, of)) => {
                    // The path of a socket may have any character.
                    let of = of
                        .replace('\\', "\\\\")
                        .replace('"', "\\\"")
                        .replace('\n', "\\n");
                    writeln!(self.0, "clesyde_{name}{{{label}=\"{of}\"}} {value}")
                }
                None => writeln!(self.0, "clesyde_{name} {value}"),
            };
        }
    }

    fn gauge<V: Display>(&mut self, name: &str, help: &str, value: impl IntoIterator<Item = V>) {
        self.metric(
            "gauge",
            name,
            help,
            value.into_iter().map(|value| (None, value)),
        );
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.metric("counter", name, help, [(None, value)]);
    }

    fn state(&mut self, health_state: &HealthState) {
        let cloud = health_state.cloud();
        let status: Status = cloud
            .as_ref()
            .map(|cloud| cloud.status())
            .unwrap_or_default();
        let remote = cloud.and_then(|cloud| cloud.remote().ok()).flatten();
        let version = Some(("version", env!("CARGO_PKG_VERSION")));
        self.metric(
            "gauge",
            "build_info",
            "Always 1; the label is the version.",
            [(version, 1)],
        );
        self.gauge(
            "start_time_seconds",
            "Start of this instance, in Unix seconds.",
            [unix_seconds(health_state.started())],
        );
        self.gauge(
            "iot_connected",
            "1 while subscriptions are granted and ONLINE is published.",
            [u8::from(status.iot.connected)],
        );
        self.gauge(
            "remote_connected",
            "1 while the tunnel is up.",
            [u8::from(status.remote.connected)],
        );
        let limited = [
            ("iot", &status.iot_certificate_rotation),
            ("remote", &status.certificate_rotation),
        ];
        self.metric(
            "gauge",
            "certificate_rotation_rate_limited",
            "1 while the rate limit delays a rotation: the platform changes the desired certificate too often.",
            limited.map(|(of, rotation)| {
                let label = Some(("certificate", of));
                (label, u8::from(rotation.is_rate_limited()))
            }),
        );
        self.gauge(
            "remote_open_connections",
            "Open connections of public callers.",
            remote.as_ref().map(|remote| remote.open_connections()),
        );
        let applications = health_state.applications();
        if !applications.is_empty() {
            let answers = applications.iter().filter_map(|state| state.answers);
            self.gauge(
                "application_up",
                "1 while each application behind the tunnel answers.",
                answers.min().map(u8::from),
            );
            let ups = applications.iter().filter_map(|state| {
                let answers = u8::from(state.answers?);
                Some((Some(("upstream", state.address.as_str())), answers))
            });
            self.metric(
                "gauge",
                "upstream_up",
                "1 while this application behind the tunnel answers.",
                ups,
            );
            let health = remote.as_ref().map(|remote| remote.upstream_health());
            let health = health.unwrap_or_default();
            self.metric(
                "counter",
                "application_failures_total",
                "Requests and connections that the application behind the tunnel did not answer.",
                UpstreamFailure::ALL
                    .map(|kind| (Some(("kind", kind.name())), health.failures(kind))),
            );
        }
        self.gauge(
            "remote_token_valid_until_seconds",
            "The end of the tunnel's token, in Unix seconds of the platform's clock; absent without a token.",
            remote.and_then(|remote| remote.status().borrow().token_valid.map(unix_seconds)),
        );
    }

    fn counters(&mut self, counters: &Counters) {
        for (name, help, value) in [
            (
                "iot_connections_total",
                "Sessions with the broker that were established.",
                counters.iot_connections,
            ),
            (
                "iot_connections_lost_total",
                "Sessions with the broker that were lost.",
                counters.iot_losses,
            ),
            (
                "iot_connect_failures_total",
                "Attempts to connect to the broker that failed.",
                counters.iot_failures,
            ),
            (
                "remote_tokens_total",
                "Tokens for the tunnel that were received.",
                counters.tokens,
            ),
            (
                "remote_tunnels_total",
                "Tunnels that were established.",
                counters.tunnels,
            ),
            (
                "remote_tunnels_lost_total",
                "Tunnels that were lost.",
                counters.tunnel_losses,
            ),
            (
                "remote_connect_failures_total",
                "Attempts to open a tunnel that failed.",
                counters.tunnel_failures,
            ),
            (
                "certificate_rotations_total",
                "Certificates for remote access that were installed.",
                counters.rotations,
            ),
            (
                "certificate_rotation_failures_total",
                "Certificates that could not be installed.",
                counters.rotation_failures,
            ),
            (
                "shadow_deltas_total",
                "Deltas of the configuration shadow.",
                counters.deltas,
            ),
            (
                "platform_messages_total",
                "Messages of the platform for the host application.",
                counters.messages,
            ),
            (
                "events_missed_total",
                "Events that were dropped before they could be counted.",
                counters.missed,
            ),
        ] {
            self.counter(name, help, value);
        }
    }

    fn lost_lines(&mut self, outlets: &Outlets) {
        let counts = outlets.iter().filter_map(|(name, lost)| {
            let lost = lost.as_ref()?;
            Some((Some(("outlet", *name)), lost.count()))
        });
        self.metric(
            "counter",
            "lines_lost_total",
            "Lines that were lost because their reader did not read.",
            counts,
        );
    }

    fn certificates(&mut self, ends: &[(&'static str, Option<i64>)]) {
        let known = ends
            .iter()
            .filter_map(|(name, end)| Some((Some(("certificate", *name)), (*end)?)));
        self.metric(
            "gauge",
            "certificate_not_after_seconds",
            "The end of a certificate, in Unix seconds.",
            known,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_follow_prometheus_text_format() {
        let mut text = Text::default();
        text.counter("x_total", "Some.", 3);
        text.gauge("y", "None.", None::<u8>);
        text.certificates(&[("iot", Some(17)), ("remote", None)]);
        assert_eq!(
            text.0,
            "# HELP clesyde_x_total Some.\n# TYPE clesyde_x_total counter\nclesyde_x_total 3\n\
             # HELP clesyde_y None.\n# TYPE clesyde_y gauge\n\
             # HELP clesyde_certificate_not_after_seconds The end of a certificate, in Unix seconds.\n\
             # TYPE clesyde_certificate_not_after_seconds gauge\n\
             clesyde_certificate_not_after_seconds{certificate=\"iot\"} 17\n"
        );
    }
}
