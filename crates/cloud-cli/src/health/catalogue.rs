//! All metrics that `/metrics` may have: their kinds, labels and meaning. `docs/monitoring` has the
//! same table.
//!
//! Names are stable; new ones may be added. They follow the rules of `promtool check metrics`.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// The kind of a metric.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A metric.
#[derive(Debug)]
pub(super) struct Metric {
    pub(super) kind: Kind,
    pub(super) name: &'static str,
    /// Labels, separated by commas.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "a test checks them and the documentation")
    )]
    pub(super) labels: &'static str,
    pub(super) help: &'static str,
}

const fn counter(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric {
        kind: Kind::Counter,
        name,
        labels,
        help,
    }
}

const fn gauge(name: &'static str, labels: &'static str, help: &'static str) -> Metric {
    Metric {
        kind: Kind::Gauge,
        name,
        labels,
        help,
    }
}

/// The metrics of this program.
pub(super) const OWN: &[Metric] = &[
    gauge(
        "clesyde_build_info",
        "version",
        "Always 1; the label is the version.",
    ),
    gauge(
        "clesyde_start_time_seconds",
        "",
        "Start of this instance, in Unix seconds.",
    ),
    gauge(
        "clesyde_iot_connected",
        "",
        "1 while subscriptions are granted and ONLINE is published.",
    ),
    gauge("clesyde_remote_connected", "", "1 while the tunnel is up."),
    gauge(
        "clesyde_certificate_rotation_rate_limited",
        "certificate",
        "1 while the rate limit delays a rotation: the platform changes the desired certificate too often.",
    ),
    gauge(
        "clesyde_remote_open_connections",
        "",
        "Open connections of public callers.",
    ),
    gauge(
        "clesyde_remote_visitors",
        "",
        "Addresses that have connections open.",
    ),
    gauge(
        "clesyde_application_up",
        "",
        "1 while each application behind the tunnel answers.",
    ),
    gauge(
        "clesyde_upstream_up",
        "upstream",
        "1 while this application behind the tunnel answers.",
    ),
    counter(
        "clesyde_application_failures_total",
        "kind",
        "Requests and connections that the application behind the tunnel did not answer.",
    ),
    gauge(
        "clesyde_remote_token_not_after_timestamp_seconds",
        "",
        "The end of the tunnel's token, in Unix seconds of the platform's clock; absent without a token.",
    ),
    gauge(
        "clesyde_certificate_not_after_timestamp_seconds",
        "certificate",
        "The end of a certificate, in Unix seconds.",
    ),
    counter(
        "clesyde_iot_connections_total",
        "",
        "Sessions with the broker that were established.",
    ),
    counter(
        "clesyde_iot_connections_lost_total",
        "",
        "Sessions with the broker that were lost.",
    ),
    counter(
        "clesyde_iot_connect_failures_total",
        "",
        "Attempts to connect to the broker that failed.",
    ),
    counter(
        "clesyde_remote_tokens_total",
        "",
        "Tokens for the tunnel that were received.",
    ),
    counter(
        "clesyde_remote_tunnels_total",
        "",
        "Tunnels that were established.",
    ),
    counter(
        "clesyde_remote_tunnels_lost_total",
        "",
        "Tunnels that were lost.",
    ),
    counter(
        "clesyde_remote_connect_failures_total",
        "",
        "Attempts to open a tunnel that failed.",
    ),
    counter(
        "clesyde_remote_reconnects_total",
        "cause",
        "Times that the tunnel had to be connected again: an attempt failed or the tunnel ended.",
    ),
    counter(
        "clesyde_remote_connections_total",
        "",
        "Connections of public callers that were admitted.",
    ),
    counter(
        "clesyde_remote_traffic_bytes_total",
        "direction",
        "Bytes of public connections as the tunnel carries them, including TLS.",
    ),
    counter(
        "clesyde_remote_requests_total",
        "class,upstream",
        "Requests that have ended, by class of status: 1xx to 5xx, none without a response, tcp for a connection without HTTP.",
    ),
    counter(
        "clesyde_remote_requests_cut_total",
        "class,upstream",
        "Requests of these that ended before their response was complete.",
    ),
    counter(
        "clesyde_remote_received_bytes_total",
        "class,upstream",
        "Bytes of the bodies of these requests.",
    ),
    counter(
        "clesyde_remote_sent_bytes_total",
        "class,upstream",
        "Bytes of the bodies of their responses.",
    ),
    counter(
        "clesyde_remote_refused_total",
        "reason",
        "Connections and requests that the device refused itself.",
    ),
    counter(
        "clesyde_certificate_rotations_total",
        "",
        "Certificates for remote access that were installed.",
    ),
    counter(
        "clesyde_certificate_rotation_failures_total",
        "",
        "Certificates that could not be installed.",
    ),
    counter(
        "clesyde_shadow_deltas_total",
        "",
        "Deltas of the configuration shadow.",
    ),
    counter(
        "clesyde_platform_messages_total",
        "",
        "Messages of the platform for the host application.",
    ),
    counter(
        "clesyde_events_missed_total",
        "",
        "Events that were dropped before they could be counted.",
    ),
    counter(
        "clesyde_lines_lost_total",
        "outlet",
        "Lines that were lost because their reader did not read or their file could not be written.",
    ),
    counter(
        "snitun_channels_opened_total",
        "",
        "Channels of all tunnels that the relay opened, one for each public connection.",
    ),
    counter(
        "snitun_channels_refused_total",
        "",
        "Channels that were refused because of a limit of the tunnel or because it was closing.",
    ),
    counter(
        "snitun_channels_overrun_total",
        "",
        "Channels that were closed because more data arrived than was read.",
    ),
    counter(
        "snitun_received_bytes_total",
        "",
        "Bytes received from the relay in channels.",
    ),
    counter(
        "snitun_sent_bytes_total",
        "",
        "Bytes sent to the relay in channels.",
    ),
    counter(
        "snitun_pauses_sent_total",
        "",
        "Times that the device paused a channel of the relay.",
    ),
    counter(
        "snitun_pauses_received_total",
        "",
        "Times that the relay paused a channel of the device.",
    ),
    counter(
        "snitun_throttled_total",
        "",
        "Messages after which throttling delayed the next large one.",
    ),
    gauge(
        "process_resident_memory_bytes",
        "",
        "Resident memory of the process.",
    ),
    gauge(
        "process_virtual_memory_bytes",
        "",
        "Virtual memory of the process.",
    ),
    counter(
        "process_cpu_seconds_total",
        "",
        "User and system time of the process, in whole seconds.",
    ),
    gauge("process_open_fds", "", "Open file descriptors."),
    gauge("process_max_fds", "", "Maximum open file descriptors."),
    gauge("process_threads", "", "Threads of the process."),
    gauge(
        "process_start_time_seconds",
        "",
        "Start of the process, in Unix seconds.",
    ),
];

/// The metrics of the session with the broker; `cloud-iot` reports them.
pub(super) const IOT: &[Metric] = &[
    gauge(
        "cloud_iot_connected",
        "client_id",
        "1 while the session is online.",
    ),
    counter(
        "cloud_iot_connected_seconds_total",
        "client_id",
        "Seconds spent online.",
    ),
    counter(
        "cloud_iot_disconnections_total",
        "cause,client_id",
        "Connections to the broker that were lost or not made.",
    ),
    gauge(
        "cloud_iot_queued_messages",
        "client_id",
        "Accepted messages that wait.",
    ),
    gauge(
        "cloud_iot_in_flight_messages",
        "client_id",
        "Messages given to the connection and not yet delivered.",
    ),
    counter(
        "cloud_iot_acknowledged_total",
        "client_id",
        "QoS 1 messages that the broker has taken.",
    ),
    counter(
        "cloud_iot_refused_total",
        "client_id",
        "QoS 1 messages that the broker answered with a failure.",
    ),
    counter(
        "cloud_iot_dropped_total",
        "client_id,reason",
        "Accepted messages that were not delivered.",
    ),
    Metric {
        kind: Kind::Histogram,
        name: "cloud_iot_acknowledgement_seconds",
        labels: "client_id",
        help: "Time from writing a QoS 1 message to its acknowledgement.",
    },
];

/// Describes metrics to the current recorder.
pub(super) fn describe(metrics: &[Metric]) {
    for metric in metrics {
        match metric.kind {
            Kind::Counter => describe_counter!(metric.name, Unit::Count, metric.help),
            Kind::Gauge => describe_gauge!(metric.name, Unit::Count, metric.help),
            Kind::Histogram => describe_histogram!(metric.name, Unit::Count, metric.help),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documentation_lists_all_metrics() {
        let mut table = "| name | kind | labels | meaning |\n|---|---|---|---|\n".to_owned();
        for metric in OWN.iter().chain(IOT) {
            let kind = format!("{:?}", metric.kind).to_lowercase();
            let labels = metric.labels.replace(',', ", ");
            table += &format!(
                "| `{}` | {kind} | {labels} | {} |\n",
                metric.name, metric.help
            );
        }
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/monitoring/README.md"
        );
        let document = std::fs::read_to_string(path).unwrap();
        assert!(
            document.contains(&table),
            "docs/monitoring/README.md needs this table:\n{table}"
        );
    }

    #[test]
    fn dashboard_and_alerts_name_metrics_that_exist() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/monitoring/");
        let is_known = |name: &str| {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            OWN.iter().chain(IOT).any(|metric| metric.name == name)
        };
        for file in ["dashboard.json", "alerts.yml"] {
            let text = std::fs::read_to_string(format!("{directory}{file}")).unwrap();
            let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let mut names = words.filter(|word| {
                ["clesyde_", "cloud_iot_", "process_", "snitun_"]
                    .iter()
                    .any(|prefix| word.starts_with(prefix))
            });
            assert_eq!(names.find(|name| !is_known(name)), None, "{file}");
        }
    }

    /// A legend without this value is hidden by Grafana 9.2 and newer.
    #[test]
    fn each_legend_of_the_dashboard_is_shown() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/monitoring/dashboard.json"
        );
        let dashboard = std::fs::read_to_string(path).unwrap();
        let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
        let panels = dashboard["panels"].as_array().unwrap().iter();
        let legends: Vec<_> = panels
            .filter_map(|panel| panel["options"].get("legend"))
            .collect();
        assert!(!legends.is_empty());
        assert!(legends.iter().all(|legend| legend["showLegend"] == true));
    }
}
