//! Floods of HTTP/2 frames that cost the caller little: requests that are cancelled at once,
//! headers without end, and settings and pings, each of which has to be acknowledged.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use crate::Context;
use crate::h2::{
    self, CONTINUATION, Connection, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS,
    frame, literal,
};
use crate::honest::Honest;
use crate::report::{MEMORY_LIMIT, Row};
use crate::scene::{Scene, Settings, attackers};

/// Frames of one connection. A device that ends the connection earlier keeps its promise too.
const FRAMES: u32 = 20_000;
/// Frames that are written together.
const BATCH: usize = 100;

/// A flood: how it is called, and its frames.
type Flood = (&'static str, fn(u32, &str) -> Vec<u8>);

const FLOODS: &[Flood] = &[
    (
        "requests that are cancelled at once (rapid reset)",
        |number, host| {
            let stream = number * 2 + 1;
            let block = h2::pseudo_header("GET", host, "/slow");
            [
                frame(HEADERS, END_STREAM | END_HEADERS, stream, &block),
                frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
            ]
            .concat()
        },
    ),
    ("a header without end (CONTINUATION)", |number, host| {
        if number == 0 {
            frame(HEADERS, END_STREAM, 1, &h2::pseudo_header("GET", host, "/"))
        } else {
            frame(
                CONTINUATION,
                0,
                1,
                &literal(&format!("x-{number}"), &[b'a'; 100]),
            )
        }
    }),
    ("SETTINGS", |_, _| {
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])
    }),
    ("PING", |number, _| {
        frame(PING, 0, 0, &u64::from(number).to_be_bytes())
    }),
];

pub(crate) async fn floods(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, frames) in FLOODS {
        let scene = Scene::start(context, Settings::default()).await?;
        let honest = Honest::start(scene.honest(), "/");
        let end = Instant::now() + context.seconds(2, 10);
        let attack = attackers(4).map(|address| flood(&scene, address, *frames, end));
        futures_util::future::join_all(attack).await;
        let memory = scene.device.memory()?;
        let name = format!("{name}, {FRAMES} a connection, 4 addresses");
        rows.push(honest.finish().await?.row(&name, "an honest caller"));
        rows.push(Row::memory(name, MEMORY_LIMIT, memory.peak));
    }
    Ok(rows)
}

/// Sends a flood again and again until `end`.
async fn flood(scene: &Scene, address: IpAddr, frames: fn(u32, &str) -> Vec<u8>, end: Instant) {
    let caller = scene.caller(address);
    while Instant::now() < end {
        if let Ok(mut connection) = Connection::open(&caller, 0).await {
            for batch in (0..FRAMES).step_by(BATCH) {
                let bytes: Vec<u8> = (batch..batch + BATCH as u32)
                    .flat_map(|number| frames(number, caller.host()))
                    .collect();
                if Instant::now() >= end || connection.send(&bytes).await.is_err() {
                    break;
                }
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
}
