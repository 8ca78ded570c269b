//! The honest caller: a GET every quarter of a second while an attack goes on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::caller::{Alpn, Caller};
use crate::plain_http;
use crate::report::Row;

const EVERY: Duration = Duration::from_millis(250);
/// Later answers count as none.
const PATIENCE: Duration = Duration::from_secs(8);
/// The promise. Most of it is for a machine that runs attacker, relay, device and application at
/// once.
pub(crate) const LIMIT: Duration = Duration::from_secs(3);
/// Longest answer that is read; the page has a thousandth of it.
const MAX_ANSWER: usize = 1024 * 1024;

/// An honest caller at work.
pub(crate) struct Honest {
    stop: CancellationToken,
    task: JoinHandle<Seen>,
}

/// What it got.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    asked: usize,
    served: usize,
    worst: Duration,
    failure: Option<String>,
}

impl Honest {
    /// Each request goes over a new connection.
    pub(crate) fn start(caller: Caller, path: &'static str) -> Self {
        Self::spawn(caller, path, None)
    }

    /// All requests go over one connection, which is open before the attack begins.
    pub(crate) async fn on_one_connection(caller: Caller, path: &'static str) -> Result<Self> {
        let mut stream = caller.connect(Alpn::Http1).await?;
        get(&mut stream, &caller, path).await?;
        Ok(Self::spawn(caller, path, Some(stream)))
    }

    fn spawn(caller: Caller, path: &'static str, mut kept: Option<TlsStream<TcpStream>>) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            let mut ticks = interval(EVERY);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while stopped.run_until_cancelled(ticks.tick()).await.is_some() {
                let begin = Instant::now();
                let request = async {
                    match &mut kept {
                        Some(stream) => get(stream, &caller, path).await,
                        None => get(&mut caller.connect(Alpn::Http1).await?, &caller, path).await,
                    }
                };
                let answer = timeout(PATIENCE, request).await;
                seen.asked += 1;
                match answer {
                    Ok(Ok(200)) => {
                        seen.served += 1;
                        seen.worst = seen.worst.max(begin.elapsed());
                    }
                    Ok(Ok(status)) => seen.fail(&format!("status {status}")),
                    Ok(Err(error)) => seen.fail(&format!("{error:#}")),
                    Err(_) => seen.fail(&format!("no answer in {} s", PATIENCE.as_secs())),
                }
            }
            seen
        });
        Self { stop, task }
    }

    /// Ends the caller and returns what it got.
    pub(crate) async fn finish(self) -> Result<Seen> {
        self.stop.cancel();
        Ok(self.task.await?)
    }
}

impl Seen {
    fn fail(&mut self, why: &str) {
        self.failure.get_or_insert_with(|| why.to_owned());
    }

    /// Whether every request was answered in time.
    pub(crate) fn row(&self, attack: &str, caller: &str) -> Row {
        self.row_within(LIMIT, attack, caller)
    }

    /// Whether every request was answered within this time.
    pub(crate) fn row_within(&self, limit: Duration, attack: &str, caller: &str) -> Row {
        let mut measured = format!("{} of {}", self.served, self.asked);
        if self.served > 0 {
            measured.push_str(&format!(", the slowest {:.2} s", self.worst.as_secs_f64()));
        }
        if let Some(failure) = &self.failure {
            measured.push_str(&format!("; first failure: {failure}"));
        }
        Row::new(
            attack,
            format!("{caller} is served, each time within {} s", limit.as_secs()),
            measured,
            self.asked > 0 && self.served == self.asked && self.worst <= limit,
        )
    }
}

/// One GET with its whole answer, whose length `Content-Length` says. Returns the status.
async fn get(stream: &mut TlsStream<TcpStream>, caller: &Caller, path: &str) -> Result<u16> {
    let (host, header) = (caller.host(), caller.header());
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    loop {
        if let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
            let length: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
                .unwrap_or(0);
            if answer.len() >= end + 4 + length {
                return plain_http::status(&head.to_ascii_uppercase())
                    .context("the answer is not HTTP");
            }
        }
        if answer.len() > MAX_ANSWER {
            bail!("the answer is too long");
        }
        if stream.read_buf(&mut answer).await? == 0 {
            bail!("the connection ended without an answer");
        }
    }
}
