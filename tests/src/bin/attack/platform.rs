//! A platform and a broker that do too much, or send text that is meant for a terminal.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rcgen::{CertificateParams, DnType, KeyPair};
use tokio::time::{Instant, interval, sleep};

use crate::Context;
use crate::child::{Child, Output, finish};
use crate::hostile_broker::{self, Behaviour};
use crate::report::Row;
use crate::scene::{CALL, SN, Scene, Settings, World, eventually};

/// Replacements that a burst or a flood of a quarter of a minute may cause: what a token bucket
/// holds, and a few more.
const STORES: usize = 6;
/// Messages of a flood.
const JUNK: usize = 30_000;
/// Lines that one flood may cause in all: the burst of each kind of line that it causes, and what a
/// start logs.
const LINES: usize = 60;
/// Requests for a certificate whose answers are unusable, in a quarter of a minute: the first ones
/// of an exponential back-off.
const REQUESTS: usize = 8;
/// After the last delta. In a flood the rate limit has made the time between two requests this
/// long.
const NEWEST_LIMIT: Duration = Duration::from_secs(35);
const BURST: usize = 20;
const FLOOD: u64 = 15;
/// Until the device is done with what was sent.
const SETTLE: Duration = Duration::from_secs(3);

/// Text that a terminal obeys: ESC, the same as one character (C1), DEL, a line of its own, and a
/// change of direction.
const HOSTILE_TEXT: &str = "\u{1b}]0;owned\u{7}\u{9b}31m\u{7f}\r\nFAKE LINE\u{202e}\u{2028}";

/// Counts how often a file is replaced: each replacement is another inode.
struct Replacements {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Replacements {
    fn watch(path: PathBuf) -> Self {
        let (stop, count) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&count));
        let thread = std::thread::spawn(move || {
            let identity = |path: &PathBuf| {
                fs::metadata(path)
                    .ok()
                    .map(|file| (file.ino(), file.mtime_nsec()))
            };
            let mut last = identity(&path);
            while !stopped.load(Ordering::Relaxed) {
                let now = identity(&path);
                if now.is_some() && now != last {
                    counted.fetch_add(1, Ordering::Relaxed);
                    last = now;
                }
                // Shorter than a replacement, which waits for the disk several times.
                std::thread::sleep(Duration::from_micros(500));
            }
        });
        Self {
            stop,
            count,
            thread: Some(thread),
        }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Replacements {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The page's certificate is to be replaced again and again.
pub(crate) async fn delta_flood(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, pace) in floods(context, Duration::from_millis(40)) {
        let scene = Scene::start(
            context,
            Settings {
                page: true,
                ..Settings::default()
            },
        )
        .await?;
        let stores = Replacements::watch(scene.world.directory().join("remote_cert.pem"));
        let newest = rotate(&scene.world, "rotate", pace).await?;
        let attack = format!("{what}: {} new `remoteCertSn`", pace.count);
        rows.push(newest_row(&attack, &scene.world, "remoteCertSn", &newest).await);
        rows.push(Row::at_most(&attack, "stores", STORES, stores.count()));
    }
    Ok(rows)
}

/// The same for the certificate with which the device connects to the broker.
pub(crate) async fn iot_delta_flood(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (what, pace) in floods(context, Duration::from_millis(500)) {
        let scene = Scene::start(
            context,
            Settings {
                page: true,
                ..Settings::default()
            },
        )
        .await?;
        let before = states(&scene.world).await?;
        let stores = Replacements::watch(scene.world.directory().join("iot_cert.pem"));
        let newest = rotate(&scene.world, "rotate-iot", pace).await?;
        let attack = format!("{what}: {} new `iotCertSn`", pace.count);
        rows.push(newest_row(&attack, &scene.world, "iotCertSn", &newest).await);
        rows.push(Row::at_most(&attack, "stores", STORES, stores.count()));
        let changes = states(&scene.world).await?.saturating_sub(before);
        rows.push(Row::at_most(
            &attack,
            "states ONLINE and OFFLINE on its topic",
            2 * STORES,
            changes,
        ));
    }
    Ok(rows)
}

/// A burst, and a flood as fast as the device can follow: a delta that is out of date costs it
/// nothing.
fn floods(context: &Context, pause: Duration) -> Vec<(&'static str, Pace)> {
    let burst = (
        "a burst",
        Pace {
            count: BURST,
            pause: Duration::from_millis(20),
        },
    );
    let count = (Duration::from_secs(FLOOD).as_millis() / pause.as_millis()) as usize;
    let flood = ("a flood of 15 s", Pace { count, pause });
    if context.short {
        vec![burst]
    } else {
        vec![burst, flood]
    }
}

/// How many certificates the platform makes, and how fast.
#[derive(Clone, Copy)]
struct Pace {
    count: usize,
    pause: Duration,
}

/// States that the device has published; the simulator keeps the last hundred.
async fn states(world: &World) -> Result<usize> {
    let device = world.device().await?;
    Ok(device["status_history"].as_array().map_or(0, Vec::len))
}

/// Whether the newest certificate of a burst or a flood is in use soon.
async fn newest_row(attack: &str, world: &World, name: &str, newest: &str) -> Row {
    let begin = Instant::now();
    let found = reported(world, name, newest, NEWEST_LIMIT).await;
    let took = found.is_ok().then(|| begin.elapsed());
    Row::ended_within(
        format!("{attack}; until the newest is in use"),
        NEWEST_LIMIT,
        NEWEST_LIMIT,
        took,
    )
}

/// Has the platform make new certificates. Returns the serial number of the newest one.
async fn rotate(world: &World, part: &str, pace: Pace) -> Result<String> {
    let mut ticks = interval(pace.pause);
    let mut newest = String::new();
    for _ in 0..pace.count {
        ticks.tick().await;
        let made = world
            .control("POST", &format!("/devices/{SN}/{part}"), "")
            .await?;
        newest = made["serial"]
            .as_str()
            .context("no serial number")?
            .to_owned();
    }
    Ok(newest)
}

/// Answers to requests for a certificate that cannot be used.
pub(crate) async fn unusable_answers(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (part, route, event, answer) in [
        (
            "certificate",
            "rotate",
            "remote.certificate_failed",
            "malformed",
        ),
        (
            "certificate",
            "rotate",
            "remote.certificate_failed",
            "expired",
        ),
        (
            "iot_certificate",
            "rotate-iot",
            "iot.certificate_failed",
            "malformed",
        ),
        (
            "iot_certificate",
            "rotate-iot",
            "iot.certificate_failed",
            "wrong_key",
        ),
    ] {
        let settings = Settings {
            page: true,
            ..Settings::default()
        };
        let mut scene = Scene::start(context, settings).await?;
        let fault = format!(r#"{{"fault":"{part}","answer":"{answer}","times":0}}"#);
        scene.world.control("POST", "/faults", &fault).await?;
        // Each delta is a reason to ask at once.
        let pace = Pace {
            count: REQUESTS * 4,
            pause: Duration::from_secs(FLOOD) / (REQUESTS as u32 * 4),
        };
        rotate(&scene.world, route, pace).await?;
        sleep(SETTLE).await;
        rows.push(Row::at_most(
            format!(
                "{} deltas in {FLOOD} s, answers as {part} that are {answer}",
                pace.count
            ),
            "failed attempts",
            REQUESTS,
            scene.device.count_events(event),
        ));
    }
    Ok(rows)
}

/// A device whose broker is hostile.
async fn device_of(context: &Context, behaviour: Behaviour) -> Result<World> {
    let world = World::provisioned(context, 0).await?;
    let broker = hostile_broker::start(behaviour);
    world.configure(
        "iot_endpoint",
        format!("localhost:{}", broker.address.port()),
    )?;
    world.write("iot_ca.pem", &broker.root)?;
    Ok(world)
}

fn shadow(thing: &str, topic: &str) -> String {
    format!("$aws/things/{thing}/shadow/name/config/{topic}")
}

/// Messages that mean nothing, as fast as the broker can send them.
pub(crate) async fn junk_messages(context: &Context) -> Result<Vec<Row>> {
    // The simulator names things by their serial numbers.
    let topics: Vec<String> = [
        "update/delta",
        "update/documents",
        "get/accepted",
        "get/rejected",
        "update/rejected",
    ]
    .iter()
    .map(|topic| shadow(SN, topic))
    .chain(
        ["remotetoken", "remotecr", "iotcr", "other"]
            .map(|action| format!("c/d/{SN}/{action}/res")),
    )
    .chain(["c/platform".to_owned()])
    .collect();
    let mut rows = Vec::new();
    for (what, payload) in [
        ("no JSON", "{"),
        (
            "JSON of other types",
            r#"{"state":[],"version":"x","token":7,"cert":[]}"#,
        ),
    ] {
        let messages = topics
            .iter()
            .map(|topic| (topic.clone(), payload.as_bytes().to_vec()))
            .collect();
        let behaviour = Behaviour::Flood {
            messages,
            count: JUNK,
        };
        let world = device_of(context, behaviour).await?;
        let mut device = Child::start("the device", &mut world.command(&["run"]))?;
        device.event("iot.connected").await?;
        let lines = settled(&device).await;
        ensure!(device.ended().is_none(), "the device has ended");
        rows.push(Row::at_most(
            format!("{JUNK} messages from the broker, {what}"),
            "log lines",
            LINES,
            lines,
        ));
    }
    Ok(rows)
}

/// The log lines, once there are no more.
async fn settled(device: &Child) -> usize {
    let (mut lines, mut since) = (0, Instant::now());
    let begin = Instant::now();
    while since.elapsed() < SETTLE && begin.elapsed() < Duration::from_secs(30) {
        sleep(Duration::from_millis(100)).await;
        let now = device.stderr().lines;
        if now != lines {
            (lines, since) = (now, Instant::now());
        }
    }
    lines
}

/// Text for a terminal in everything that the platform may send.
pub(crate) async fn raw_text(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let world = device_of(context, Behaviour::Disconnect(HOSTILE_TEXT.to_owned())).await?;
    let mut device = Child::start("the device", &mut world.command(&["run", "-vv"]))?;
    device.event("iot.disconnected").await?;
    sleep(Duration::from_secs(1)).await;
    rows.push(row(
        "DISCONNECT with text for a terminal, log at -vv",
        &device.stderr(),
    ));
    rows.push(row("the same, events with --json", &device.stdout()));
    drop(device);

    let rejected = serde_json::json!({ "code": 400, "message": HOSTILE_TEXT }).to_string();
    let behaviour = Behaviour::Answer {
        requests: "/get".to_owned(),
        answers: "/get/rejected".to_owned(),
        payload: rejected.into_bytes(),
    };
    let world = device_of(context, behaviour).await?;
    let mut device = Child::start("the device", &mut world.command(&["run", "-vv"]))?;
    device.event("iot.connected").await?;
    sleep(Duration::from_secs(1)).await;
    rows.push(row(
        "a shadow that is rejected with such text, log at -vv",
        &device.stderr(),
    ));
    drop(device);

    let behaviour = Behaviour::Answer {
        requests: "/req".to_owned(),
        answers: "/res".to_owned(),
        // In one line: an answer in text is a result, and may have several.
        payload: HOSTILE_TEXT.replace('\n', "").into_bytes(),
    };
    let world = device_of(context, behaviour).await?;
    rows.extend(
        command(
            &world,
            &["request", "x", "{}", "-vv"],
            "an answer that is such text",
        )
        .await?,
    );
    let quoted = serde_json::json!({ "answer": HOSTILE_TEXT }).to_string();
    let behaviour = Behaviour::Answer {
        requests: "/req".to_owned(),
        answers: "/res".to_owned(),
        payload: quoted.into_bytes(),
    };
    let world = device_of(context, behaviour).await?;
    rows.extend(
        command(
            &world,
            &["request", "x", "{}"],
            "an answer with such text in JSON",
        )
        .await?,
    );

    let world = World::provisioned(context, 0).await?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([world.configured("access_point")?])?;
    params
        .distinguished_name
        .push(DnType::CommonName, HOSTILE_TEXT);
    world.write("remote_cert.pem", &params.self_signed(&key)?.pem())?;
    world.write("remote_key.pem", &key.serialize_pem())?;
    for arguments in [&["cert", "show"][..], &["status"]] {
        rows.extend(command(&world, arguments, "a certificate for such a name").await?);
    }
    for option in ["--sn", "--base-path", "--api-url"] {
        let arguments = ["status", option, HOSTILE_TEXT];
        rows.extend(command(&world, &arguments, "such text as a value").await?);
    }
    Ok(rows)
}

/// What a command prints with `--json` and without.
async fn command(world: &World, arguments: &[&str], what: &str) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for json in [true, false] {
        let mut command = match json {
            true => world.command(arguments),
            false => world.command_in_text(arguments),
        };
        let (_, stdout, stderr) = finish(&mut command, CALL).await?;
        let shown: Vec<&str> = arguments
            .iter()
            .copied()
            .filter(|word| *word != HOSTILE_TEXT)
            .collect();
        let name = format!(
            "{what}, `{}{}`",
            shown.join(" "),
            if json { " --json" } else { "" }
        );
        rows.push(row(&format!("{name}, standard output"), &stdout));
        rows.push(row(&format!("{name}, standard error"), &stderr));
    }
    Ok(rows)
}

/// Characters that a terminal does not print but obey, and those that change what it prints.
fn row(attack: &str, output: &Output) -> Row {
    let text = output.text();
    let raw: Vec<String> = text
        .chars()
        .filter(|character| match *character {
            '\n' | '\t' => false,
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
            other => other.is_control(),
        })
        .map(|character| format!("U+{:04X}", u32::from(character)))
        .collect();
    let mut kinds = raw.clone();
    kinds.sort();
    kinds.dedup();
    let forged = text
        .lines()
        .filter(|line| line.starts_with("FAKE LINE"))
        .count();
    Row::new(
        attack,
        "no control character, no forged line",
        match (kinds.as_slice(), forged) {
            ([], 0) => "none".to_owned(),
            _ => format!("{} ({}), {forged} forged lines", raw.len(), kinds.join(" ")),
        },
        raw.is_empty() && forged == 0,
    )
}

/// Waits until the simulator has received what the device reports of a certificate.
pub(crate) async fn reported(
    world: &World,
    name: &str,
    serial: &str,
    limit: Duration,
) -> Result<()> {
    eventually("the new certificate is reported", limit, async || {
        let device = world.device().await?;
        Ok((device["reported"][name] == serial).then_some(()))
    })
    .await
}
