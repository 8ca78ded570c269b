//! Callers that guess passwords of `--auth basic=FILE` as fast as they are answered.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Context;
use crate::caller::Caller;
use crate::honest::Honest;
use crate::report::{MEMORY_LIMIT, Row};
use crate::scene::{Scene, Settings, attackers};

/// The output of: htpasswd -nbB -C 8 alice secret
const USERS: &str = "alice:$2y$08$9/6/5SweciHvwDRtuo10E.0YjEEWHBbOQkOjagilvlobxuev1lMj6\n";
/// Base64 of `alice:secret`.
const RIGHT: &str = "YWxpY2U6c2VjcmV0";
/// Base64 of `alice:`.
const WRONG: &str = "YWxpY2U6";

/// Connections of each attacker.
const CONNECTIONS: usize = 16;
/// The time in which a new caller gets in although callers like it guess: the limit of a check.
const LIMIT: Duration = Duration::from_secs(30);

fn settings(proxy_relay: bool) -> Settings<'static> {
    Settings {
        proxy_relay,
        files: &[("users", USERS)],
        header: authorization(RIGHT),
        arguments: &["--auth", "basic=users"],
        ..Settings::default()
    }
}

fn authorization(credentials: &str) -> String {
    format!("Authorization: Basic {credentials}\r\n")
}

/// What the guessing callers got.
#[derive(Default)]
struct Guesses {
    compared: AtomicUsize,
    refused: AtomicUsize,
    other: AtomicUsize,
}

impl Guesses {
    /// Guesses until the task ends, each time over a new connection.
    async fn run(self: Arc<Self>, caller: Caller, first: usize) {
        for number in first.. {
            // Any eight digits are the base64 of six bytes, the password.
            let guess = format!("{WRONG}{:08}", number % 100_000_000);
            let status = caller
                .clone()
                .with_header(authorization(&guess))
                .get("/")
                .await;
            let count = match status {
                Ok(401) => &self.compared,
                Ok(429 | 503) => &self.refused,
                _ => &self.other,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn start(callers: impl Iterator<Item = Caller>) -> (Arc<Self>, JoinSet<()>) {
        let (guesses, mut tasks) = (Arc::<Self>::default(), JoinSet::new());
        for (index, caller) in callers.enumerate() {
            for connection in 0..CONNECTIONS {
                let first = (index * CONNECTIONS + connection) * 1_000_000;
                tasks.spawn(Arc::clone(&guesses).run(caller.clone(), first));
            }
        }
        (guesses, tasks)
    }

    fn row(&self, name: &str, maximum: usize) -> Row {
        let [compared, refused, other] =
            [&self.compared, &self.refused, &self.other].map(|count| count.load(Ordering::Relaxed));
        Row::new(
            name,
            format!("guesses that are compared: at most {maximum}"),
            format!("{compared}; {refused} refused, {other} without an answer"),
            compared > 0 && compared <= maximum,
        )
    }
}

/// Whether nothing but requests of the right user has reached the application.
fn application(name: &str, scene: &Scene) -> Row {
    let heads = scene.application.take_heads();
    let is_right = |head: &&String| head.to_ascii_lowercase().contains("\r\nremote-user: alice");
    let right = heads.iter().filter(is_right).count();
    Row::new(
        name,
        "the application gets requests of the right user only",
        format!("{right} of {}", heads.len()),
        right == heads.len() && right > 0,
    )
}

/// Whole intervals of a duration.
fn intervals(duration: Duration, interval: Duration) -> usize {
    usize::try_from(duration.as_millis() / interval.as_millis()).unwrap_or(usize::MAX)
}

pub(crate) async fn addresses(context: &Context) -> Result<Vec<Row>> {
    const NAME: &str = "wrong passwords, 4 addresses × 16 connections";
    let scene = Scene::start(context, settings(false)).await?;
    let begin = Instant::now();
    let (guesses, tasks) = Guesses::start(attackers(4).map(|address| scene.caller(address)));
    let honest = Honest::start(scene.honest(), "/");
    sleep(context.seconds(5, 20)).await;
    let seen = honest.finish().await?;
    drop(tasks);
    // An address has 10 at once, and one each 10 s.
    let maximum = 4 * (10 + 1 + intervals(begin.elapsed(), Duration::from_secs(10)));
    Ok(vec![
        seen.row(NAME, "an honest caller with the right password"),
        guesses.row(NAME, maximum),
        application(NAME, &scene),
        Row::memory(NAME, MEMORY_LIMIT, scene.device.memory()?.peak),
    ])
}

/// Callers over IPv6, of whose address protocol version 0 says nothing.
pub(crate) async fn unknown(context: &Context) -> Result<Vec<Row>> {
    const NAME: &str = "wrong passwords over IPv6, 4 networks × 16 connections, protocol version 0";
    let scene = Scene::start(context, settings(true)).await?;
    let over_ipv6 =
        |network| -> IpAddr { Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, 1).into() };
    let same = Honest::on_one_connection(scene.caller(over_ipv6(99)), "/").await?;
    let begin = Instant::now();
    let (guesses, tasks) = Guesses::start((1..=4).map(|network| scene.caller(over_ipv6(network))));
    let known = Honest::start(scene.honest(), "/");
    sleep(context.seconds(5, 20)).await;
    let (same, known) = (same.finish().await?, known.finish().await?);
    let start = Instant::now();
    let new = timeout(LIMIT, scene.caller(over_ipv6(98)).get("/")).await;
    let waited = start.elapsed();
    drop(tasks);
    // All of them together have 20 at once, and one each 200 ms.
    let maximum = 20 + 1 + intervals(begin.elapsed(), Duration::from_millis(200));
    Ok(vec![
        known.row(NAME, "an honest caller over IPv4"),
        same.row(NAME, "a connection over IPv6 that was there before"),
        Row::new(
            NAME,
            format!(
                "a new caller over IPv6 with the right password is served within {} s",
                LIMIT.as_secs()
            ),
            match &new {
                Ok(Ok(status)) => format!("status {status} after {:.1} s", waited.as_secs_f64()),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer".to_owned(),
            },
            matches!(new, Ok(Ok(200))),
        ),
        guesses.row(NAME, maximum),
        application(NAME, &scene),
    ])
}
