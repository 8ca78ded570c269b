//! Misbehaving peers lead to another attempt, with the right cause.

use std::time::Duration;

use cloud_iot::{Cause, Message, ReasonCode, Session, SessionState};
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectReturnCode, Disconnect, DisconnectReasonCode, Packet, SubscribeReasonCode,
};

use crate::common::*;

#[tokio::test]
async fn connack_withheld() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config.timeouts.connect = Duration::from_secs(1);
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    let silent = peer.accept().await;
    assert_eq!(*lost(&mut events).await, Cause::ConnectTimeout);
    let _link = peer.online(&session).await;
    drop(silent);
    session.stop(STOP).await;
}

#[tokio::test]
async fn suback_withheld() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config.timeouts.subscribe = Duration::from_millis(100);
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    let silent = peer.connected().await;
    assert_eq!(*lost(&mut events).await, Cause::SubscribeTimeout);
    let _link = peer.online(&session).await;
    drop(silent);
    session.stop(STOP).await;
}

#[tokio::test]
async fn a_refused_filter_is_named() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config
        .subscriptions
        .push(cloud_iot::Subscription::new("not/mine").unwrap().required());
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    let mut link = peer.connected().await;
    link.suback(Some(SubscribeReasonCode::NotAuthorized)).await;
    let cause = lost(&mut events).await;
    let Cause::SubscriptionRefused { filter, reason, .. } = &*cause else {
        panic!("{cause:?}")
    };
    assert_eq!(
        (filter.as_str(), *reason),
        ("not/mine", ReasonCode::NOT_AUTHORIZED)
    );
    assert_eq!(link.summary().await, "end");
    let _link = peer.online(&session).await;
    session.stop(STOP).await;
}

#[tokio::test]
async fn reason_codes_become_causes() {
    let (peer, session) = started(|config| config).await;
    let mut events = session.events();

    let mut link = peer.accept().await;
    let code = ConnectReturnCode::NotAuthorized;
    link.write(Packet::ConnAck(ConnAck {
        session_present: false,
        code,
        properties: None,
    }))
    .await;
    let cause = lost(&mut events).await;
    let (reason, message) = (ReasonCode::NOT_AUTHORIZED, None);
    assert_eq!(*cause, Cause::NotAccepted { reason, message });
    assert!(!cause.is_retryable());

    let mut link = peer.online(&session).await;
    let code = DisconnectReasonCode::SessionTakenOver;
    let properties = Some(rumqttc::v5::mqttbytes::v5::DisconnectProperties {
        session_expiry_interval: None,
        reason_string: Some("another client".into()),
        user_properties: Vec::new(),
        server_reference: None,
    });
    link.write(Packet::Disconnect(Disconnect {
        reason_code: code,
        properties,
    }))
    .await;
    let cause = lost(&mut events).await;
    assert!(matches!(
        &*cause,
        Cause::Disconnected {
            reason: ReasonCode::SESSION_TAKEN_OVER,
            ..
        }
    ));
    assert!(cause.is_takeover());

    // The same without properties, as mosquitto sends it, and others; and an empty DISCONNECT.
    let disconnected = |code| Cause::Disconnected {
        reason: ReasonCode(code),
        message: None,
    };
    for (bytes, expected) in [
        (&[0xE0, 0x01, 0x8E][..], disconnected(0x8E)),
        (&[0xE0, 0x02, 0x8B, 0x00], disconnected(0x8B)),
        (&[0xE0, 0x01, 0x8D], disconnected(0x8D)),
        (&[0xE0, 0x00], Cause::Closed { soon: true }),
    ] {
        let mut link = peer.online(&session).await;
        link.raw(bytes).await;
        drop(link);
        assert_eq!(*lost(&mut events).await, expected, "{bytes:x?}");
    }
    session.stop(STOP).await;
}

#[tokio::test]
async fn disconnect_reason_is_read_while_sending() {
    let (peer, session) = started(|config| config).await;
    let mut events = session.events();
    for _ in 0..5 {
        let mut link = peer.online(&session).await;
        let sending = async {
            loop {
                // The outbox fills up; the session must be writing all the time.
                let _ = session.publish(Message::new("t", vec![0; 10_000]));
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        };
        let ended = async {
            link.publish(None).await;
            link.raw(&[0xE0, 0x01, 0x8B]).await;
            // Unread data makes this a connection reset.
            drop(link);
            lost(&mut events).await
        };
        tokio::select! {
            () = sending => {}
            cause = ended => {
                let reason = ReasonCode(0x8B);
                assert_eq!(*cause, Cause::Disconnected { reason, message: None });
            }
        }
    }
    session.stop(STOP).await;
}

#[tokio::test]
async fn garbage_from_the_server() {
    let (peer, session) = started(|config| config).await;
    let mut events = session.events();
    // A packet of an unknown type; a second CONNACK; an incomplete PUBACK; a packet that announces
    // more than the maximum.
    let bad: [&[u8]; 4] = [
        &[0x00, 0x02, 0x00, 0x00],
        &[0x20, 0x03, 0x00, 0x00, 0x00],
        &[0x40, 0x01, 0x00],
        &[0x50, 0xFF, 0xFF, 0xFF, 0x7F],
    ];
    for bytes in bad {
        let mut link = peer.online(&session).await;
        link.raw(bytes).await;
        let cause = lost(&mut events).await;
        assert!(
            matches!(*cause, Cause::Protocol(_) | Cause::Closed { .. }),
            "{bytes:x?}: {cause:?}"
        );
    }
    let _link = peer.online(&session).await;
    session.stop(STOP).await;
}

#[tokio::test]
async fn frozen_connection_is_dropped_without_loss() {
    let site = Site::new().await;
    let mut config = site.config("device");
    config.keep_alive = Duration::from_secs(5);
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    online(&session).await;
    site.broker.freeze(true);
    let started = std::time::Instant::now();
    // One interval, if nothing is published; the rest is for a slow machine.
    assert_eq!(*lost(&mut events).await, Cause::KeepAlive);
    let took = started.elapsed();
    assert!(took < Duration::from_millis(7500), "{took:?}");
    let receipts: Vec<_> = (0..20)
        .map(|_| {
            session
                .publish(Message::new("t", vec![0; 100 << 10]))
                .unwrap()
        })
        .collect();
    site.broker.freeze(false);
    for receipt in receipts {
        soon(receipt).await.unwrap();
    }
    session.stop(STOP).await;
}

#[tokio::test]
async fn network_change_detects_dead_connection_in_seconds() {
    let site = Site::new().await;
    let mut config = site.config("device");
    config.keep_alive = Duration::from_secs(3600);
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    online(&session).await;
    // The server responds: the change has no effect.
    session.network_changed();
    site.broker.freeze(true);
    session.network_changed();
    assert_eq!(*lost(&mut events).await, Cause::KeepAlive);
    site.broker.freeze(false);
    online(&session).await;
    session.stop(STOP).await;
}

#[tokio::test]
async fn peer_stops_reading_during_large_write() {
    let site = Site::new().await;
    let mut config = site.config("device");
    config.timeouts.acknowledge = Duration::from_secs(1);
    config.keep_alive = Duration::from_secs(5);
    config.limits.outbox_bytes = 64 << 20;
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    online(&session).await;
    site.broker.freeze(true);
    // More than all socket buffers hold: the write never completes.
    let receipts: Vec<_> = (0..150)
        .map(|_| {
            session
                .publish(Message::new("t", vec![0; 120 << 10]))
                .unwrap()
        })
        .collect();
    let cause = lost(&mut events).await;
    assert_eq!(*cause, Cause::AcknowledgeTimeout);
    site.broker.freeze(false);
    for receipt in receipts {
        soon(receipt).await.unwrap();
    }
    session.stop(STOP).await;
}

#[tokio::test]
async fn another_client_with_the_same_id() {
    let site = Site::new().await;
    let mut config = site.config("twin");
    config.backoff.base_delay = Duration::from_secs(30);
    let first = Session::builder(config.clone()).start().unwrap();
    let mut events = first.events();
    online(&first).await;
    let second = Session::builder(config).start().unwrap();
    let cause = lost(&mut events).await;
    assert!(cause.is_takeover(), "{cause:?}");
    assert!(matches!(
        &*first.state().borrow(),
        SessionState::Waiting { .. }
    ));
    online(&second).await;
    first.stop(STOP).await;
    second.stop(STOP).await;
}
