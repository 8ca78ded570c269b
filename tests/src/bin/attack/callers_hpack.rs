//! Header fields that take one byte each on the wire and much memory once decoded, in many requests
//! that wait.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use tokio::time::sleep;

use crate::Context;
use crate::caller::Caller;
use crate::child::Memory;
use crate::h2::{self, Connection, END_HEADERS, END_STREAM, HEADERS, frame, indexed};
use crate::honest::Honest;
use crate::report::{MEMORY_LIMIT, Row};
use crate::scene::{Scene, Settings, attackers};

/// One less than an address may have, so that an attacker's last connection is never the reason.
const CONNECTIONS: usize = 63;
/// As many streams as the device allows on one connection, of one address; several share them out.
const STREAMS: u32 = 100;
/// Fits into the dynamic table of 4,096 bytes with its name and the 32 bytes that an entry counts.
const COOKIE: usize = 3_990;
/// As many as fit into a header list of 64 KiB.
const COOKIES: usize = 15;
/// The same of fields with one letter.
const FIELDS: usize = 1_800;
/// What may stay resident of it afterwards, in KiB. All of it is free: glibc keeps what 250
/// connections took, for the next ones, and `malloc_trim` gives it back.
const LEFT_LIMIT: u64 = 40 * 1024;
/// Until memory has been given back.
const RETURN: Duration = Duration::from_secs(15);
/// Address space of the program under a limit: idle it takes about half of it, most of it never
/// used.
const ADDRESS_SPACE: &str = "--as=700000000";

/// The header block that fills the dynamic table, and the one that each request has behind its
/// pseudo-header.
struct Fields {
    name: &'static str,
    fill: Vec<u8>,
    each: Vec<u8>,
}

impl Fields {
    fn cookies() -> Self {
        Self {
            name: "6,300 requests × 15 cookies of 3,990 bytes",
            fill: h2::remembered("cookie", &[b'a'; COOKIE]),
            each: indexed(62).repeat(COOKIES),
        }
    }

    fn letters() -> Self {
        let names = (b'a'..=b'z').map(|letter| char::from(letter).to_string());
        Self {
            name: "6,300 requests × 1,800 fields of one letter",
            fill: names.flat_map(|name| h2::remembered(&name, b"")).collect(),
            each: (0..FIELDS)
                .flat_map(|number| indexed(62 + number % 26))
                .collect(),
        }
    }
}

pub(crate) async fn cookies(context: &Context) -> Result<Vec<Row>> {
    attack(context, Fields::cookies(), 1, Settings::default()).await
}

pub(crate) async fn fields(context: &Context) -> Result<Vec<Row>> {
    attack(context, Fields::letters(), 1, Settings::default()).await
}

pub(crate) async fn four_addresses(context: &Context) -> Result<Vec<Row>> {
    let mut rows = attack(context, Fields::cookies(), 4, Settings::default()).await?;
    rows.extend(attack(context, Fields::letters(), 4, Settings::default()).await?);
    Ok(rows)
}

/// The page in the process, of which no answer is read.
pub(crate) async fn unread_page(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for fields in [Fields::cookies(), Fields::letters()] {
        let settings = Settings {
            page: true,
            ..Settings::default()
        };
        rows.extend(attack(context, fields, 1, settings).await?);
    }
    Ok(rows)
}

/// Where memory is limited, a process that takes more of it ends.
pub(crate) async fn memory_limit(context: &Context) -> Result<Vec<Row>> {
    let settings = Settings {
        wrapper: &["prlimit", ADDRESS_SPACE],
        ..Settings::default()
    };
    let scene = Scene::start(context, settings).await?;
    let attacked = flood(
        &scene,
        &Fields::letters(),
        1,
        "/slow",
        Duration::from_secs(10),
    )
    .await;
    drop(attacked);
    let alive = scene.device.memory().is_ok();
    Ok(vec![Row::new(
        "the fields of one letter, under `prlimit --as` of 700 MB",
        "the process goes on",
        if alive { "it does" } else { "it has ended" },
        alive,
    )])
}

async fn attack(
    context: &Context,
    fields: Fields,
    addresses: u8,
    settings: Settings<'_>,
) -> Result<Vec<Row>> {
    let served = if settings.page {
        "the built-in page"
    } else {
        "a slow application"
    };
    let name = format!(
        "{}, {served}, {addresses} address{}",
        fields.name,
        if addresses == 1 { "" } else { "es" }
    );
    let path = if settings.page { "/" } else { "/slow" };
    let scene = Scene::start(context, settings).await?;
    // The first connections take memory that stays: buffers, threads' stacks.
    for _ in 0..10 {
        scene.honest().get("/").await?;
    }
    let before = scene.device.memory()?;
    let honest = Honest::start(scene.honest(), "/");
    let connections = flood(&scene, &fields, addresses, path, context.seconds(5, 10)).await;
    let seen = honest.finish().await?;
    let during = scene.device.memory()?;
    drop(connections);
    let after = lowest(&scene, before).await?;
    let mebibytes = |kibibytes: u64| format!("{:.1} MiB", kibibytes as f64 / 1024.0);
    Ok(vec![
        Row::memory(&name, MEMORY_LIMIT, during.peak),
        Row::new(
            &name,
            format!(
                "{} s later no more than {} are left",
                RETURN.as_secs(),
                mebibytes(LEFT_LIMIT)
            ),
            mebibytes(after.resident.saturating_sub(before.resident)),
            after.resident <= before.resident + LEFT_LIMIT,
        ),
        seen.row(&name, "an honest caller"),
    ])
}

/// The memory once it is as low as promised, or when time is over.
async fn lowest(scene: &Scene, before: Memory) -> Result<Memory> {
    let begin = tokio::time::Instant::now();
    loop {
        let memory = scene.device.memory()?;
        if memory.resident <= before.resident + LEFT_LIMIT || begin.elapsed() > RETURN {
            return Ok(memory);
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Sends all requests from so many addresses at once, and holds on to them for a while.
async fn flood(
    scene: &Scene,
    fields: &Fields,
    addresses: u8,
    path: &str,
    hold: Duration,
) -> Vec<Connection> {
    let callers: Vec<Caller> = attackers(addresses)
        .map(|address: IpAddr| scene.caller(address))
        .collect();
    let connections = callers.iter().flat_map(|caller| {
        (0..CONNECTIONS).map(move |_| send(caller, fields, path, STREAMS / u32::from(addresses)))
    });
    // A device may refuse connections and end them: that is a way to keep its promise.
    let connections: Vec<Connection> = join_all(connections).await.into_iter().flatten().collect();
    sleep(hold).await;
    connections
}

/// One connection with all its requests. `None` if the device refuses or ends it.
async fn send(caller: &Caller, fields: &Fields, path: &str, streams: u32) -> Option<Connection> {
    // With no window, no answer has a body that could be sent.
    let mut connection = Connection::open(caller, 0).await.ok()?;
    let head = h2::pseudo_header("GET", caller.host(), path);
    let mut bytes = Vec::new();
    for number in 0..streams {
        let fill: &[u8] = if number == 0 { &fields.fill } else { &[] };
        // The first request fills the table, and has the fields once.
        let each: &[u8] = if number == 0 { &[] } else { &fields.each };
        let block = [&head, fill, each].concat();
        bytes.extend(frame(
            HEADERS,
            END_STREAM | END_HEADERS,
            number * 2 + 1,
            &block,
        ));
    }
    connection.send(&bytes).await.ok()?;
    Some(connection)
}
