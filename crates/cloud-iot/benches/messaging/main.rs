//! Compares the session with bare rumqttc v5 and Python's aiomqtt, on the same mosquitto with
//! mutual TLS.
//!
//! ```text
//! cargo xtask bench messaging [--rounds N] [--only MEASURE,…] [--before PROGRAM]
//! ```
//!
//! finds mosquitto, creates the Python environment, and starts this program. Each client is its own
//! process (this program again, or `aiomqtt_client.py`) that performs one task, prints one line of
//! measurements, and ends. The clients alternate within a round; medians are printed, and for
//! ratios the median over the rounds. Only ratios are comparable between machines. Rate limits are
//! off, and every client has at most [`IN_FLIGHT`] unacknowledged messages. `--before` names this
//! program built from another commit; its session is then a client too.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends the program"
)]

mod bare;
mod broker;
mod ours;
mod source;
mod usage;

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use broker::Site;

/// AWS IoT Core's limit.
const IN_FLIGHT: u16 = 100;
const PAYLOAD: usize = 100;
/// Topics of the measure `topics`: one subscription covers all of them, since AWS IoT Core allows
/// 50 on a connection.
const TOPICS: u32 = 10_000;
/// Their handlers, each for the topics below `bench/N/`.
const HANDLERS: u32 = 100;
/// The shortest interval that all clients accept.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Keep-alive intervals during which an idle session is measured.
const IDLE_INTERVALS: u32 = 4;

struct Measure {
    name: &'static str,
    /// Messages for a Rust client and for the Python client.
    count: [u32; 2],
    figures: &'static [&'static str],
}

const MEASURES: &[Measure] = &[
    Measure {
        name: "publish",
        count: [50_000, 5_000],
        figures: &["QoS 1 publishes, 1/s"],
    },
    Measure {
        name: "deliver",
        count: [50_000, 5_000],
        figures: &["QoS 1 messages to a handler, 1/s"],
    },
    Measure {
        name: "latency",
        count: [5_000, 1_000],
        figures: &["publish to acknowledgement, p50, µs", "p99, µs"],
    },
    Measure {
        name: "topics",
        count: [50_000, 5_000],
        figures: &["QoS 1 messages of 10,000 topics to 100 handlers, 1/s"],
    },
    Measure {
        name: "durable",
        count: [20_000, 5_000],
        figures: &["QoS 1 publishes with the durable outbox (the others have none), 1/s"],
    },
    Measure {
        name: "durable_latency",
        count: [500, 500],
        figures: &[
            "publish to acknowledgement with the durable outbox, p50, µs",
            "p99 with the durable outbox, µs",
        ],
    },
    Measure {
        name: SYNCED,
        count: [1_000, 0],
        figures: &[
            "publish to the synced message, without a broker, p50, µs",
            "p99 of it, µs",
            "each of 1,000 synced messages published at once, µs",
        ],
    },
    Measure {
        name: "idle",
        count: [0, 0],
        figures: &[
            "idle: wake-ups in a keep-alive interval",
            "idle: resident memory, KiB",
        ],
    },
];

/// The measure of messages that are on the disk, which no other client stores there.
const SYNCED: &str = "synced";

const CLIENTS: [&str; 4] = ["ours", "before", "rumqttc", "aiomqtt"];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let of = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1).cloned()
    };
    if let Some(client) = of("--client") {
        let task = Task {
            measure: of("--measure").unwrap(),
            count: of("--count").unwrap().parse().unwrap(),
            port: of("--port").unwrap().parse().unwrap(),
            directory: of("--directory").unwrap().into(),
        };
        // As many threads as a small board has cores, for both.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        match client.as_str() {
            "ours" => runtime.block_on(ours::run(&task)),
            _ => runtime.block_on(bare::run(&task)),
        }
        return;
    }
    let rounds: usize = of("--rounds").map_or(5, |rounds| rounds.parse().unwrap());
    let only = of("--only");
    let Some(mosquitto) = of("--mosquitto") else {
        eprintln!("run `cargo xtask bench messaging`");
        return;
    };
    let others = Others {
        python: of("--python").map(PathBuf::from),
        before: of("--before").map(PathBuf::from),
    };
    compare(Path::new(&mosquitto), &others, rounds, only.as_deref());
}

/// The task of a client.
struct Task {
    measure: String,
    count: u32,
    port: u16,
    /// Directory of the certificates.
    directory: PathBuf,
}

/// Programs of clients other than this one.
struct Others {
    /// An interpreter that has aiomqtt.
    python: Option<PathBuf>,
    /// This program, built from another commit.
    before: Option<PathBuf>,
}

fn compare(mosquitto: &Path, others: &Others, rounds: usize, only: Option<&str>) {
    let site = Site::start(mosquitto);
    let wanted =
        |measure: &&Measure| only.is_none_or(|only| only.split(',').any(|n| n == measure.name));
    let measures: Vec<&Measure> = MEASURES.iter().filter(wanted).collect();
    let clients: Vec<&str> = CLIENTS
        .into_iter()
        .filter(|client| match *client {
            "aiomqtt" => others.python.is_some(),
            "before" => others.before.is_some(),
            _ => true,
        })
        .collect();
    let mut results: HashMap<(&str, &str), Vec<f64>> = HashMap::new();
    let mut synced = Vec::new();
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for measure in &measures {
            if measure.name == SYNCED {
                synced.extend(synced_writes(site.directory.path()));
            }
            let stores = |client: &&&str| measure.name != SYNCED || **client == "ours";
            for client in clients.iter().filter(stores) {
                let figures = run_client(&site, measure, client, others);
                assert_eq!(figures.len(), measure.figures.len(), "{client}");
                eprintln!("  {} {client}: {figures:?}", measure.name);
                for (figure, value) in measure.figures.iter().zip(figures) {
                    results.entry((figure, client)).or_default().push(value);
                }
            }
        }
    }
    print_table(&measures, &clients, &results);
    if !synced.is_empty() {
        let waits = quantiles(synced);
        println!(
            "\na write of {PAYLOAD} bytes with fdatasync to the disk of the outbox, p50 and p99, µs: {waits}"
        );
    }
}

/// Durations of writes that are synced, one after another: the least that a durable message costs.
fn synced_writes(directory: &Path) -> Vec<Duration> {
    const WRITES: u32 = 100;
    let mut file = tempfile::tempfile_in(directory).unwrap();
    let write = |_| {
        let started = Instant::now();
        file.write_all(&[7; PAYLOAD]).unwrap();
        file.sync_data().unwrap();
        started.elapsed()
    };
    (0..WRITES).map(write).collect()
}

fn run_client(site: &Site, measure: &Measure, client: &str, others: &Others) -> Vec<f64> {
    let count = measure.count[usize::from(client == "aiomqtt")];
    let (program, client) = match client {
        "aiomqtt" => (others.python.clone(), client),
        "before" => (others.before.clone(), "ours"),
        _ => (std::env::current_exe().ok(), client),
    };
    let mut command = Command::new(program.unwrap());
    if client == "aiomqtt" {
        let script = "benches/messaging/aiomqtt_client.py";
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(script));
    }
    let mut child = command
        .args(["--client", client, "--measure", measure.name])
        .args(["--count", &count.to_string()])
        .args(["--port", &site.port.to_string()])
        .arg("--directory")
        .arg(site.directory.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = || lines.next().expect("the client ended").unwrap();
    if measure.name == "deliver" {
        assert_eq!(line(), "ready");
        source::publish(site, count, |_| "bench".to_owned());
    } else if measure.name == "topics" {
        assert_eq!(line(), "ready");
        source::publish(site, count, |sent| {
            let topic = sent as u32 % TOPICS;
            format!("bench/{}/{}", topic % HANDLERS, topic / HANDLERS)
        });
    }
    let figures = line()
        .split_whitespace()
        .map(|n| n.parse().unwrap())
        .collect();
    finish(child);
    figures
}

fn finish(mut child: Child) {
    assert!(child.wait().unwrap().success());
}

/// Medians of every client, with the ratio of our result to each.
fn print_table(measures: &[&Measure], clients: &[&str], results: &HashMap<(&str, &str), Vec<f64>>) {
    println!("| measure | {} |", clients.join(" | "));
    println!("|---|{}", "---|".repeat(clients.len()));
    for figure in measures.iter().flat_map(|measure| measure.figures) {
        print!("| {figure} |");
        for client in clients {
            let Some(values) = results.get(&(*figure, *client)) else {
                print!(" – |");
                continue;
            };
            print!(" {:.0}", median(values.clone()));
            if *client != "ours" {
                let ours = &results[&(*figure, "ours")];
                let ratios = ours.iter().zip(values).map(|(ours, other)| ours / other);
                print!(" (×{:.2})", median(ratios.collect()));
            }
            print!(" |");
        }
        println!();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// p50 and p99 of latencies, in µs.
fn quantiles(mut waits: Vec<Duration>) -> String {
    waits.sort();
    let at = |share: usize| waits[(waits.len() - 1) * share / 100].as_micros();
    format!("{} {}", at(50), at(99))
}
