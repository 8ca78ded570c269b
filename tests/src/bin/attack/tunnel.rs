//! A tunnel that is lost, garbled or silent: how long until callers are served again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::Context;
use crate::report::Row;
use crate::scene::{SN, Scene, Settings};

/// A relay that restarts twice costs no minutes.
const TWO_LOSSES: Duration = Duration::from_secs(30);
/// Nor does one of five losses in a row.
const ONE_OF_FIVE: Duration = Duration::from_secs(60);
/// A dead link is found within 50 s (`Timeouts::dead_link`), and the first steps of the back-off
/// come to it.
const SILENCE: Duration = Duration::from_secs(65);
/// How long a return is waited for.
const PATIENCE: Duration = Duration::from_secs(100);

/// The relay drops the tunnel again as soon as it is there.
pub(crate) async fn losses(context: &Context) -> Result<Vec<Row>> {
    let number = if context.short { 2 } else { 5 };
    let mut scene = Scene::start(context, Settings::default()).await?;
    let mut took = Vec::new();
    for _ in 0..number {
        let begin = Instant::now();
        let fault = format!(r#"{{"fault":"drop_tunnel","sn":"{SN}"}}"#);
        scene.world.control("POST", "/faults", &fault).await?;
        scene
            .device
            .event_within("remote.connected", PATIENCE)
            .await?;
        took.push(begin.elapsed());
    }
    let two: Duration = took.iter().take(2).sum();
    let worst = took.iter().max().copied().unwrap_or_default();
    let seconds = |span: Duration| format!("{:.1} s", span.as_secs_f64());
    let mut rows = vec![Row::new(
        "the tunnel is lost twice in a row",
        format!("both returns take no more than {} s", TWO_LOSSES.as_secs()),
        seconds(two),
        two <= TWO_LOSSES,
    )];
    if !context.short {
        rows.push(Row::new(
            format!("the tunnel is lost {number} times in a row"),
            format!("no return takes more than {} s", ONE_OF_FIVE.as_secs()),
            format!("the slowest {}", seconds(worst)),
            worst <= ONE_OF_FIVE,
        ));
    }
    Ok(rows)
}

/// An attacker between device and relay garbles what the relay sends, or lets nothing through.
pub(crate) async fn broken_line(context: &Context) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, state) in [
        ("garbles every byte", GARBLED),
        ("lets nothing through", SILENT),
    ] {
        let settings = Settings {
            proxy_relay: true,
            line: true,
            ..Settings::default()
        };
        let scene = Scene::start(context, settings).await?;
        if let Some(line) = &scene.line {
            line.set(state);
        }
        let begin = Instant::now();
        // A caller's bytes are what is garbled first; it is not served.
        let mut served = scene.honest().get("/").await;
        while served.is_err() && begin.elapsed() < PATIENCE {
            sleep(Duration::from_millis(250)).await;
            served = scene.honest().get("/").await;
        }
        rows.push(Row::ended_within(
            format!("the line between relay and device {name}; until a caller is served again"),
            SILENCE,
            PATIENCE,
            served.ok().map(|_| begin.elapsed()),
        ));
    }
    Ok(rows)
}

const SOUND: u8 = 0;
const GARBLED: u8 = 1;
const SILENT: u8 = 2;

/// What is between a device and its relay. A new connection is sound again. Ends when dropped.
pub(crate) struct Line {
    pub(crate) address: SocketAddr,
    state: Arc<AtomicU8>,
    _tasks: JoinSet<()>,
}

impl Line {
    pub(crate) async fn start(relay: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let state = Arc::<AtomicU8>::default();
        let shared = Arc::clone(&state);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((device, _)) = listener.accept().await {
                shared.store(SOUND, Ordering::Relaxed);
                let state = Arc::clone(&shared);
                connections.spawn(async move {
                    // How it ends is what the attack measures from outside.
                    let _ = carry(device, relay, &state).await;
                });
            }
        });
        Ok(Self {
            address,
            state,
            _tasks: tasks,
        })
    }

    fn set(&self, state: u8) {
        self.state.store(state, Ordering::Relaxed);
    }
}

async fn carry(device: TcpStream, relay: SocketAddr, state: &AtomicU8) -> Result<()> {
    let relay = TcpStream::connect(relay).await?;
    for stream in [&device, &relay] {
        stream.set_nodelay(true)?;
    }
    let ((mut from_device, mut to_device), (mut from_relay, mut to_relay)) =
        (device.into_split(), relay.into_split());
    let down = async {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let read = from_relay.read(&mut bytes).await?;
            match state.load(Ordering::Relaxed) {
                _ if read == 0 => return anyhow::Ok(()),
                SILENT => continue,
                GARBLED => bytes[..read].iter_mut().for_each(|byte| *byte ^= 0x55),
                _ => {}
            }
            to_device.write_all(&bytes[..read]).await?;
        }
    };
    let up = async {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let read = from_device.read(&mut bytes).await?;
            if read == 0 {
                return anyhow::Ok(());
            }
            if state.load(Ordering::Relaxed) != SILENT {
                to_relay.write_all(&bytes[..read]).await?;
            }
        }
    };
    tokio::select! {
        ended = down => ended,
        ended = up => ended,
    }
}
