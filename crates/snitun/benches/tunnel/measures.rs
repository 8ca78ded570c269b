//! What is measured, one function for each line of the table.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;

use super::client::{Client, Connection};
use super::ways::{FILE_SIZE, Way};

/// Figures that are taken together.
pub(super) struct Measure {
    pub(super) name: &'static str,
    pub(super) figures: &'static [&'static str],
    pub(super) take: Take,
}

/// How the ways get their turns.
pub(super) enum Take {
    /// Each once in a round; yields its figures.
    Each(fn(&Client, &Way) -> Vec<f64>),
    /// Many times in a round; yields the figures of each.
    Together(fn(&Client, &[&Way]) -> Vec<Vec<f64>>),
}

pub(super) const MEASURES: &[Measure] = &[
    Measure {
        name: "download",
        figures: &[
            "download, 1 connection, MB/s",
            "processor time of the device, s/GB",
        ],
        take: Take::Each(download),
    },
    Measure {
        name: "parallel",
        figures: &["download, 16 connections, MB/s"],
        take: Take::Each(parallel),
    },
    Measure {
        name: "upload",
        figures: &["upload, 1 connection, MB/s"],
        take: Take::Each(upload),
    },
    Measure {
        name: "requests",
        figures: &[
            "small requests, 32 connections, 1/s",
            "processor time of the device, s/1000 requests",
        ],
        take: Take::Each(requests),
    },
    Measure {
        name: "latency",
        figures: &["latency of a small request, p50, µs", "the same, p99, µs"],
        take: Take::Together(latency),
    },
    Measure {
        name: "connections",
        figures: &["new TLS connections, 16 at a time, 1/s"],
        take: Take::Each(connections),
    },
    Measure {
        name: "beside",
        figures: &[
            "a small request beside a download, p50, ms",
            "the same, p99, ms",
            "what is left of the download",
        ],
        take: Take::Each(beside),
    },
];

pub(super) const WARM_UP: fn(&Client, &Way) = |client, way| {
    download(client, way);
    requests(client, way);
    connections(client, way);
};

const MIB: u64 = 1024 * 1024;
/// How long the download beside small requests is watched.
const BESIDE: Duration = Duration::from_millis(1500);
/// One small request in this time while a download runs: few enough to cost it little.
const EVERY: Duration = Duration::from_millis(4);

/// Less to do for the slow ones: a round is about as long for each.
fn amount(way: &Way, amount: u64) -> u64 {
    if way.slow { amount / 8 } else { amount }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn megabytes_per_second(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / took.as_secs_f64() / 1e6
}

fn download(client: &Client, way: &Way) -> Vec<f64> {
    let bytes = amount(way, FILE_SIZE);
    let used = way.device_time();
    let took = run(async {
        let mut connection = client.connect(way).await;
        let start = Instant::now();
        for _ in 0..2 {
            connection.download(bytes).await;
        }
        start.elapsed()
    });
    let used = way.device_time() - used;
    vec![
        megabytes_per_second(2 * bytes, took),
        used / (2e-9 * bytes as f64),
    ]
}

fn parallel(client: &Client, way: &Way) -> Vec<f64> {
    let bytes = amount(way, 32 * MIB);
    let took = run(async {
        let mut all = join_all((0..16).map(|_| client.connect(way))).await;
        let start = Instant::now();
        join_all(all.iter_mut().map(|connection| connection.download(bytes))).await;
        start.elapsed()
    });
    vec![megabytes_per_second(16 * bytes, took)]
}

fn upload(client: &Client, way: &Way) -> Vec<f64> {
    let bytes = amount(way, FILE_SIZE);
    let took = run(async {
        let mut connection = client.connect(way).await;
        let start = Instant::now();
        connection.upload(bytes).await;
        start.elapsed()
    });
    vec![megabytes_per_second(bytes, took)]
}

fn requests(client: &Client, way: &Way) -> Vec<f64> {
    let each = amount(way, 800);
    let used = way.device_time();
    let took = run(async {
        let mut all = join_all((0..32).map(|_| client.connect(way))).await;
        let start = Instant::now();
        join_all(all.iter_mut().map(async |connection| {
            for _ in 0..each {
                connection.small().await;
            }
        }))
        .await;
        start.elapsed()
    });
    let used = way.device_time() - used;
    let count = 32.0 * each as f64;
    vec![count / took.as_secs_f64(), used / (count / 1000.0)]
}

/// In short turns: the ways differ by hundredths, the machine from one second to the next by more.
fn latency(client: &Client, ways: &[&Way]) -> Vec<Vec<f64>> {
    const TURNS: usize = 12;
    const REQUESTS: usize = 170;
    /// The first ones of a turn, which find the processor's caches full of the way before.
    const NOT_COUNTED: usize = 20;
    let took = run(async {
        let mut connections = Vec::new();
        for way in ways {
            connections.push((client.connect(way).await, Vec::new()));
        }
        for turn in 0..TURNS {
            // Forwards and backwards, so that none always comes behind the same one.
            let mut order: Vec<_> = connections.iter_mut().collect();
            if turn % 2 == 1 {
                order.reverse();
            }
            for (connection, took) in order {
                for request in 0..REQUESTS {
                    let start = Instant::now();
                    connection.small().await;
                    if request >= NOT_COUNTED {
                        took.push(start.elapsed());
                    }
                }
            }
        }
        connections.into_iter().map(|(_, took)| took)
    });
    let micros = |took: &[Duration], part| percentile(took, part).as_secs_f64() * 1e6;
    took.map(|took| vec![micros(&took, 50), micros(&took, 99)])
        .collect()
}

fn connections(client: &Client, way: &Way) -> Vec<f64> {
    const EACH: u32 = 30;
    let took = run(async {
        let start = Instant::now();
        join_all((0..16).map(async |_| {
            for _ in 0..EACH {
                client.connect(way).await.small().await;
            }
        }))
        .await;
        start.elapsed()
    });
    vec![f64::from(16 * EACH) / took.as_secs_f64()]
}

/// A download on one thread, small requests on another one.
fn beside(client: &Client, way: &Way) -> Vec<f64> {
    let start = Instant::now();
    let alone = run(bulk(client, way, || start.elapsed() >= BESIDE));
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (rate, took) = thread::scope(|scope| {
        let download = scope.spawn(|| {
            run(bulk(client, way, || {
                begun.store(true, Ordering::Relaxed);
                done.load(Ordering::Relaxed)
            }))
        });
        let took = run(async {
            // Only then does it show who serves the download.
            while !begun.load(Ordering::Relaxed) && !download.is_finished() {
                tokio::time::sleep(EVERY).await;
            }
            let mut connection = quickest(client, way).await;
            let mut took = Vec::new();
            let start = Instant::now();
            let mut due = tokio::time::interval(EVERY);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while start.elapsed() < BESIDE {
                due.tick().await;
                let start = Instant::now();
                connection.small().await;
                took.push(start.elapsed());
            }
            took
        });
        done.store(true, Ordering::Relaxed);
        (download.join().unwrap(), took)
    });
    let millis = |part| percentile(&took, part).as_secs_f64() * 1e3;
    vec![millis(50), millis(99), rate / alone]
}

/// A connection that does not share a process of nginx with the download: that would measure nginx, which serves a fast
/// download for many milliseconds before it looks at another connection.
async fn quickest(client: &Client, way: &Way) -> Connection {
    let mut best = None;
    for _ in 0..6 {
        let mut connection = client.connect(way).await;
        let start = Instant::now();
        for _ in 0..10 {
            connection.small().await;
        }
        let took = start.elapsed();
        if best.as_ref().is_none_or(|(least, _)| took < *least) {
            best = Some((took, connection));
        }
    }
    best.unwrap().1
}

/// Downloads piece by piece until it is `done`, which is asked after each; yields the rate.
async fn bulk(client: &Client, way: &Way, done: impl Fn() -> bool) -> f64 {
    let mut connection = client.connect(way).await;
    let piece = amount(way, 64 * MIB);
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
