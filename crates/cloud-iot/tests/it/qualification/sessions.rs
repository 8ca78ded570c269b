//! Persistent sessions that the server keeps over a lost connection, or has dropped.

use std::time::Duration;

use cloud_iot::{Acknowledge, BoxError, Message, Router, Session, SessionConfig};
use rumqttc::v5::mqttbytes::QoS as WireQoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PubAck, PubAckReason, Publish};
use tokio::sync::mpsc;
use tower::service_fn;

use crate::common::*;
use crate::support::peer::Link;

fn persistent(mut config: SessionConfig) -> SessionConfig {
    config.session_expiry = Some(Duration::from_secs(3600));
    config.acknowledge = Acknowledge::AfterHandlers;
    config
}

async fn send(link: &mut Link, packet_id: u16, duplicate: bool, payload: &'static str) {
    let mut publish = Publish::new("in/stored", WireQoS::AtLeastOnce, payload, None);
    publish.pkid = packet_id;
    publish.dup = duplicate;
    link.write(Packet::Publish(publish)).await;
}

async fn acknowledged(link: &mut Link) -> u16 {
    match link.read().await {
        Some(Packet::PubAck(ack)) => ack.pkid,
        other => panic!("no PUBACK but {other:?}"),
    }
}

#[tokio::test]
async fn mqtt_persistent_session_happy_case() {
    let (pki, peer) = scripted().await;
    let (taken, mut handled) = mpsc::unbounded_channel();
    let (release, released) = tokio::sync::watch::channel(false);
    let handler = service_fn(move |message: Message| {
        let (taken, mut released) = (taken.clone(), released.clone());
        async move {
            taken.send(message.payload)?;
            released.wait_for(|released| *released).await?;
            Ok::<_, BoxError>(())
        }
    });
    let session = Session::builder(persistent(config(&pki, peer.port, "device")))
        .router(Router::new().route("in/#", handler).unwrap())
        .start()
        .unwrap();

    let (mut link, connect) = peer.accept_with_connect().await;
    assert!(!connect.clean_start);
    let properties = connect.properties.unwrap();
    assert_eq!(properties.session_expiry_interval, Some(3600));
    link.connack(None).await;
    link.suback(None).await;
    online(&session).await;
    // Received, being handled, not acknowledged: the connection is lost.
    send(&mut link, 5, false, "first").await;
    assert_eq!(soon(handled.recv()).await.unwrap(), "first");
    drop(link);

    let mut link = peer.accept().await;
    link.connack_with_session(true, None).await;
    // The unacknowledged message again, and the message published meanwhile.
    send(&mut link, 5, true, "first").await;
    send(&mut link, 6, false, "stored").await;
    online(&session).await;
    release.send_replace(true);
    // No SUBSCRIBE: the next packets are the acknowledgements, in order.
    assert_eq!(acknowledged(&mut link).await, 5);
    assert_eq!(soon(handled.recv()).await.unwrap(), "stored");
    assert_eq!(acknowledged(&mut link).await, 6);
    assert!(handled.try_recv().is_err(), "each was handled once");
    session.stop(STOP).await;
    assert_eq!(link.summary().await, "disconnect");
}

#[tokio::test]
async fn mqtt_persistent_session_session_expiry() {
    let (peer, session) = started(persistent).await;
    for _ in 0..2 {
        let mut link = peer.accept().await;
        // The server has dropped the session, so the session subscribes again.
        link.connack_with_session(false, None).await;
        link.suback(None).await;
        online(&session).await;
        drop(link);
    }
    session.stop(STOP).await;
}

#[tokio::test]
async fn resent_message_keeps_its_qos_and_packet_id() {
    let (peer, session) = started(persistent).await;
    let mut link = peer.online(&session).await;
    let receipt = session.publish(Message::new("out", "1")).unwrap();
    let publish = async |link: &mut Link| match link.read().await {
        Some(Packet::Publish(publish)) => publish,
        other => panic!("no PUBLISH but {other:?}"),
    };
    let first = publish(&mut link).await;
    assert!(!first.dup);
    drop(link);

    let mut link = peer.accept().await;
    link.connack_with_session(true, None).await;
    let again = publish(&mut link).await;
    assert_eq!((again.dup, again.pkid), (true, first.pkid));
    drop(link);

    // For a server without the session it is a new message.
    let mut link = peer.accept().await;
    link.connack_with_session(false, None).await;
    link.suback(None).await;
    let new_message = publish(&mut link).await;
    assert!(!new_message.dup);
    let ack = PubAck {
        pkid: new_message.pkid,
        reason: PubAckReason::Success,
        properties: None,
    };
    link.write(Packet::PubAck(ack)).await;
    soon(receipt).await.unwrap();
    session.stop(STOP).await;
}

#[tokio::test]
async fn failed_handlers_are_acknowledged() {
    let (pki, peer) = scripted().await;
    let handler = service_fn(|message: Message| async move {
        match &message.payload[..] {
            b"panic" => panic!("a test"),
            _ => Err::<(), BoxError>("a failure".into()),
        }
    });
    let session = Session::builder(persistent(config(&pki, peer.port, "device")))
        .router(Router::new().route("in/#", handler).unwrap())
        .start()
        .unwrap();
    let mut link = peer.online(&session).await;
    for (id, payload) in [(1, "panic"), (2, "error")] {
        send(&mut link, id, false, payload).await;
        assert_eq!(acknowledged(&mut link).await, id);
    }
    session.stop(STOP).await;
}
