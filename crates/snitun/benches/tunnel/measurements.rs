//! The measurements, one function for each line of the table.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;

use super::client::{Client, Connection};
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
];

pub(super) const WARM_UP: fn(&Client, &Route) = |client, route| {
    download(client, route);
    requests(client, route);
    connections(client, route);
};

const MIB: u64 = 1024 * 1024;
/// Duration of the download with concurrent small requests.
const LOADED_DURATION: Duration = Duration::from_millis(1500);
/// Interval of small requests during a download: long enough to cost it little.
const REQUEST_INTERVAL: Duration = Duration::from_millis(4);

/// Reduces the amount for slow routes, so that a round takes about as long for each.
fn amount(route: &Route, amount: u64) -> u64 {
    if route.slow { amount / 8 } else { amount }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn megabytes_per_second(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / elapsed.as_secs_f64() / 1e6
}

fn download(client: &Client, route: &Route) -> Vec<f64> {
    let bytes = amount(route, FILE_SIZE);
    let used = route.device_time();
    let elapsed = run(async {
        let mut connection = route.connect(client).await;
        let start = Instant::now();
        for _ in 0..2 {
            connection.download(bytes).await;
        }
        start.elapsed()
    });
    let used = route.device_time() - used;
    vec![
        megabytes_per_second(2 * bytes, elapsed),
        used / (2e-9 * bytes as f64),
    ]
}

fn parallel(client: &Client, route: &Route) -> Vec<f64> {
    let bytes = amount(route, 32 * MIB);
    let elapsed = run(async {
        let mut all = join_all((0..16).map(|_| route.connect(client))).await;
        let start = Instant::now();
        join_all(all.iter_mut().map(|connection| connection.download(bytes))).await;
        start.elapsed()
    });
    vec![megabytes_per_second(16 * bytes, elapsed)]
}

fn upload(client: &Client, route: &Route) -> Vec<f64> {
    let bytes = amount(route, FILE_SIZE);
    let elapsed = run(async {
        let mut connection = route.connect(client).await;
        let start = Instant::now();
        connection.upload(bytes).await;
        start.elapsed()
    });
    vec![megabytes_per_second(bytes, elapsed)]
}

fn requests(client: &Client, route: &Route) -> Vec<f64> {
    let each = amount(route, 800);
    let used = route.device_time();
    let elapsed = run(async {
        let mut all = join_all((0..32).map(|_| route.connect(client))).await;
        let start = Instant::now();
        join_all(all.iter_mut().map(async |connection| {
            for _ in 0..each {
                connection.small().await;
            }
        }))
        .await;
        start.elapsed()
    });
    let used = route.device_time() - used;
    let count = 32.0 * each as f64;
    vec![count / elapsed.as_secs_f64(), used / (count / 1000.0)]
}

/// In short turns: the routes differ by hundredths, the machine from one second to the next by
/// more.
fn latency(client: &Client, routes: &[&Route]) -> Vec<Vec<f64>> {
    const TURNS: usize = 12;
    const REQUESTS: usize = 170;
    /// The first requests of a turn, whose data is not in the processor's caches.
    const NOT_COUNTED: usize = 20;
    let elapsed = run(async {
        let mut connections = Vec::new();
        for route in routes {
            connections.push((route.connect(client).await, Vec::new()));
        }
        for turn in 0..TURNS {
            // Forwards and backwards, so that none always comes behind the same one.
            let mut order: Vec<_> = connections.iter_mut().collect();
            if turn % 2 == 1 {
                order.reverse();
            }
            for (connection, elapsed) in order {
                for request in 0..REQUESTS {
                    let start = Instant::now();
                    connection.small().await;
                    if request >= NOT_COUNTED {
                        elapsed.push(start.elapsed());
                    }
                }
            }
        }
        connections.into_iter().map(|(_, elapsed)| elapsed)
    });
    let micros = |elapsed: &[Duration], part| percentile(elapsed, part).as_secs_f64() * 1e6;
    elapsed
        .map(|elapsed| vec![micros(&elapsed, 50), micros(&elapsed, 99)])
        .collect()
}

fn connections(client: &Client, route: &Route) -> Vec<f64> {
    const EACH: u32 = 30;
    let elapsed = run(async {
        let start = Instant::now();
        join_all((0..16).map(async |_| {
            for _ in 0..EACH {
                route.connect(client).await.small().await;
            }
        }))
        .await;
        start.elapsed()
    });
    vec![f64::from(16 * EACH) / elapsed.as_secs_f64()]
}

/// A download on one thread, small requests on another one.
fn beside(client: &Client, route: &Route) -> Vec<f64> {
    let start = Instant::now();
    let alone = run(bulk(client, route, || start.elapsed() >= LOADED_DURATION));
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (rate, elapsed) = thread::scope(|scope| {
        let download = scope.spawn(|| {
            run(bulk(client, route, || {
                begun.store(true, Ordering::Relaxed);
                done.load(Ordering::Relaxed)
            }))
        });
        let elapsed = run(async {
            // Only then does the latency depend on the download.
            while !begun.load(Ordering::Relaxed) && !download.is_finished() {
                tokio::time::sleep(REQUEST_INTERVAL).await;
            }
            let mut connection = quickest(client, route).await;
            let mut elapsed = Vec::new();
            let start = Instant::now();
            let mut due = tokio::time::interval(REQUEST_INTERVAL);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while start.elapsed() < LOADED_DURATION {
                due.tick().await;
                let start = Instant::now();
                connection.small().await;
                elapsed.push(start.elapsed());
            }
            elapsed
        });
        done.store(true, Ordering::Relaxed);
        (download.join().unwrap(), elapsed)
    });
    let millis = |part| percentile(&elapsed, part).as_secs_f64() * 1e3;
    vec![millis(50), millis(99), rate / alone]
}

/// A connection that does not share a process of nginx with the download: that would measurement
/// nginx, which serves a fast download for many milliseconds before it looks at another connection.
async fn quickest(client: &Client, route: &Route) -> Connection {
    let mut best = None;
    for _ in 0..6 {
        let mut connection = route.connect(client).await;
        let start = Instant::now();
        for _ in 0..10 {
            connection.small().await;
        }
        let elapsed = start.elapsed();
        if best.as_ref().is_none_or(|(least, _)| elapsed < *least) {
            best = Some((elapsed, connection));
        }
    }
    best.unwrap().1
}

/// Downloads piece by piece until it is `done`, which is asked after each; yields the rate.
async fn bulk(client: &Client, route: &Route, done: impl Fn() -> bool) -> f64 {
    let mut connection = route.connect(client).await;
    let piece = amount(route, 64 * MIB);
    let start = Instant::now();
    let mut bytes = 0;
    loop {
        connection.download(piece).await;
        bytes += piece;
        if done() {
            return megabytes_per_second(bytes, start.elapsed());
        }
    }
}

fn percentile(values: &[Duration], part: usize) -> Duration {
    let mut values = values.to_vec();
    values.sort();
    values[values.len() * part / 100]
}
