//! A process killed with SIGKILL while it publishes: messages reported as stored arrive.
//!
//! The process is this test binary, which runs only [`worker`]. It is killed at arbitrary moments,
//! 12 times or `CLOUD_IOT_KILLS` times, every second time without a network.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cloud_iot::{DurableOutbox, Message, PublishError, Session};

use super::{NOWHERE, config};
use crate::support::broker::Broker;
use crate::support::peer::PATIENCE;
use crate::support::pki::{Flaw, Pki};

const DIRECTORY: &str = "CLOUD_IOT_TEST_DIRECTORY";
const PORT: &str = "CLOUD_IOT_TEST_PORT";
const FIRST: &str = "CLOUD_IOT_TEST_FIRST";
const KILLS: &str = "CLOUD_IOT_KILLS";
const DEFAULT_KILLS: u64 = 12;
const TOPICS: u64 = 3;
/// More than one process publishes.
const NUMBERS: u64 = 1_000_000;
/// Messages whose storage is awaited together.
const TOGETHER: u64 = 10;

fn topic(number: u64) -> String {
    format!("t/{}", number % TOPICS)
}

/// The process to be killed: publishes numbers, and prints which of them are stored.
#[tokio::test]
#[ignore = "started by the other test as a process to be killed"]
async fn worker() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else {
        return;
    };
    let number = |name| std::env::var(name).unwrap().parse::<u64>().unwrap();
    let outbox = DurableOutbox::open(directory.join("outbox")).unwrap();
    assert_eq!(outbox.damage(), None);
    let mut config = config(u16::try_from(number(PORT)).unwrap(), &directory);
    config.limits.outbox_messages = 2000;
    let session = Session::builder(config)
        .outbox_store(outbox)
        .start()
        .unwrap();
    println!();
    for first in (number(FIRST)..).step_by(TOGETHER as usize) {
        let mut receipts = Vec::new();
        for n in first..first + TOGETHER {
            match session.publish(Message::new(topic(n), n.to_string())) {
                Ok(receipt) => receipts.push((n, receipt)),
                Err(PublishError::OutboxFull { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
        for (n, mut receipt) in receipts {
            receipt.stored().await.unwrap();
            println!("stored {n}");
        }
        std::io::stdout().flush().unwrap();
    }
}

/// Kills the process when dropped.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Runs a worker for this long after its first line; returns the numbers that it printed as stored.
fn run_and_kill(directory: &std::path::Path, port: u16, first: u64, time: Duration) -> Vec<u64> {
    let child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--ignored",
            "--exact",
            "durable::crash::worker",
            "--nocapture",
        ])
        .env(DIRECTORY, directory)
        .env(PORT, port.to_string())
        .env(FIRST, first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut worker = Worker(child);
    let mut lines = BufReader::new(worker.0.stdout.take().unwrap()).lines();
    let number = |line: &str| line.strip_prefix("stored ")?.parse::<u64>().ok();
    let mut stored: Vec<u64> = Vec::new();
    while stored.is_empty() {
        let line = lines.next().expect("the worker ended by itself").unwrap();
        stored.extend(number(&line));
    }
    let reader = std::thread::spawn(move || {
        // The last line may be truncated, and then its number is not claimed to be stored.
        let lines = lines.map_while(Result::ok);
        lines.filter_map(|line| number(&line)).collect::<Vec<_>>()
    });
    // Not a wait for a condition: it spreads the kills over the worker's steps.
    std::thread::sleep(time);
    drop(worker);
    stored.extend(reader.join().unwrap());
    stored
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_stored_by_a_killed_process_arrive_in_order() {
    let kills = match std::env::var(KILLS) {
        Ok(number) => number.parse().expect("a number of kills"),
        Err(_) => DEFAULT_KILLS,
    };
    let directory = tempfile::tempdir().unwrap();
    let pki = Pki::new();
    pki.write_device(directory.path());
    let broker = Broker::start(pki.server(Flaw::None)).await;
    let mut stored = Vec::new();
    for kill in 0..kills {
        let port = if kill % 2 == 0 { NOWHERE } else { broker.port };
        let time = Duration::from_micros(kill * 61_379 % 300_000);
        let path = directory.path().to_owned();
        let first = kill * NUMBERS;
        let run = move || run_and_kill(&path, port, first, time);
        stored.extend(tokio::task::spawn_blocking(run).await.unwrap());
    }

    let outbox = DurableOutbox::open(directory.path().join("outbox")).unwrap();
    let waiting = outbox.waiting();
    let session = Session::builder(config(broker.port, directory.path()))
        .outbox_store(outbox)
        .start()
        .unwrap();
    let last = session.publish(Message::new("t/last", "")).unwrap();
    tokio::time::timeout(PATIENCE, last).await.unwrap().unwrap();
    session.stop(PATIENCE).await;

    let started = Instant::now();
    let (mut missing, mut arrivals) = (0, 0);
    for n in 0..TOPICS {
        let mut firsts = Vec::new();
        let mut seen = std::collections::HashSet::new();
        for payload in broker.received(&topic(n)) {
            let number: u64 = payload.parse().unwrap();
            arrivals += 1;
            if seen.insert(number) {
                firsts.push(number);
            }
        }
        assert!(firsts.is_sorted(), "out of order on {}", topic(n));
        let of_topic = stored.iter().filter(|number| **number % TOPICS == n);
        missing += of_topic.filter(|number| !seen.contains(number)).count();
    }
    println!(
        "{kills} kills, {} messages stored, {waiting} waiting at the end, {arrivals} arrivals, looked through in {:?}",
        stored.len(),
        started.elapsed()
    );
    assert_eq!(missing, 0, "of {}", stored.len());
}
