//! Throughput and latency through a relay and a device, compared with two plain TCP hops in the
//! same run.
//!
//! ```text
//! cargo bench -p snitun --bench loopback [-- ROUNDS [VERSION]]
//! ```
//!
//! Caller, relay, device and the service each have their own thread, on loopback. Rounds of both
//! paths alternate, and medians are printed; only the ratios are meaningful across machines. The
//! plain path copies bytes with tokio through as many sockets; it is the upper bound of the tunnel.
//! Processor time is that of the threads between caller and service, and the steadier figure on a
//! busy machine.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends the program"
)]

use std::net::SocketAddr;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use snitun::client::{self, ClientConfig};
use snitun::server::{FernetKeys, Server, ServerConfig, TokenContent};
use snitun::{ProtocolVersion, SessionKey};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// A minimal ClientHello for the host `a.test`; the service skips it.
const HELLO: &[u8] = &[
    0x16, 3, 1, 0, 62, 1, 0, 0, 58, 3, 3, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 0, 0, 2, 0x13, 1, 1, 0, 0, 15, 0, 0, 0, 11, 0, 9, 0, 0,
    6, b'a', b'.', b't', b'e', b's', b't',
];
const MIB: u64 = 1024 * 1024;
const BULK: u64 = 192 * MIB;
const REQUEST: usize = 100;
const RESPONSE: usize = 300;

/// One number for each measurement: larger is better except for latencies.
type Figures = Vec<(&'static str, f64)>;

fn main() {
    // `cargo test` and `cargo bench` without a filter pass their own options.
    let mut numbers = std::env::args().filter_map(|argument| argument.parse::<u8>().ok());
    let rounds = numbers.next().unwrap_or(3);
    let version = numbers.next().map_or(ProtocolVersion::V1, |version| {
        version.try_into().expect("a version")
    });
    let service = own_thread("service", service());
    let hop = own_thread("plain", plain_hop(service));
    let plain = (own_thread("plain", plain_hop(hop)), "plain");
    let tunnel = (
        own_thread("start", relay_and_device(service, version)),
        "snitun",
    );

    let runtime = runtime();
    let mut results: [Vec<Figures>; 2] = Default::default();
    for _ in 0..rounds {
        for ((address, between), results) in [plain, tunnel].into_iter().zip(&mut results) {
            results.push(runtime.block_on(measure(address, between)));
        }
    }
    println!(
        "{:28} {:>12} {:>12} {:>8}",
        "measure", "two hops", "snitun", "ratio"
    );
    for index in 0..results[0][0].len() {
        let median = |rounds: &[Figures]| {
            let mut all: Vec<f64> = rounds.iter().map(|figures| figures[index].1).collect();
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        };
        let [plain, tunnel] = [median(&results[0]), median(&results[1])];
        let name = results[0][0][index].0;
        println!(
            "{name:28} {plain:12.4} {tunnel:12.4} {:8.2}",
            tunnel / plain
        );
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Processor time of the threads with this name, in seconds; `None` where the system does not
/// report it.
fn processor_time(name: &str) -> f64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return 0.0;
    };
    let nanos = threads.flatten().filter_map(|thread| {
        let read = |file| std::fs::read_to_string(thread.path().join(file)).ok();
        (read("comm")?.trim() == name).then_some(())?;
        read("schedstat")?.split(' ').next()?.parse::<f64>().ok()
    });
    nanos.sum::<f64>() / 1e9
}

/// Runs `start` on a thread that lives as long as the program; returns the address it serves.
fn own_thread(
    name: &str,
    start: impl AsyncFnOnce(mpsc::Sender<SocketAddr>) + Send + 'static,
) -> SocketAddr {
    let (sender, address) = mpsc::channel();
    spawn(name, move || runtime().block_on(start(sender)));
    address.recv().unwrap()
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) {
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .unwrap();
}

async fn listen(ready: &mpsc::Sender<SocketAddr>) -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    ready.send(listener.local_addr().unwrap()).unwrap();
    listener
}

/// The service behind the device: sends, discards or answers, as the caller requests.
fn service() -> impl AsyncFnOnce(mpsc::Sender<SocketAddr>) {
    async |ready| {
        let listener = listen(&ready).await;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(async move {
                // The caller closes when it is done.
                let _ = serve(stream).await;
            });
        }
    }
}

async fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    let mut hello = [0; HELLO.len()];
    stream.read_exact(&mut hello).await?;
    let kind = stream.read_u8().await?;
    let mut left = stream.read_u64().await?;
    let mut block = vec![0; 256 * 1024];
    match kind {
        b'd' => {
            while left > 0 {
                let now = left.min(block.len() as u64);
                stream.write_all(&block[..now as usize]).await?;
                left -= now;
            }
        }
        b'u' => {
            while left > 0 {
                left -= stream.read(&mut block).await? as u64;
            }
            stream.write_u8(1).await?;
        }
        _ => loop {
            stream.read_exact(&mut block[..REQUEST]).await?;
            stream.write_all(&block[..RESPONSE]).await?;
        },
    }
    // The caller closes first.
    stream.read_u8().await?;
    Ok(())
}

fn plain_hop(to: SocketAddr) -> impl AsyncFnOnce(mpsc::Sender<SocketAddr>) {
    async move |ready| {
        let listener = listen(&ready).await;
        loop {
            let (mut from, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut to = TcpStream::connect(to).await.unwrap();
                from.set_nodelay(true).unwrap();
                to.set_nodelay(true).unwrap();
                let _ = tokio::io::copy_bidirectional_with_sizes(&mut from, &mut to, 65536, 65536)
                    .await;
            });
        }
    }
}

fn relay_and_device(
    service: SocketAddr,
    version: ProtocolVersion,
) -> impl AsyncFnOnce(mpsc::Sender<SocketAddr>) {
    async move |ready| {
        let keys = FernetKeys::generate();
        let key = SessionKey::generate().unwrap();
        let valid = SystemTime::now() + Duration::from_secs(3600);
        let valid = valid.duration_since(UNIX_EPOCH).unwrap().as_secs();
        let mut content = TokenContent::new("a.test", key, valid);
        content.protocol_version = version;
        let mut config = ClientConfig::new(keys.issue(&content).unwrap(), content.key.aes_cbc());
        config.version = version;
        let server = Server::new(keys, ServerConfig::default());
        let (up, is_up) = mpsc::channel();
        let relay = own_thread("snitun", async move |ready: mpsc::Sender<SocketAddr>| {
            let listener = listen(&ready).await;
            server.serve(listener, std::future::pending()).await;
        });
        spawn("snitun", move || {
            runtime().block_on(async move {
                let stream = TcpStream::connect(relay).await.unwrap();
                snitun::configure_tcp(&stream).unwrap();
                let mut tunnel = client::connect(stream, config).await.unwrap();
                up.send(()).unwrap();
                while let Some(channel) = tunnel.accept().await {
                    tokio::spawn(async move {
                        let stream = TcpStream::connect(service).await.unwrap();
                        stream.set_nodelay(true).unwrap();
                        let _ =
                            snitun::copy_bidirectional(stream, channel, Duration::from_secs(60))
                                .await;
                    });
                }
            });
        });
        is_up.recv().unwrap();
        ready.send(relay).unwrap();
    }
}

async fn measure(address: SocketAddr, between: &str) -> Figures {
    let rate = |bytes: u64, took: Duration| bytes as f64 / took.as_secs_f64() / 1e6;
    let mut figures = Figures::new();
    for (name, kind, connections) in [
        ("download, 1, MB/s", b'd', 1),
        ("download, 16, MB/s", b'd', 16),
        ("upload, 1, MB/s", b'u', 1),
        ("upload, 16, MB/s", b'u', 16),
    ] {
        let used = processor_time(between);
        let start = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..connections {
            callers.spawn(bulk(address, kind, BULK / connections));
        }
        callers.join_all().await;
        figures.push((name, rate(BULK, start.elapsed())));
        figures.push((
            "  processor time, s/GB",
            (processor_time(between) - used) / (BULK as f64 / 1e9),
        ));
    }
    let used = processor_time(between);
    let start = Instant::now();
    let requests = 300;
    let mut callers = JoinSet::new();
    for _ in 0..32 {
        callers.spawn(requests_in_a_row(address, requests));
    }
    callers.join_all().await;
    figures.push((
        "requests, 32, 1/s",
        32.0 * f64::from(requests) / start.elapsed().as_secs_f64(),
    ));
    let used = processor_time(between) - used;
    figures.push((
        "  processor time, s/1000",
        used / (0.032 * f64::from(requests)),
    ));
    let mut took = requests_in_a_row(address, 2000).await;
    took.sort();
    let micros = |part: usize| took[took.len() * part / 100].as_secs_f64() * 1e6;
    figures.push(("latency, p50, us", micros(50)));
    figures.push(("latency, p99, us", micros(99)));
    // With one concurrent bulk download.
    let download = tokio::spawn(bulk(address, b'd', BULK));
    let mut beside = requests_in_a_row(address, 300).await;
    beside.sort();
    figures.push((
        "p99 beside a download, us",
        beside[beside.len() * 99 / 100].as_secs_f64() * 1e6,
    ));
    download.await.unwrap();
    figures
}

async fn ask(address: SocketAddr, kind: u8, amount: u64) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let order = [HELLO, &[kind], &amount.to_be_bytes()].concat();
    stream.write_all(&order).await.unwrap();
    stream
}

async fn bulk(address: SocketAddr, kind: u8, amount: u64) {
    let mut stream = ask(address, kind, amount).await;
    let mut block = vec![0; 256 * 1024];
    let mut left = amount;
    if kind == b'u' {
        while left > 0 {
            let now = left.min(block.len() as u64);
            stream.write_all(&block[..now as usize]).await.unwrap();
            left -= now;
        }
        left = 1;
    }
    while left > 0 {
        let count = stream.read(&mut block).await.unwrap();
        assert_ne!(count, 0, "cut short");
        left -= count as u64;
    }
}

async fn requests_in_a_row(address: SocketAddr, count: u32) -> Vec<Duration> {
    let mut stream = ask(address, b'r', 0).await;
    let mut response = [0; RESPONSE];
    let mut took = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        stream.write_all(&[1; REQUEST]).await.unwrap();
        stream.read_exact(&mut response).await.unwrap();
        took.push(start.elapsed());
    }
    took
}
