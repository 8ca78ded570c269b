//! The measurements, one function for each.

use std::time::Duration;

use testkit::load::client::Target;
use testkit::load::measure::{self, megabytes_per_second, percentile};
use testkit::load::programs::process_status;

use super::ways::{Bench, FILE_SIZE, Way};

/// Figures of one measurement, taken of all ways in turn.
pub(super) struct Measurement {
    pub(super) name: &'static str,
    pub(super) figures: &'static [&'static str],
    pub(super) take: fn(&Bench, &[Way]) -> Vec<Vec<f64>>,
}

pub(super) const MEASUREMENTS: &[Measurement] = &[
    Measurement {
        name: "requests",
        figures: &[
            "HTTP/1.1, 1 KB requests, 32 connections, 1/s",
            "processor time of the device, s/1,000 requests",
        ],
        take: requests,
    },
    Measurement {
        name: "http2",
        figures: &[
            "HTTP/2, 1 KB requests, 4 connections of 8 streams, 1/s",
            "processor time of the device for them, s/1,000 requests",
        ],
        take: http2,
    },
    Measurement {
        name: "download",
        figures: &["download, 1 connection, MB/s"],
        take: download,
    },
    Measurement {
        name: "paced",
        figures: &["the same to a reader of at most 1 GB/s, 1 GB, MB/s"],
        take: paced_download,
    },
    Measurement {
        name: "upload",
        figures: &["upload, 1 connection, MB/s"],
        take: upload,
    },
    Measurement {
        name: "connections",
        figures: &["new TLS connections with a request each, 16 at a time, 1/s"],
        take: connections,
    },
    Measurement {
        name: "latency",
        figures: &["latency of a 1 KB request, p50, µs", "the same, p99, µs"],
        take: latency,
    },
    Measurement {
        name: "beside",
        figures: &[
            "a 1 KB request beside a download, p50, ms",
            "beside a download, p99, ms",
        ],
        take: beside,
    },
];

pub(super) const IDLE_MEMORY: &str = "memory for each idle TLS connection, KB";

/// Open connections while memory is measured.
const IDLE_CONNECTIONS: usize = 400;

fn requests(bench: &Bench, ways: &[Way]) -> Vec<Vec<f64>> {
    const CONNECTIONS: usize = 32;
    const EACH: u64 = 800;
    let take = |way: &Way| {
        let used = way.device_time();
        let elapsed = measure::requests(&bench.client, &way.target, CONNECTIONS, EACH);
        let used = way.device_time() - used;
        let count = CONNECTIONS as f64 * EACH as f64;
        vec![count / elapsed.as_secs_f64(), used / (count / 1000.0)]
    };
    ways.iter().map(take).collect()
}

fn http2(bench: &Bench, ways: &[Way]) -> Vec<Vec<f64>> {
    const CONNECTIONS: usize = 4;
    const STREAMS: usize = 8;
    const EACH: u64 = 800;
    let take = |way: &Way| {
        let used = way.device_time();
        let elapsed =
            measure::http2_requests(&bench.http2_client, &way.target, CONNECTIONS, STREAMS, EACH);
        let used = way.device_time() - used;
        let count = (CONNECTIONS * STREAMS) as f64 * EACH as f64;
        vec![count / elapsed.as_secs_f64(), used / (count / 1000.0)]
    };
    ways.iter().map(take).collect()
}

fn download(bench: &Bench, ways: &[Way]) -> Vec<Vec<f64>> {
    const TIMES: u32 = 2;
    let take = |way: &Way| {
        // Version 0 cannot hold a sender back; less than the bound of what waits is not cut.
        let bytes = if way.holds_back {
            FILE_SIZE
        } else {
            FILE_SIZE / 8
        };
        let elapsed = measure::download(&bench.client, &way.target, bytes, TIMES);
        vec![megabytes_per_second(u64::from(TIMES) * bytes, elapsed)]
    };
    ways.iter().map(take).collect()
}

/// The bytes are enough for version 0, which cannot hold the sender back, to be cut: more than the
/// relay and the device hold for one connection.
fn paced_download(bench: &Bench, ways: &[Way]) -> Vec<Vec<f64>> {
    const TIMES: u32 = 4;
    const RATE: f64 = 1e9;
    let take = |way: &Way| {
        let elapsed = measure::download_at(&bench.client, &way.target, FILE_SIZE, TIMES, RATE);
        vec![megabytes_per_second(u64::from(TIMES) * FILE_SIZE, elapsed)]
    };
    ways.iter().map(take).collect()
}

fn upload(bench: &Bench, ways: &[Way]) -> Vec<Vec<f64>> {
    let take = |way: &Way| {
        if !way.reads_after_answer {
            return vec![f64::NAN];
        }
        let elapsed = measure::upload(&bench.client, &way.target, FILE_SIZE);
        vec![megabytes_per_second(FILE_SIZE, elapsed)]
    };
    ways.iter().map(take).collect()
}

fn connections(bench: &Bench, ways: &[Way]) -> Vec<Vec<f64>> {
    const CONNECTIONS: usize = 16;
    const EACH: u32 = 30;
    let take = |way: &Way| {
        let elapsed = measure::connections(&bench.client, &way.target, CONNECTIONS, EACH);
        vec![(CONNECTIONS as f64 * f64::from(EACH)) / elapsed.as_secs_f64()]
    };
    ways.iter().map(take).collect()
}

fn latency(bench: &Bench, ways: &[Way]) -> Vec<Vec<f64>> {
    let targets: Vec<&Target> = ways.iter().map(|way| &way.target).collect();
    let micros = |elapsed: &[Duration], part| percentile(elapsed, part).as_secs_f64() * 1e6;
    measure::latencies(&bench.client, &targets)
        .iter()
        .map(|elapsed| vec![micros(elapsed, 50), micros(elapsed, 99)])
        .collect()
}

fn beside(bench: &Bench, ways: &[Way]) -> Vec<Vec<f64>> {
    const TIME: Duration = Duration::from_millis(1500);
    let take = |way: &Way| {
        if !way.holds_back {
            return vec![f64::NAN; 2];
        }
        let beside = measure::beside_download(&bench.client, &way.target, TIME, FILE_SIZE / 4);
        let millis = |part| percentile(&beside.latencies, part).as_secs_f64() * 1e3;
        vec![millis(50), millis(99)]
    };
    ways.iter().map(take).collect()
}

/// Returns the memory of the way's device for each of many idle connections.
pub(super) fn idle_memory(bench: &Bench, way: &Way) -> Option<f64> {
    let device = way.device?;
    let resident = || process_status(device, "VmRSS");
    // What the first connections need once: tables, threads, a connection to the application.
    measure::requests(&bench.client, &way.target, 4, 10);
    let before = resident();
    let beside = measure::beside_idle(&bench.client, &way.target, IDLE_CONNECTIONS, resident);
    Some((beside - before) * 1.024 / IDLE_CONNECTIONS as f64)
}
