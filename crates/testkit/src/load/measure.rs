//! What is measured of a way to a server, each in a runtime of its own with one thread.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::MissedTickBehavior;

use super::client::{Client, Connection, Target};
use super::http2::Http2Connection;

const MIB: u64 = 1024 * 1024;
/// Interval of small requests during a download: long enough to cost it little.
const REQUEST_INTERVAL: Duration = Duration::from_millis(4);

/// Runs a measurement.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

/// Returns a rate in MB/s.
pub fn megabytes_per_second(bytes: u64, elapsed: Duration) -> f64 {
    bytes as f64 / elapsed.as_secs_f64() / 1e6
}

/// Returns the time below which this part of the values is, in hundredths.
pub fn percentile(values: &[Duration], part: usize) -> Duration {
    let mut values = values.to_vec();
    values.sort();
    values[values.len() * part / 100]
}

/// Returns the time for downloads one after another on one connection.
pub fn download(client: &Client, target: &Target, bytes: u64, times: u32) -> Duration {
    run(async {
        let mut connection = client.connect(target).await;
        let start = Instant::now();
        for _ in 0..times {
            connection.download(bytes).await;
        }
        start.elapsed()
    })
}

/// Returns the time for downloads one after another on one connection, by a reader that takes no
/// more than `rate` bytes per second.
pub fn download_at(
    client: &Client,
    target: &Target,
    bytes: u64,
    times: u32,
    rate: f64,
) -> Duration {
    run(async {
        let mut connection = client.connect(target).await;
        let start = Instant::now();
        for _ in 0..times {
            connection.download_at(bytes, rate).await;
        }
        start.elapsed()
    })
}

/// Returns the time for an upload.
pub fn upload(client: &Client, target: &Target, bytes: u64) -> Duration {
    run(async {
        let mut connection = client.connect(target).await;
        let start = Instant::now();
        connection.upload(bytes).await;
        start.elapsed()
    })
}

/// Returns the time for downloads on several connections at once.
pub fn parallel_downloads(client: &Client, target: &Target, count: usize, bytes: u64) -> Duration {
    run(async {
        let mut all = join_all((0..count).map(|_| client.connect(target))).await;
        let start = Instant::now();
        join_all(all.iter_mut().map(|connection| connection.download(bytes))).await;
        start.elapsed()
    })
}

/// Returns the time for `each` small requests on each of `count` connections at once.
pub fn requests(client: &Client, target: &Target, count: usize, each: u64) -> Duration {
    run(async {
        let mut all = join_all((0..count).map(|_| client.connect(target))).await;
        let start = Instant::now();
        join_all(all.iter_mut().map(async |connection| {
            for _ in 0..each {
                connection.small().await;
            }
        }))
        .await;
        start.elapsed()
    })
}

/// Returns the time for `each` small requests on each of `streams` streams of each of `count`
/// connections over HTTP/2 at once.
pub fn http2_requests(
    client: &Client,
    target: &Target,
    count: usize,
    streams: usize,
    each: u64,
) -> Duration {
    run(async {
        let all = join_all((0..count).map(|_| Http2Connection::open(client, target))).await;
        let start = Instant::now();
        let streams = all.iter().flat_map(|one| (0..streams).map(|_| one.clone()));
        join_all(streams.map(async |mut stream| {
            for _ in 0..each {
                stream.small().await;
            }
        }))
        .await;
        start.elapsed()
    })
}

/// Returns the latencies of each target's small requests, taken in short turns: the ways differ by
/// hundredths, the machine from one second to the next by more.
pub fn latencies(client: &Client, targets: &[&Target]) -> Vec<Vec<Duration>> {
    const TURNS: usize = 12;
    const REQUESTS: usize = 170;
    /// The first requests of a turn, whose data is not in the processor's caches.
    const NOT_COUNTED: usize = 20;
    run(async {
        let mut connections = Vec::new();
        for target in targets {
            connections.push((client.connect(target).await, Vec::new()));
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
        connections
            .into_iter()
            .map(|(_, elapsed)| elapsed)
            .collect()
    })
}

/// Returns the time for new connections, `count` at a time and `each` one after another, with a
/// small request on each.
pub fn connections(client: &Client, target: &Target, count: usize, each: u32) -> Duration {
    run(async {
        let start = Instant::now();
        join_all((0..count).map(async |_| {
            for _ in 0..each {
                client.connect(target).await.small().await;
            }
        }))
        .await;
        start.elapsed()
    })
}

/// Small requests beside a download.
#[derive(Debug)]
pub struct Beside {
    /// The latencies of the small requests.
    pub latencies: Vec<Duration>,
    /// The rate of the download, as a share of its rate alone.
    pub rate_left: f64,
}

/// Sends small requests for this long, beside a download on another thread.
pub fn beside_download(client: &Client, target: &Target, time: Duration, piece: u64) -> Beside {
    let start = Instant::now();
    let alone = run(bulk(client, target, piece, || start.elapsed() >= time));
    let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (rate, latencies) = thread::scope(|scope| {
        let download = scope.spawn(|| {
            run(bulk(client, target, piece, || {
                begun.store(true, Ordering::Relaxed);
                done.load(Ordering::Relaxed)
            }))
        });
        let latencies = run(async {
            // Only then does the latency depend on the download.
            while !begun.load(Ordering::Relaxed) && !download.is_finished() {
                tokio::time::sleep(REQUEST_INTERVAL).await;
            }
            let mut connection = quickest(client, target).await;
            let mut latencies = Vec::new();
            let start = Instant::now();
            let mut due = tokio::time::interval(REQUEST_INTERVAL);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while start.elapsed() < time {
                due.tick().await;
                let start = Instant::now();
                connection.small().await;
                latencies.push(start.elapsed());
            }
            latencies
        });
        done.store(true, Ordering::Relaxed);
        (download.join().unwrap(), latencies)
    });
    Beside {
        latencies,
        rate_left: rate / alone,
    }
}

/// Returns the latencies of small requests one after another for this long, on a connection that
/// does not share a process of nginx with the bulk that other programs take.
pub fn latencies_for(client: &Client, target: &Target, time: Duration) -> Vec<Duration> {
    run(async {
        let mut connection = quickest(client, target).await;
        let mut latencies = Vec::new();
        let start = Instant::now();
        while start.elapsed() < time {
            let start = Instant::now();
            connection.small().await;
            latencies.push(start.elapsed());
        }
        latencies
    })
}

/// Downloads with a reader that is slower than the way while `look` runs: it takes 64 KiB, and then
/// has work to do. Returns its rate in MB/s, too.
pub fn beside_slow_reader<T>(
    client: &Client,
    target: &Target,
    look: impl FnOnce() -> T,
) -> (T, f64) {
    /// What an interpreted program does with 64 KiB: about 500 MB/s.
    const WORK: Duration = Duration::from_micros(80);
    const PIECE: u64 = 64 * 1024;
    let (pieces, done) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let download = scope.spawn(|| {
            run(async {
                while !done.load(Ordering::Relaxed) {
                    let mut connection = client.connect(target).await;
                    let more = || {
                        pieces.fetch_add(1, Ordering::Relaxed);
                        let start = Instant::now();
                        while start.elapsed() < WORK {
                            std::hint::spin_loop();
                        }
                        !done.load(Ordering::Relaxed)
                    };
                    connection.download_while(256 * MIB, more).await;
                }
            });
        });
        while pieces.load(Ordering::Relaxed) == 0 && !download.is_finished() {
            thread::sleep(REQUEST_INTERVAL);
        }
        let (start, before) = (Instant::now(), pieces.load(Ordering::Relaxed));
        let seen = look();
        let bytes = PIECE * (pieces.load(Ordering::Relaxed) - before);
        done.store(true, Ordering::Relaxed);
        (seen, megabytes_per_second(bytes, start.elapsed()))
    })
}

/// Opens this many connections, sends a small request on each, and returns what `look` returns
/// while all are open and idle.
pub fn beside_idle<T>(
    client: &Client,
    target: &Target,
    count: usize,
    look: impl FnOnce() -> T,
) -> T {
    run(async {
        let mut all = Vec::new();
        for _ in 0..count {
            let mut connection = client.connect(target).await;
            connection.small().await;
            all.push(connection);
        }
        // Buffers are released by then.
        tokio::time::sleep(Duration::from_secs(1)).await;
        look()
    })
}

/// Downloads with a reader that takes 64 KiB in each `pace`, and returns what `look` returns beside
/// it.
pub fn beside_paced_reader<T>(
    client: &Client,
    target: &Target,
    bytes: u64,
    pace: Duration,
    look: impl FnOnce() -> T,
) -> T {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            run(async {
                let mut connection = client.connect(target).await;
                let more = || {
                    thread::sleep(pace);
                    !done.load(Ordering::Relaxed)
                };
                connection.download_while(bytes, more).await;
            });
        });
        let seen = look();
        done.store(true, Ordering::Relaxed);
        seen
    })
}

/// A connection that does not share a process of nginx with the download: that would measure nginx,
/// which serves a fast download for many milliseconds before it looks at another connection.
async fn quickest(client: &Client, target: &Target) -> Connection {
    let mut best = None;
    for _ in 0..6 {
        let mut connection = client.connect(target).await;
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

/// Downloads piece by piece until it is `done`, which is asked after each; returns the rate.
async fn bulk(client: &Client, target: &Target, piece: u64, done: impl Fn() -> bool) -> f64 {
    let mut connection = client.connect(target).await;
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
