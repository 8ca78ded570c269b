//! Handover to newer tokens and certificate rotation while callers are connected, and dead links.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use cloud_remote::{Application, RemoteAccess, RemoteConfig, RemoteEvent, Timeouts};
use futures_util::{SinkExt, StreamExt};
use snitun::server::ServerConfig;
use snitun::{Cipher, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::Receiver;
use tokio::sync::watch;
use tokio_tungstenite::tungstenite;

use crate::serving::web;
use crate::streams::{Download, counting};
use crate::support::{Cloud, Issue, NAME, connected, event, eventually, shown_serial, within};

/// A token is requested every 300 ms.
fn restless() -> Timeouts {
    let mut timeouts = Timeouts::default();
    timeouts.check_interval = Duration::from_millis(300);
    timeouts.refresh_before = Duration::from_secs(1_000_000);
    timeouts
}

async fn started(cloud: &Cloud, application: Application, timeouts: Timeouts) -> RemoteAccess {
    let builder = cloud.builder().application(application).timeouts(timeouts);
    let remote = cloud.device_from(builder).await;
    remote.set_messaging_online(true);
    connected(&remote).await;
    remote
}

fn tokens(cloud: &Cloud) -> usize {
    cloud.platform.issued_tokens.lock().unwrap().len()
}

async fn renewed(events: &mut Receiver<RemoteEvent>) {
    event(events, |event| match event {
        RemoteEvent::TunnelRenewed => Some(()),
        RemoteEvent::Connected { .. } | RemoteEvent::Disconnected { .. } => {
            panic!("the tunnel was not there all the time: {event:?}")
        }
        _ => None,
    })
    .await;
}

/// Loads a page; retries if a handover has closed the connection, as a browser does.
async fn hello(cloud: &Cloud) {
    let browser = cloud.browser(&["h2"]);
    let mut page = browser.get(cloud.url("/")).send().await;
    if page.is_err() {
        page = browser.get(cloud.url("/")).send().await;
    }
    assert_eq!(page.unwrap().text().await.unwrap(), "hello");
}

#[tokio::test]
async fn download_survives_token_refresh_and_rotation() {
    let cloud = Cloud::start().await;
    let remote = started(&cloud, counting().0, restless()).await;
    let mut events = remote.events();
    let mut socket = cloud.websocket().await;
    let mut download = Download::start(&cloud, "h2").await;
    let rotated = cloud.platform.ca.issue(&Issue::serial(2));
    let (before, mut round) = (tokens(&cloud), 0_u64);
    while tokens(&cloud) < before + 4 || remote.status().borrow().certificate.serial.as_str() != "2"
    {
        download.go_on().await;
        let message = tungstenite::Message::text(round.to_string());
        within(socket.send(message.clone())).await.unwrap();
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), message);
        if tokens(&cloud) == before + 2 && round > 0 {
            let mut responses = cloud.platform.certificates.lock().unwrap();
            if responses.is_empty() {
                responses.push_back(rotated.clone());
            }
            remote.set_desired_serial("2").unwrap();
        }
        round += 1;
    }
    assert!(download.next > 0 && round > 0);
    while let Ok(event) = events.try_recv() {
        assert!(
            matches!(
                event,
                RemoteEvent::TokenReceived { .. } | RemoteEvent::CertificateRotated { .. }
            ),
            "{event:?}"
        );
    }
    let new = cloud.open(&["http/1.1"]).await.unwrap();
    assert_eq!(shown_serial(&new), "2");
    drop((new, socket, download));

    // Now no caller is connected.
    renewed(&mut events).await;
    hello(&cloud).await;
}

#[tokio::test]
async fn idle_tunnel_hands_over_to_newer_tokens_without_gap() {
    for cipher in [Cipher::AesCbc, Cipher::AesGcm] {
        let cloud = Cloud::speaking(ProtocolVersion::V1, cipher).await;
        let remote = started(&cloud, web(), restless()).await;
        let mut events = remote.events();
        for _ in 0..3 {
            renewed(&mut events).await;
            assert!(cloud.relay.is_connected(NAME));
            assert!(remote.status().borrow().is_connected());
        }
        hello(&cloud).await;
        remote.stop(Duration::from_secs(10)).await.unwrap();
    }
}

#[tokio::test]
async fn busy_tunnel_hands_over_before_relay_check() {
    let config = ServerConfig {
        expiry_check: Duration::from_secs(2),
        ..ServerConfig::default()
    };
    let cloud = Cloud::with_relay(ProtocolVersion::V0, Cipher::AesCbc, config).await;
    *cloud.platform.valid_for.lock().unwrap() = (4, 4);
    let mut timeouts = Timeouts::default();
    timeouts.check_interval = Duration::from_millis(500);
    timeouts.refresh_before = Duration::from_secs(3);
    timeouts.relay_check = Duration::from_secs(2);
    let remote = started(&cloud, counting().0, timeouts).await;
    let mut events = remote.events();
    let start = Instant::now();
    let mut download = Download::start(&cloud, "h2").await;
    let reading =
        tokio::spawn(async move { while let Ok(Some(_)) = download.response.chunk().await {} });
    renewed(&mut events).await;
    assert!(
        start.elapsed() > Duration::from_secs(2),
        "the download was cut too early: {:?}",
        start.elapsed()
    );
    within(reading).await.unwrap();
    hello(&cloud).await;
}

#[tokio::test]
async fn failed_handover_keeps_old_tunnel() {
    let cloud = Cloud::start().await;
    let remote = started(&cloud, web(), restless()).await;
    let mut events = remote.events();
    // From now on the relay refuses all tunnels.
    cloud.platform.valid_for.lock().unwrap().1 = -10;
    let before = tokens(&cloud);
    eventually(|| tokens(&cloud) >= before + 4).await;
    while let Ok(event) = events.try_recv() {
        assert!(
            matches!(
                event,
                RemoteEvent::TokenReceived { .. } | RemoteEvent::TunnelRenewed
            ),
            "{event:?}"
        );
    }
    hello(&cloud).await;
}

/// Forwards bytes to the relay until it is frozen; then connections stay open without traffic.
async fn freezer(relay: SocketAddr) -> (SocketAddr, watch::Sender<bool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (freeze, frozen) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            let (mut device, _) = listener.accept().await.unwrap();
            let mut frozen = frozen.clone();
            tokio::spawn(async move {
                let mut relay = TcpStream::connect(relay).await.unwrap();
                tokio::select! {
                    _ = tokio::io::copy_bidirectional(&mut device, &mut relay) => {}
                    () = until(&mut frozen, true) => until(&mut frozen, false).await,
                }
            });
        }
    });
    (address, freeze)
}

async fn until(frozen: &mut watch::Receiver<bool>, state: bool) {
    let _ = frozen.wait_for(|frozen| *frozen == state).await;
}

#[tokio::test]
async fn dead_link_is_detected_within_timeout() {
    let cloud = Cloud::start().await;
    let (address, freeze) = freezer(cloud.address).await;
    let mut timeouts = Timeouts::default();
    // Long enough that a slow response of a busy machine does not count as a dead link.
    timeouts.dead_link = Duration::from_secs(4);
    let config = RemoteConfig::new("127.0.0.1", address.port(), NAME);
    let builder = RemoteAccess::builder(config)
        .application(web())
        .timeouts(timeouts);
    let remote = cloud.device_from(builder).await;
    remote.set_messaging_online(true);
    connected(&remote).await;
    let mut events = remote.events();
    // A working link stays connected.
    tokio::time::sleep(timeouts.dead_link * 2).await;
    assert!(
        events
            .try_recv()
            .is_err_and(|_| remote.status().borrow().is_connected())
    );

    let start = Instant::now();
    freeze.send_replace(true);
    let reason = event(&mut events, |event| match event {
        RemoteEvent::Disconnected { reason } => Some(reason),
        _ => None,
    })
    .await;
    assert!(reason.contains("ping"), "{reason}");
    // With a margin for a busy machine.
    assert!(
        start.elapsed() < timeouts.dead_link * 3,
        "{:?}",
        start.elapsed()
    );
    freeze.send_replace(false);
    connected(&remote).await;
}

/// Forwards bytes to the relay, and on request inverts one bit of the next bytes from it.
async fn garbler(relay: SocketAddr) -> (SocketAddr, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let garble = Arc::new(AtomicBool::new(false));
    let garbled = Arc::clone(&garble);
    tokio::spawn(async move {
        loop {
            let (device, _) = listener.accept().await.unwrap();
            let garble = Arc::clone(&garbled);
            tokio::spawn(async move {
                let relay = TcpStream::connect(relay).await.unwrap();
                let (mut from_device, mut to_device) = device.into_split();
                let (mut from_relay, mut to_relay) = relay.into_split();
                let back = async {
                    let mut bytes = vec![0; 64 * 1024];
                    loop {
                        let count = from_relay.read(&mut bytes).await?;
                        if count == 0 {
                            return Ok::<_, std::io::Error>(());
                        }
                        // With `aes-cbc`, this affects a bit of the size in a header, and all of
                        // its channel id.
                        if garble.swap(false, Ordering::Relaxed) {
                            bytes[1] ^= 0x80;
                        }
                        to_device.write_all(&bytes[..count]).await?;
                    }
                };
                tokio::select! {
                    _ = back => {}
                    _ = tokio::io::copy(&mut from_device, &mut to_relay) => {}
                }
            });
        }
    });
    (address, garble)
}

#[tokio::test]
async fn garbled_tunnel_is_detected_with_next_frame() {
    for (cipher, why) in [
        (Cipher::AesCbc, "garbled"),
        (Cipher::AesGcm, "does not decrypt"),
    ] {
        let cloud = Cloud::speaking(ProtocolVersion::V0, cipher).await;
        let (address, garble) = garbler(cloud.address).await;
        let config = RemoteConfig::new("127.0.0.1", address.port(), NAME);
        let builder = RemoteAccess::builder(config).application(web());
        let remote = cloud.device_from(builder).await;
        remote.set_messaging_online(true);
        connected(&remote).await;
        let mut events = remote.events();
        garble.store(true, Ordering::Relaxed);
        // Data for a caller is the next frame.
        let browser = cloud.browser(&["h2"]);
        let call = browser.get(cloud.url("/")).send();
        let reason = event(&mut events, |event| match event {
            RemoteEvent::Disconnected { reason } => Some(reason),
            _ => None,
        });
        let (call, reason) = tokio::join!(call, reason);
        assert!(call.is_err(), "{cipher:?}");
        assert!(reason.contains(why), "{cipher:?}: {reason}");
        connected(&remote).await;
        hello(&cloud).await;
    }
}
