//! Back-off of a device: growing delays, with jitter.

use std::time::{Duration, Instant};

use cloud_iot::{Backoff, Cause, Session, SessionConfig, SessionEvent};
use rumqttc::v5::mqttbytes::v5::{Disconnect, DisconnectReasonCode, Packet};
use tokio::sync::broadcast;

use crate::common::*;

const UNIT: Duration = Duration::from_millis(4);
const JITTER: Duration = Duration::from_millis(1);

/// The default formula, a hundred times faster and with up to ten doublings.
fn fast(mut config: SessionConfig) -> SessionConfig {
    config.backoff = Backoff::new()
        .base_delay(UNIT)
        .jitter(JITTER)
        .max_exponent(8);
    config
}

/// Returns the delay that the session announces.
async fn announced(events: &mut broadcast::Receiver<SessionEvent>) -> (Cause, Duration) {
    loop {
        if let SessionEvent::Disconnected { reason, retry_in } = soon(events.recv()).await.unwrap()
        {
            return ((*reason).clone(), retry_in);
        }
    }
}

/// The announced delays double, with a random part that varies, and are kept.
fn assert_exponential(announced: &[Duration], seen: &[Duration]) {
    let mut jitter = Vec::new();
    for (n, (wait, seen)) in (1_u32..).zip(announced.iter().zip(seen)) {
        let least = UNIT * (1 << n.min(8));
        assert!(
            (least..=least + JITTER * n).contains(wait),
            "{n}: {wait:?} of {announced:?}"
        );
        assert!(seen >= wait, "{n}: came after {seen:?}, not {wait:?}");
        jitter.push(*wait - least);
    }
    for pair in announced[..announced.len().min(8)].windows(2) {
        assert!(pair[1] > pair[0], "{announced:?}");
    }
    jitter.dedup();
    assert!(jitter.len() > 1, "no jitter: {announced:?}");
}

#[tokio::test]
async fn mqtt_connect_jitter_retries() {
    const LIMIT: Duration = Duration::from_secs(1);
    let (pki, peer) = scripted().await;
    let mut config = fast(config(&pki, peer.port, "device"));
    config.timeouts.connect = LIMIT;
    let started = Instant::now();
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    let mut waits = Vec::new();
    for _ in 0..5 {
        // CONNACK never arrives.
        let mut silent = peer.accept().await;
        let (cause, wait) = announced(&mut events).await;
        assert_eq!(cause, Cause::ConnectTimeout);
        assert_eq!(silent.summary().await, "end");
        waits.push(wait);
    }
    let mut link = peer.connected().await;
    let kept = 5 * LIMIT + waits.iter().sum::<Duration>();
    assert!(
        started.elapsed() >= kept,
        "{:?}, not {kept:?}",
        started.elapsed()
    );
    link.suback(None).await;
    online(&session).await;
    assert_exponential(&waits, &[Duration::MAX; 5]);
    session.stop(STOP).await;
}

#[tokio::test]
async fn mqtt_connect_exponential_backoff_retries() {
    let (peer, session) = started(fast).await;
    let mut events = session.events();
    let (mut waits, mut seen) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        let mut link = peer.online(&session).await;
        let started = Instant::now();
        let reason = DisconnectReasonCode::ServerShuttingDown;
        link.write(Packet::Disconnect(Disconnect {
            reason_code: reason,
            properties: None,
        }))
        .await;
        drop(link);
        waits.push(announced(&mut events).await.1);
        drop(peer.tcp().await);
        seen.push(started.elapsed());
        // That attempt failed as well, and counts.
        waits.push(announced(&mut events).await.1);
        seen.push(Duration::MAX);
    }
    assert_exponential(&waits, &seen);
    session.stop(STOP).await;
}

#[tokio::test]
async fn mqtt_reconnect_backoff_retries_on_unstable_connection() {
    let (peer, session) = started(fast).await;
    let mut events = session.events();
    let (mut waits, mut seen) = (Vec::new(), Vec::new());
    let mut started: Option<Instant> = None;
    for _ in 0..10 {
        let mut link = peer.connected().await;
        if let Some(started) = started {
            seen.push(started.elapsed());
        }
        // Accepted, subscribed, online, and disconnected at once.
        link.suback(None).await;
        online(&session).await;
        started = Some(Instant::now());
        drop(link);
        waits.push(announced(&mut events).await.1);
    }
    seen.push(Duration::MAX);
    assert_exponential(&waits, &seen);
    session.stop(STOP).await;
}
