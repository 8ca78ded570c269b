//! How long the public is without a device whose tunnel is lost, dead or garbled.

use std::net::SocketAddr;
use std::time::Duration;

use cloud_facade::Event;
use cloud_sim::Fault;
use integration_tests::device::{SERIAL, TestDevice};
use integration_tests::virtual_time;
use testkit::wait::timeout;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The longest time before each of the first three attempts, and time for the attempt itself.
const FIRST_RETRY: Duration = Duration::from_secs(16);
/// Within which a tunnel is noticed that is dead.
const DEAD_LINK: Duration = Duration::from_secs(30);

/// What happens to the connections that there are. Later ones are passed on as usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Pass,
    /// Nothing moves any more.
    Freeze,
    /// A bit of the next header that comes from the relay is inverted: the highest of its size, and
    /// with it the channel's id.
    Garble,
}

/// A proxy in front of the relay.
struct Line {
    address: SocketAddr,
    fate: watch::Sender<Fate>,
    _tasks: JoinSet<()>,
}

impl Line {
    async fn to(relay: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (fate, fates) = watch::channel(Fate::Pass);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((device, _)) = listener.accept().await {
                let mut fates = fates.clone();
                fates.mark_unchanged();
                connections.spawn(carry(device, relay, fates));
            }
        });
        Ok(Self {
            address,
            fate,
            _tasks: tasks,
        })
    }
}

async fn carry(
    device: TcpStream,
    relay: SocketAddr,
    mut fates: watch::Receiver<Fate>,
) -> anyhow::Result<()> {
    let relay = TcpStream::connect(relay).await?;
    // What the system holds back for a moment, it holds back for many seconds of this clock.
    device.set_nodelay(true)?;
    relay.set_nodelay(true)?;
    let (mut from_device, mut to_device) = device.into_split();
    let (mut from_relay, mut to_relay) = relay.into_split();
    let mut garble = false;
    let (mut up, mut down) = ([0; 16_384], [0; 16_384]);
    loop {
        tokio::select! {
            read = from_device.read(&mut up) => match read? {
                0 => return Ok(()),
                count => to_relay.write_all(&up[..count]).await?,
            },
            read = from_relay.read(&mut down) => match read? {
                0 => return Ok(()),
                count => {
                    if std::mem::take(&mut garble) {
                        down[1] ^= 0x80;
                    }
                    to_device.write_all(&down[..count]).await?;
                }
            },
            changed = fates.changed() => {
                changed?;
                let fate = *fates.borrow_and_update();
                match fate {
                    Fate::Pass => {}
                    Fate::Garble => garble = true,
                    Fate::Freeze => std::future::pending::<()>().await,
                }
            }
        }
    }
}

/// A device whose tunnel goes through a [`Line`].
async fn behind_a_line() -> anyhow::Result<(TestDevice, Line)> {
    let pair = TestDevice::provisioned().await?;
    let line = Line::to(pair.simulator.relay_addr()).await?;
    let path = pair.base.path().join(".clesydecloud/cloud_config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    config["remote_endpoint"] = line.address.to_string().into();
    std::fs::write(&path, serde_json::to_vec(&config)?)?;
    pair.cloud.initialize().await?;
    pair.reachable().await?;
    Ok((pair, line))
}

async fn next(
    events: &mut broadcast::Receiver<Event>,
    wanted: fn(&Event) -> bool,
) -> anyhow::Result<()> {
    let found = async {
        while !wanted(&events.recv().await?) {}
        anyhow::Ok(())
    };
    timeout("the event", found).await
}

fn lost(event: &Event) -> bool {
    matches!(event, Event::RemoteDisconnected { .. })
}

fn connected(event: &Event) -> bool {
    matches!(event, Event::RemoteConnected { .. })
}

#[test]
fn dead_tunnel_is_detected_in_30_s_and_reopened_in_15_s() -> anyhow::Result<()> {
    virtual_time::run(async {
        let (pair, line) = behind_a_line().await?;
        for round in 0..6_u64 {
            // Long enough for the retries to begin with the first delay, and at another point
            // between two pings each time.
            tokio::time::sleep(Duration::from_secs(120 + 7 * round)).await;
            let mut events = pair.cloud.events();
            let dead = Instant::now();
            line.fate.send_replace(Fate::Freeze);
            next(&mut events, lost).await?;
            let noticed = dead.elapsed();
            next(&mut events, connected).await?;
            println!(
                "dead: noticed after {noticed:?}, back after {:?}",
                dead.elapsed()
            );
            assert!(noticed <= DEAD_LINK + Duration::from_secs(1), "{noticed:?}");
            assert!(
                dead.elapsed() <= noticed + FIRST_RETRY,
                "{:?}",
                dead.elapsed()
            );
        }
        pair.stop().await;
        Ok(())
    })?
}

#[test]
fn garbled_tunnel_is_reopened_15_s_after_next_frame() -> anyhow::Result<()> {
    virtual_time::run(async {
        let (pair, line) = behind_a_line().await?;
        for _ in 0..4 {
            tokio::time::sleep(Duration::from_secs(120)).await;
            let mut events = pair.cloud.events();
            line.fate.send_replace(Fate::Garble);
            let call = pair.fetch("");
            let garbled = Instant::now();
            let (call, noticed) = tokio::join!(call, async {
                next(&mut events, lost).await?;
                anyhow::Ok(garbled.elapsed())
            });
            assert!(call.is_err());
            let noticed = noticed?;
            next(&mut events, connected).await?;
            println!(
                "garbled: noticed after {noticed:?}, back after {:?}",
                garbled.elapsed()
            );
            assert!(noticed <= Duration::from_secs(5), "{noticed:?}");
            assert!(garbled.elapsed() <= noticed + FIRST_RETRY);
        }
        pair.stop().await;
        Ok(())
    })?
}

#[test]
fn five_consecutive_losses_cost_at_most_a_minute_each() -> anyhow::Result<()> {
    virtual_time::run(async {
        let pair = TestDevice::running().await?;
        tokio::time::sleep(Duration::from_secs(120)).await;
        let control = pair.simulator.control();
        for most in [15, 15, 15, 30, 60] {
            let mut events = pair.cloud.events();
            let start = Instant::now();
            let sn = Some(SERIAL.to_owned());
            control.fault(Fault::DropTunnel { sn }).await?;
            next(&mut events, connected).await?;
            println!("lost: back after {:?}", start.elapsed());
            assert!(
                start.elapsed() <= Duration::from_secs(most + 1),
                "{:?}",
                start.elapsed()
            );
        }
        pair.stop().await;
        Ok(())
    })?
}
