//! Local connections that ask the health endpoint nothing, and pages that rebind a name to it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::Context;
use crate::child::Child;
use crate::plain_http;
use crate::report::Row;
use crate::scene::World;

const CONNECTIONS: usize = 200;
/// A supervisor or a scraper waits about as long.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(20);

/// `/healthz` while others hold connections open, and under another host's name.
pub(crate) async fn idle_connections(context: &Context) -> Result<Vec<Row>> {
    let world = World::provisioned(context, 0).await?;
    let mut device = Child::start(
        "the device",
        &mut world.command(&["run", "--health", "127.0.0.1:0"]),
    )?;
    let health = device.event("health").await?;
    let address: SocketAddr = health["address"].as_str().context("no address")?.parse()?;
    let mut rows = Vec::new();
    for begin in ["", "GET /healthz HTTP/1.1\r\nHost: lo"] {
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(begin.as_bytes()).await?;
            idle.push(stream);
        }
        let request = plain_http::request("GET", "/healthz", &address.to_string(), "", "");
        let begun = Instant::now();
        let answer = plain_http::exchange(address, &request, PATIENCE).await;
        let took = begun.elapsed();
        rows.push(Row::new(
            format!(
                "{CONNECTIONS} local connections with {}",
                if begin.is_empty() {
                    "nothing"
                } else {
                    "half a header"
                }
            ),
            format!("/healthz is answered within {} s", ANSWER_LIMIT.as_secs()),
            match &answer {
                Ok((status, _)) => format!("{status} after {:.2} s", took.as_secs_f64()),
                Err(error) => format!("{error:#} ({:.0} s)", took.as_secs_f64()),
            },
            answer.is_ok_and(|(status, _)| status == 200) && took <= ANSWER_LIMIT,
        ));
    }
    // The connections are gone; another program of this machine gets in again.
    for path in ["/healthz", "/metrics"] {
        let request = plain_http::request("GET", path, "evil.example", "", "");
        let (status, _) = plain_http::exchange(address, &request, PATIENCE).await?;
        rows.push(Row::new(
            format!("{path} under the name evil.example (DNS rebinding)"),
            "is refused",
            format!("status {status}"),
            (400..500).contains(&status),
        ));
    }
    Ok(rows)
}
