//! The measurements, one function for each line of the table.

use std::time::Duration;

use testkit::load::client::Client;
use testkit::load::measure::{self, megabytes_per_second, percentile};

use super::routes::{FILE_SIZE, Route};

/// Figures of one measurement.
pub(super) struct Measurement {
    pub(super) name: &'static str,
    pub(super) figures: &'static [&'static str],
    pub(super) method: Method,
}

/// How a measurement alternates between the routes.
pub(super) enum Method {
    /// Each route once in a round; returns its figures.
    Each(fn(&Client, &Route) -> Vec<f64>),
    /// Many times in a round; returns the figures of each route.
    Together(fn(&Client, &[&Route]) -> Vec<Vec<f64>>),
}

pub(super) const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "download",
        figures: &[
            "download, 1 connection, MB/s",
            "processor time of the device, s/GB",
        ],
        method: Method::Each(download),
    },
    Measurement {
        name: "parallel",
        figures: &["download, 16 connections, MB/s"],
        method: Method::Each(parallel),
    },
    Measurement {
        name: "upload",
        figures: &["upload, 1 connection, MB/s"],
        method: Method::Each(upload),
    },
    Measurement {
        name: "requests",
        figures: &[
            "small requests, 32 connections, 1/s",
            "processor time of the device, s/1000 requests",
        ],
        method: Method::Each(requests),
    },
    Measurement {
        name: "latency",
        figures: &["latency of a small request, p50, µs", "the same, p99, µs"],
        method: Method::Together(latency),
    },
    Measurement {
        name: "connections",
        figures: &["new TLS connections, 16 at a time, 1/s"],
        method: Method::Each(connections),
    },
    Measurement {
        name: "beside",
        figures: &[
            "a small request beside a download, p50, ms",
            "the same, p99, ms",
            "what is left of the download",
        ],
        method: Method::Each(beside),
    },
    Measurement {
        name: "slow-reader",
        figures: &[
            "a small request beside a slow reader, p50, ms",
            "the same, p99, ms",
            "what the slow reader gets, MB/s",
        ],
        method: Method::Each(slow_reader),
    },
];

pub(super) const WARM_UP: fn(&Client, &Route) = |client, route| {
    download(client, route);
    requests(client, route);
    connections(client, route);
};

const MIB: u64 = 1024 * 1024;
/// Duration of the download with concurrent small requests.
const LOADED_DURATION: Duration = Duration::from_millis(1500);

/// Reduces the amount for slow routes, so that a round takes about as long for each.
fn amount(route: &Route, amount: u64) -> u64 {
    if route.slow { amount / 8 } else { amount }
}

fn download(client: &Client, route: &Route) -> Vec<f64> {
    const TIMES: u32 = 2;
    let bytes = amount(route, FILE_SIZE);
    let used = route.device_time();
    let elapsed = measure::download(client, &route.target, bytes, TIMES);
    let used = route.device_time() - used;
    let bytes = u64::from(TIMES) * bytes;
    vec![
        megabytes_per_second(bytes, elapsed),
        used / (1e-9 * bytes as f64),
    ]
}

fn parallel(client: &Client, route: &Route) -> Vec<f64> {
    let bytes = amount(route, 32 * MIB);
    let elapsed = measure::parallel_downloads(client, &route.target, 16, bytes);
    vec![megabytes_per_second(16 * bytes, elapsed)]
}

fn upload(client: &Client, route: &Route) -> Vec<f64> {
    let bytes = amount(route, FILE_SIZE);
    let elapsed = measure::upload(client, &route.target, bytes);
    vec![megabytes_per_second(bytes, elapsed)]
}

fn requests(client: &Client, route: &Route) -> Vec<f64> {
    let each = amount(route, 800);
    let used = route.device_time();
    let elapsed = measure::requests(client, &route.target, 32, each);
    let used = route.device_time() - used;
    let count = 32.0 * each as f64;
    vec![count / elapsed.as_secs_f64(), used / (count / 1000.0)]
}

fn latency(client: &Client, routes: &[&Route]) -> Vec<Vec<f64>> {
    let targets: Vec<_> = routes.iter().map(|route| &route.target).collect();
    let micros = |elapsed: &[Duration], part| percentile(elapsed, part).as_secs_f64() * 1e6;
    measure::latencies(client, &targets)
        .iter()
        .map(|elapsed| vec![micros(elapsed, 50), micros(elapsed, 99)])
        .collect()
}

fn connections(client: &Client, route: &Route) -> Vec<f64> {
    let elapsed = measure::connections(client, &route.target, 16, 30);
    vec![16.0 * 30.0 / elapsed.as_secs_f64()]
}

fn beside(client: &Client, route: &Route) -> Vec<f64> {
    let piece = amount(route, 64 * MIB);
    let beside = measure::beside_download(client, &route.target, LOADED_DURATION, piece);
    let millis = |part| percentile(&beside.latencies, part).as_secs_f64() * 1e3;
    vec![millis(50), millis(99), beside.rate_left]
}

fn slow_reader(client: &Client, route: &Route) -> Vec<f64> {
    let look = || measure::latencies_for(client, &route.target, LOADED_DURATION);
    let (latencies, rate) = match &route.reader {
        Some(reader) => reader.beside(&route.target, look),
        None => measure::beside_slow_reader(client, &route.target, look),
    };
    let millis = |part| percentile(&latencies, part).as_secs_f64() * 1e3;
    vec![millis(50), millis(99), rate]
}
