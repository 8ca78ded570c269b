//! Callers that occupy connections and requests and make no progress: bodies in drips, unread
//! answers, a botnet, and callers whose address the relay does not know.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::Result;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Context;
use crate::caller::{Alpn, Caller};
use crate::callers_headers::{HALF_HEADER, HALF_HEADER_OVER_HTTP2, Siege};
use crate::h2::{self, Connection, DATA, END_HEADERS, END_STREAM, HEADERS, frame};
use crate::honest::{Honest, LIMIT};
use crate::report::{MEMORY_LIMIT, Row};
use crate::scene::{HONEST, Scene, Settings, attackers};

/// Requests that one address may have with the application.
const REQUESTS: usize = 64;
/// Between two bytes of a body, and between two looks at which requests were ended.
const DRIP: Duration = Duration::from_secs(5);
/// Until an attacker whose connection was ended comes again.
const AGAIN: Duration = Duration::from_secs(1);
/// Until all attackers have what they want.
const SETTLE: Duration = Duration::from_secs(3);
/// Connections of one address, each with a body of its own.
const UPLOADS: usize = 8;
/// Of one body. All together are several times what the device may hold.
const UPLOAD: usize = 32 * 1024 * 1024;
/// With version 0, all callers wait while the device reads less for an upload that is far ahead of
/// its application.
const PAUSED: Duration = Duration::from_secs(6);
/// In KiB: the tunnel holds 96 MiB in all, which take a third more, since version 0 of its protocol
/// cannot make the relay wait.
const UNREAD_LIMIT: u64 = MEMORY_LIMIT + 128 * 1024;
/// In KiB: each of 256 connections has an answer of its own, of which up to 64 KiB wait in each of
/// hyper's buffers, in that of TLS and in the tunnel. Over HTTP/2 all requests of a caller share
/// one connection.
const UNREAD_HTTP1_LIMIT: u64 = MEMORY_LIMIT + 96 * 1024;
/// The default of HTTP/2, which is not opened further.
const WINDOW: u32 = 65_535;

/// Four connections with 64 requests each whose bodies come in drips.
pub(crate) async fn bodies(context: &Context) -> Result<Vec<Row>> {
    let scene = Scene::start(context, Settings::default()).await?;
    let mut attack = JoinSet::new();
    for address in attackers(4) {
        attack.spawn(keep(scene.caller(address), "POST", "/upload"));
    }
    watch(
        context,
        &scene,
        "bodies in drips, 4 addresses × 64 requests",
        LIMIT,
        MEMORY_LIMIT,
    )
    .await
}

/// Unread answers of a gigabyte over four connections.
pub(crate) async fn unread_http2(context: &Context) -> Result<Vec<Row>> {
    let name = "unread answers over HTTP/2, 4 addresses × 64 requests";
    watch_each_version(context, name, LIMIT, MEMORY_LIMIT, |caller, attack| {
        attack.spawn(keep(caller, "GET", "/big"));
    })
    .await
}

/// The same over HTTP/1.1, where each request has a connection of its own.
pub(crate) async fn unread_http1(context: &Context) -> Result<Vec<Row>> {
    let name = "unread answers over HTTP/1.1, 4 addresses × 64 connections";
    watch_each_version(
        context,
        name,
        LIMIT,
        UNREAD_HTTP1_LIMIT,
        |caller, attack| {
            for _ in 0..REQUESTS {
                attack.spawn(read_nothing(caller.clone()));
            }
        },
    )
    .await
}

/// Bodies of which the application reads nothing, as fast as they can be sent. Version 0 of the
/// tunnel's protocol cannot make a caller wait.
pub(crate) async fn unread_bodies(context: &Context) -> Result<Vec<Row>> {
    let name =
        format!("bodies that the application does not read, 4 addresses × {UPLOADS} connections");
    watch_each_version(context, &name, PAUSED, UNREAD_LIMIT, |caller, attack| {
        for _ in 0..UPLOADS {
            attack.spawn(upload(caller.clone()));
        }
    })
    .await
}

/// Attacks from four addresses, over each version of the tunnel's protocol. `within` is the time
/// limit for an honest caller with version 0.
async fn watch_each_version(
    context: &Context,
    name: &str,
    within: Duration,
    limit: u64,
    start: impl Fn(Caller, &mut JoinSet<()>),
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for protocol in versions(context) {
        let settings = Settings {
            protocol: *protocol,
            ..Settings::default()
        };
        let scene = Scene::start(context, settings).await?;
        let mut attack = JoinSet::new();
        for address in attackers(4) {
            start(scene.caller(address), &mut attack);
        }
        let name = format!("{name}, protocol version {protocol}");
        let within = if *protocol == 0 { within } else { LIMIT };
        rows.extend(watch(context, &scene, &name, within, limit).await?);
    }
    Ok(rows)
}

/// Versions of the tunnel's protocol: without flow control, and in the full form with it too.
fn versions(context: &Context) -> &'static [u8] {
    if context.short { &[0] } else { &[0, 2] }
}

/// 64 addresses that hold four connections each, after the first request of an honest caller.
pub(crate) async fn botnet_connections(context: &Context) -> Result<Vec<Row>> {
    const NAME: &str = "a botnet, 64 addresses × 4 connections";
    let scene = Scene::start(context, Settings::default()).await?;
    let kept = Honest::on_one_connection(scene.honest(), "/").await?;
    let known = Honest::start(scene.honest(), "/");
    sleep(SETTLE).await;
    let mut siege = Siege::new();
    for address in attackers(64) {
        siege.hold(&scene.caller(address), HALF_HEADER, 2);
        siege.hold(&scene.caller(address), HALF_HEADER_OVER_HTTP2, 2);
    }
    sleep(SETTLE + context.seconds(4, 20)).await;
    Ok(vec![
        kept.finish()
            .await?
            .row(NAME, "a connection that was there before"),
        known
            .finish()
            .await?
            .row(NAME, "an address that was there before"),
    ])
}

/// 64 addresses with 64 requests each that the application does not answer.
pub(crate) async fn botnet_requests(context: &Context) -> Result<Vec<Row>> {
    const NAME: &str = "a botnet, 64 addresses × 64 requests";
    let scene = Scene::start(context, Settings::default()).await?;
    let kept = Honest::on_one_connection(scene.honest(), "/").await?;
    let known = Honest::start(scene.honest(), "/");
    sleep(SETTLE).await;
    let mut attack = JoinSet::new();
    for address in attackers(64) {
        attack.spawn(keep(scene.caller(address), "GET", "/slow"));
    }
    sleep(SETTLE + context.seconds(4, 20)).await;
    Ok(vec![
        kept.finish()
            .await?
            .row(NAME, "a connection that was there before"),
        known
            .finish()
            .await?
            .row(NAME, "an address that was there before"),
    ])
}

/// Callers over IPv6, of whose address protocol version 0 says nothing.
pub(crate) async fn unknown_callers(context: &Context) -> Result<Vec<Row>> {
    const NAME: &str = "256 connections over IPv6 from 4 networks, protocol version 0";
    let settings = Settings {
        proxy_relay: true,
        ..Settings::default()
    };
    let scene = Scene::start(context, settings).await?;
    let mut siege = Siege::new();
    for network in 1..=4 {
        siege.hold(
            &scene.caller(over_ipv6(network)),
            HALF_HEADER_OVER_HTTP2,
            REQUESTS,
        );
    }
    sleep(SETTLE).await;
    let known = Honest::start(scene.honest(), "/");
    let unknown = Honest::start(scene.caller(over_ipv6(99)), "/");
    sleep(context.seconds(5, 15)).await;
    Ok(vec![
        known
            .finish()
            .await?
            .row(NAME, "an honest caller over IPv4"),
        unknown
            .finish()
            .await?
            .row(NAME, "an honest caller over IPv6"),
    ])
}

/// An address of this network of 64 bits.
fn over_ipv6(network: u16) -> IpAddr {
    Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, 1).into()
}

/// Lets an honest caller come while an attack goes on.
async fn watch(
    context: &Context,
    scene: &Scene,
    name: &str,
    within: Duration,
    limit: u64,
) -> Result<Vec<Row>> {
    sleep(SETTLE).await;
    let honest = Honest::start(scene.caller(HONEST), "/");
    sleep(context.seconds(5, 20)).await;
    Ok(vec![
        honest
            .finish()
            .await?
            .row_within(within, name, "an honest caller"),
        Row::memory(name, limit, scene.device.memory()?.peak),
    ])
}

/// Sends a body over HTTP/1.1 as fast as the device takes it.
async fn upload(caller: Caller) {
    let Ok(mut stream) = caller.connect(Alpn::Http1).await else {
        return;
    };
    let head = format!(
        "POST /deaf HTTP/1.1\r\nHost: {}\r\nContent-Length: {UPLOAD}\r\n\r\n",
        caller.host()
    );
    let mut sent = stream.write_all(head.as_bytes()).await;
    let piece = vec![b'a'; 64 * 1024];
    for _ in 0..UPLOAD / piece.len() {
        if sent.is_err() {
            return;
        }
        sent = stream.write_all(&piece).await;
    }
    // The connection stays open until the attack ends.
    std::future::pending().await
}

/// Keeps as many requests open as an address may have, over one connection; each that the device
/// ends is made again.
async fn keep(caller: Caller, method: &'static str, path: &'static str) {
    loop {
        // The end of the connection is what makes the attacker come again.
        let _ = keep_once(&caller, method, path).await;
        sleep(AGAIN).await;
    }
}

async fn keep_once(caller: &Caller, method: &str, path: &str) -> Result<()> {
    let window = if path == "/big" { 0 } else { WINDOW };
    let mut connection = Connection::open(caller, window).await?;
    let head = h2::pseudo_header(method, caller.host(), path);
    let has_body = method == "POST";
    let flags = if has_body {
        END_HEADERS
    } else {
        END_HEADERS | END_STREAM
    };
    let (mut next, mut open) = (1, Vec::new());
    while !connection.answers(|answers| answers.ended) {
        connection.answers(|answers| open.retain(|stream| !answers.closed.contains(stream)));
        let mut bytes = Vec::new();
        if has_body {
            for stream in &open {
                bytes.extend(frame(DATA, 0, *stream, b"a"));
            }
        }
        while open.len() < REQUESTS {
            bytes.extend(frame(HEADERS, flags, next, &head));
            open.push(next);
            next += 2;
        }
        connection.send(&bytes).await?;
        sleep(DRIP).await;
    }
    Ok(())
}

/// Asks for a long answer over HTTP/1.1 and reads none of it.
async fn read_nothing(caller: Caller) {
    loop {
        if let Ok(mut stream) = caller.connect(Alpn::Http1).await {
            let request = format!("GET /big HTTP/1.1\r\nHost: {}\r\n\r\n", caller.host());
            // What is written behind the request shows whether the connection is still there.
            let mut sent = stream.write_all(request.as_bytes()).await;
            while sent.is_ok() {
                sleep(DRIP).await;
                sent = stream.write_all(b"\r\n").await;
            }
        }
        sleep(AGAIN).await;
    }
}
