//! MQTT: connecting, publishing, subscribing, acknowledging, and missing responses.

use std::time::{Duration, Instant};

use cloud_iot::{Ack, Cause, Message, Session, SessionConfig, Subscription};
use rumqttc::v5::mqttbytes::QoS as WireQoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAckReason, Publish};

use crate::common::*;

/// The shortest allowed interval.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The device must detect it within 1.5 × keep-alive; the rest is for a slow machine.
const NOTICED: Duration = Duration::from_millis(8500);

fn impatient(mut config: SessionConfig) -> SessionConfig {
    config.keep_alive = KEEP_ALIVE;
    config.timeouts.subscribe = Duration::from_millis(200);
    config.timeouts.acknowledge = Duration::from_millis(200);
    config
}

#[tokio::test]
async fn mqtt_connect() {
    let (peer, session) = started(|config| config).await;
    let (mut link, connect) = peer.accept_with_connect().await;
    assert_eq!(connect.client_id, "device");
    assert!((30..=1200).contains(&connect.keep_alive), "{connect:?}");
    link.connack(None).await;
    link.suback(None).await;
    online(&session).await;
    session.stop(STOP).await;
}

#[tokio::test]
async fn mqtt_publish() {
    let (peer, session) = started(|config| config).await;
    let receipt = session.publish(at_most_once("out", "23.5")).unwrap();
    let mut link = peer.subscribed().await;
    let Some(Packet::Publish(publish)) = link.read().await else {
        panic!("no PUBLISH")
    };
    assert_eq!((publish.qos, publish.pkid), (WireQoS::AtMostOnce, 0));
    assert_eq!(
        (&publish.topic[..], &publish.payload[..]),
        (&b"out"[..], &b"23.5"[..])
    );
    assert_eq!(soon(receipt).await, Ok(Ack::Sent));
    session.stop(STOP).await;
}

#[tokio::test]
async fn mqtt_subscribe() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config.subscriptions = (0..19)
        .map(|n| Subscription::new(format!("in/{n}")).unwrap())
        .collect();
    let session = Session::builder(config).start().unwrap();
    let mut link = peer.connected().await;
    // At most eight filters per packet, each answered before the next.
    link.suback(None).await;
    link.suback(None).await;
    link.suback(None).await;
    online(&session).await;
    session.stop(STOP).await;
}

#[tokio::test]
async fn mqtt_publish_qos_1_is_acknowledged_from_0_to_128_kib() {
    let (peer, session) = started(|config| config).await;
    let mut link = peer.online(&session).await;
    let mut stream = session.messages("in/#").unwrap();
    let sizes = [0, 1, 127, 128, 4096, 16_383, 16_384, 65_536, 128 << 10];
    for (pkid, size) in (1..).zip(sizes) {
        let mut publish = Publish::new("in/q1", WireQoS::AtLeastOnce, vec![7; size], None);
        publish.pkid = pkid;
        link.write(Packet::Publish(publish)).await;
        let Some(Packet::PubAck(ack)) = link.read().await else {
            panic!("no PUBACK")
        };
        assert_eq!((ack.pkid, ack.reason), (pkid, PubAckReason::Success));
        let received = soon(stream.recv()).await.unwrap().unwrap();
        assert_eq!(received.payload.len(), size);
    }
    session.stop(STOP).await;
}

#[tokio::test]
async fn mqtt_no_ack_pingresp() {
    let (peer, session) = started(impatient).await;
    let mut events = session.events();
    let mut link = peer.connected().await;
    let started = Instant::now();
    link.suback(None).await;
    assert_eq!(link.summary().await, "ping");
    assert_eq!(*lost(&mut events).await, Cause::KeepAlive);
    assert!(started.elapsed() < NOTICED, "{:?}", started.elapsed());
    let _link = peer.online(&session).await;
    session.stop(STOP).await;
}

#[tokio::test]
async fn mqtt_subscribe_retry_no_suback() {
    let (peer, session) = started(impatient).await;
    let mut events = session.events();
    let started = Instant::now();
    let mut link = peer.connected().await;
    assert_eq!(link.summary().await, "subscribe 1");
    assert_eq!(*lost(&mut events).await, Cause::SubscribeTimeout);
    let mut link = peer.connected().await;
    assert!(started.elapsed() < NOTICED, "{:?}", started.elapsed());
    link.suback(None).await;
    online(&session).await;
    session.stop(STOP).await;
}

#[tokio::test]
async fn mqtt_publish_retry_no_puback() {
    let (peer, session) = started(impatient).await;
    let mut events = session.events();
    let mut link = peer.subscribed().await;
    let receipt = session.publish(Message::new("out", "1")).unwrap();
    let started = Instant::now();
    assert_eq!(link.publish(None).await, "1");
    // MQTT 5 forbids resending on a live connection, so the connection ends.
    assert_eq!(link.summary().await, "end");
    assert_eq!(*lost(&mut events).await, Cause::AcknowledgeTimeout);
    let mut link = peer.connected().await;
    assert!(started.elapsed() < NOTICED, "{:?}", started.elapsed());
    link.suback(None).await;
    assert_eq!(link.publish(Some(PubAckReason::Success)).await, "1");
    assert_eq!(soon(receipt).await, Ok(Ack::Acknowledged));
    session.stop(STOP).await;
}
