//! Connections on which no whole request header ever comes: HTTP/1.1 on a connection that
//! negotiated HTTP/2, silence after TLS, a header in drips, and the preface of HTTP/2 on a
//! connection that negotiated HTTP/1.1.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout_at};

use crate::Context;
use crate::caller::{Alpn, Caller};
use crate::h2;
use crate::honest::Honest;
use crate::report::Row;
use crate::scene::{HONEST, Scene, Settings, attackers};

/// As many connections as one address may have.
const CONNECTIONS: usize = 64;
/// The header's time is 30 s; the rest is for TLS and a busy machine.
const HOLD_LIMIT: Duration = Duration::from_secs(36);
/// How long the full form holds on.
const HOLD: u64 = 42;
/// Between two bytes of a header: the attack needs few.
const DRIP: Duration = Duration::from_secs(5);
/// Until an attacker whose connection was ended comes again.
const AGAIN: Duration = Duration::from_secs(2);
/// A service manager is promised an end within 5 s; the rest is for a busy machine.
const STOP_LIMIT: Duration = Duration::from_secs(7);
/// Until all attackers have their connections.
const SETTLE: Duration = Duration::from_secs(3);

/// A kind of connection without a whole request.
#[derive(Clone, Copy)]
pub(crate) struct Unfinished {
    pub(crate) name: &'static str,
    pub(crate) alpn: Alpn,
    pub(crate) begin: &'static [u8],
    pub(crate) drip: &'static [u8],
}

pub(crate) const HALF_HEADER_OVER_HTTP2: Unfinished = Unfinished {
    name: "half an HTTP/1.1 header over h2",
    alpn: Alpn::Http2,
    begin: b"GET / HTTP/1.1\r\nHost: x\r\nA: ",
    drip: b"a",
};

pub(crate) const HALF_HEADER: Unfinished = Unfinished {
    name: "half a header over http/1.1",
    alpn: Alpn::Http1,
    begin: b"GET / HTTP/1.1\r\nHost: x\r\nA: ",
    drip: b"a",
};

const KINDS: [Unfinished; 5] = [
    HALF_HEADER_OVER_HTTP2,
    Unfinished {
        name: "silence after TLS, h2",
        alpn: Alpn::Http2,
        begin: b"",
        drip: b"",
    },
    Unfinished {
        name: "silence after TLS, http/1.1",
        alpn: Alpn::Http1,
        begin: b"",
        drip: b"",
    },
    HALF_HEADER,
    Unfinished {
        name: "the preface of HTTP/2 over http/1.1",
        alpn: Alpn::Http1,
        begin: h2::PREFACE,
        drip: b"",
    },
];

/// Connections that attackers hold, and take again when they lose them. All end when dropped.
pub(crate) struct Siege {
    tasks: JoinSet<()>,
    /// The longest time that one connection was held, in milliseconds.
    longest: Arc<AtomicU64>,
}

impl Siege {
    pub(crate) fn new() -> Self {
        Self {
            tasks: JoinSet::new(),
            longest: Arc::default(),
        }
    }

    /// Has one address hold so many connections of a kind.
    pub(crate) fn hold(&mut self, caller: &Caller, kind: Unfinished, connections: usize) {
        for _ in 0..connections {
            let (caller, longest) = (caller.clone(), Arc::clone(&self.longest));
            self.tasks.spawn(async move {
                loop {
                    let begin = Instant::now();
                    // A refused connection is tried again like one that was ended.
                    let _ = hold(&caller, kind, begin, &longest).await;
                    sleep(AGAIN).await;
                }
            });
        }
    }

    fn longest(&self) -> Duration {
        Duration::from_millis(self.longest.load(Ordering::Relaxed))
    }
}

async fn hold(
    caller: &Caller,
    kind: Unfinished,
    begin: Instant,
    longest: &AtomicU64,
) -> Result<()> {
    let mut stream = caller.connect(kind.alpn).await?;
    stream.write_all(kind.begin).await?;
    let mut answer = vec![0; 1024];
    let mut next = tokio::time::Instant::now() + DRIP;
    loop {
        let read = timeout_at(next, stream.read(&mut answer)).await;
        longest.fetch_max(begin.elapsed().as_millis() as u64, Ordering::Relaxed);
        match read {
            Ok(Ok(0) | Err(_)) => return Ok(()),
            Ok(Ok(_)) => {}
            Err(_) => {
                stream.write_all(kind.drip).await?;
                stream.flush().await?;
                next += DRIP;
            }
        }
    }
}

/// An address with as many connections as it may have for each kind, and one connection of each
/// kind.
pub(crate) async fn half_headers(context: &Context) -> Result<Vec<Row>> {
    const NAME: &str = "half headers, 5 addresses × 64 connections";
    let scene = Scene::start(context, Settings::default()).await?;
    let hold = context.seconds(8, HOLD);
    let mut single = Vec::new();
    for (number, kind) in (100..).zip(KINDS) {
        let mut siege = Siege::new();
        siege.hold(&scene.caller(IpAddr::from([127, 0, 2, number])), kind, 1);
        single.push((kind, siege));
    }
    sleep(Duration::from_millis(500)).await;
    let begin = tokio::time::Instant::now();
    let mut siege = Siege::new();
    for (caller, kind) in attackers(KINDS.len() as u8).zip(KINDS) {
        siege.hold(&scene.caller(caller), kind, CONNECTIONS);
    }
    sleep(SETTLE).await;
    let honest = Honest::start(scene.honest(), "/");
    sleep_until(begin + hold).await;
    let mut rows = vec![honest.finish().await?.row(NAME, "an honest caller")];
    if !context.short {
        for (kind, siege) in &single {
            let longest = siege.longest();
            rows.push(Row::new(
                format!("one connection with {}", kind.name),
                format!("ended within {} s", HOLD_LIMIT.as_secs()),
                match longest + DRIP >= hold {
                    true => format!("held all {} s", hold.as_secs()),
                    false => format!("{:.0} s", longest.as_secs_f64()),
                },
                longest <= HOLD_LIMIT,
            ));
        }
    }
    drop(siege);
    ensure!(scene.device.memory().is_ok(), "the device has ended");
    Ok(rows)
}

/// SIGTERM while a header is half read.
pub(crate) async fn stop_in_header(context: &Context) -> Result<Vec<Row>> {
    let mut scene = Scene::start(context, Settings::default()).await?;
    let mut siege = Siege::new();
    for kind in KINDS {
        siege.hold(&scene.caller(HONEST), kind, 2);
    }
    sleep(Duration::from_secs(2)).await;
    let waited = Duration::from_secs(20);
    let ended = scene.device.terminate(waited).await?;
    Ok(vec![Row::ended_within(
        "SIGTERM while headers are half read",
        STOP_LIMIT,
        waited,
        ended,
    )])
}
