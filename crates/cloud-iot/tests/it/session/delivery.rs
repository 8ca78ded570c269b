//! Accepted messages are delivered in order, or reported.

use std::time::Duration;

use cloud_iot::{
    Ack, Cause, DeliveryError, Message, PublishError, PublishOptions, ReasonCode, Session,
};
use rumqttc::v5::mqttbytes::v5::PubAckReason;

use crate::common::*;
use crate::support::peer::no_properties;

#[tokio::test]
async fn awaited_publishes() {
    let site = Site::new().await;
    let session = Session::builder(site.config("device")).start().unwrap();
    let queued = session.publish(Message::new("t", "1")).unwrap();
    let unsure = session.publish(at_most_once("t", "2")).unwrap();
    assert_eq!(soon(queued).await, Ok(Ack::Acknowledged));
    assert_eq!(soon(unsure).await, Ok(Ack::Sent));
    let large = session
        .publish(Message::new("t", vec![0; 128 << 10]))
        .unwrap();
    assert_eq!(soon(large).await, Ok(Ack::Acknowledged));
    let too_large = session.publish(Message::new("t", vec![0; (128 << 10) + 1]));
    assert!(matches!(too_large, Err(PublishError::TooLarge { .. })));
    session.stop(STOP).await;
}

#[tokio::test]
async fn queued_messages_survive_broker_restarts() {
    let mut site = Site::new().await;
    let session = Session::builder(site.config("device")).start().unwrap();
    online(&session).await;
    let mut receipts = Vec::new();
    let mut expected = Vec::new();
    for round in 0..3 {
        let mut publish = |count: usize| {
            for _ in 0..count {
                let number = expected.len().to_string();
                receipts.push(
                    session
                        .publish(Message::new("out", number.clone()))
                        .unwrap(),
                );
                expected.push(number);
            }
        };
        publish(50);
        tokio::task::yield_now().await;
        site.broker.down().await;
        publish(50);
        site.broker.up().await;
        if round == 2 {
            publish(20);
        }
    }
    for receipt in receipts {
        assert_eq!(soon(receipt).await, Ok(Ack::Acknowledged));
    }
    session.stop(STOP).await;
    // Some arrived twice, none is missing, and first arrivals are in order.
    let mut first = Vec::new();
    for payload in site.broker.received("out") {
        if !first.contains(&payload) {
            first.push(payload);
        }
    }
    assert_eq!(first, expected);
}

#[tokio::test]
async fn random_sequences_keep_order_and_resend_only_as_needed() {
    let (peer, session) = started(|config| config).await;
    let receipts: Vec<_> = (0..6)
        .map(|n| session.publish(Message::new("t", n.to_string())).unwrap())
        .collect();

    // Two are acknowledged, one is received without an acknowledgement, then the connection ends.
    let mut link = peer.subscribed().await;
    assert_eq!(link.publish(Some(PubAckReason::Success)).await, "0");
    assert_eq!(
        link.publish(Some(PubAckReason::NoMatchingSubscribers))
            .await,
        "1"
    );
    assert_eq!(link.publish(None).await, "2");
    drop(link);

    // All others are resent, in order.
    let mut link = peer.subscribed().await;
    for n in 2..6 {
        assert_eq!(
            link.publish(Some(PubAckReason::Success)).await,
            n.to_string()
        );
    }
    for receipt in receipts {
        assert_eq!(soon(receipt).await, Ok(Ack::Acknowledged));
    }
    session.stop(STOP).await;
}

#[tokio::test]
async fn small_receive_maximum_is_respected() {
    let (peer, session) = started(|config| config).await;
    let receipts: Vec<_> = (0..10)
        .map(|n| session.publish(Message::new("t", n.to_string())).unwrap())
        .collect();
    let mut link = peer.accept().await;
    let mut properties = no_properties();
    properties.receive_max = Some(2);
    link.connack(Some(properties)).await;
    link.suback(None).await;
    let mut held = Vec::new();
    for n in 0..10 {
        let Some(rumqttc::v5::mqttbytes::v5::Packet::Publish(publish)) = link.read().await else {
            panic!("no PUBLISH")
        };
        assert_eq!(publish.payload, n.to_string());
        held.push(publish.pkid);
        // Acknowledged in pairs, the later one first.
        if held.len() == 2 {
            for pkid in held.drain(..).rev() {
                let ack = rumqttc::v5::mqttbytes::v5::PubAck::new(pkid, None);
                link.write(rumqttc::v5::mqttbytes::v5::Packet::PubAck(ack))
                    .await;
            }
        }
    }
    for receipt in receipts {
        assert_eq!(soon(receipt).await, Ok(Ack::Acknowledged));
    }
    session.stop(STOP).await;
}

#[tokio::test]
async fn refusals_reach_the_caller() {
    let (peer, session) = started(|config| config).await;
    let mut link = peer.accept().await;
    let mut properties = no_properties();
    properties.max_packet_size = Some(1000);
    properties.retain_available = Some(0);
    link.connack(Some(properties)).await;
    link.suback(None).await;
    online(&session).await;
    let large = session.publish(Message::new("t", vec![0; 1000])).unwrap();
    let retained = session.publish(Message::new("t", "").retained()).unwrap();
    let refused = session.publish(Message::new("t", "secret")).unwrap();
    let good = session.publish(Message::new("t", "good")).unwrap();
    assert!(matches!(
        soon(large).await,
        Err(DeliveryError::TooLarge { limit: 1000, .. })
    ));
    assert_eq!(
        soon(retained).await,
        Err(DeliveryError::NotSupported("retained messages"))
    );
    assert_eq!(
        link.publish(Some(PubAckReason::NotAuthorized)).await,
        "secret"
    );
    assert_eq!(link.publish(Some(PubAckReason::Success)).await, "good");
    let expected = Err(DeliveryError::Refused(ReasonCode::NOT_AUTHORIZED));
    assert_eq!(soon(refused).await, expected);
    assert_eq!(soon(good).await, Ok(Ack::Acknowledged));
    session.stop(STOP).await;
}

#[tokio::test]
async fn full_outbox_refuses_new_message() {
    let site = Site::new().await;
    let mut config = site.config("device");
    config.limits.outbox_messages = 3;
    config.port = 1;
    let session = Session::builder(config).start().unwrap();
    let receipts: Vec<_> = (0..3)
        .map(|_| session.publish(Message::new("t", "1")).unwrap())
        .collect();
    let error = session.publish(Message::new("t", "1")).unwrap_err();
    assert!(matches!(
        error,
        PublishError::OutboxFull { messages: 3, .. }
    ));
    assert!(error.is_retryable());
    assert_eq!(session.stop(STOP).await.undelivered, 3);
    for receipt in receipts {
        assert_eq!(receipt.await, Err(DeliveryError::Stopped));
    }
}

#[tokio::test]
async fn missing_puback_resends_on_new_connection() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config.timeouts.acknowledge = Duration::from_millis(100);
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    let receipt = session.publish(Message::new("t", "1")).unwrap();
    let mut link = peer.subscribed().await;
    assert_eq!(link.publish(None).await, "1");
    assert_eq!(*lost(&mut events).await, Cause::AcknowledgeTimeout);
    let mut link = peer.subscribed().await;
    assert_eq!(link.publish(Some(PubAckReason::Success)).await, "1");
    assert_eq!(soon(receipt).await, Ok(Ack::Acknowledged));
    session.stop(STOP).await;
}

#[tokio::test]
async fn publish_carries_remaining_expiry() {
    let (peer, session) = started(|config| config).await;
    let mut link = peer.online(&session).await;
    let options = PublishOptions::new().expires_in(Duration::from_secs(60));
    let receipt = session
        .publish_with(Message::new("t", "1"), options)
        .unwrap();
    let Some(rumqttc::v5::mqttbytes::v5::Packet::Publish(publish)) = link.read().await else {
        panic!("no PUBLISH")
    };
    let expiry = publish.properties.unwrap().message_expiry_interval.unwrap();
    assert!((30..=60).contains(&expiry), "{expiry}");
    session.stop(Duration::ZERO).await;
    assert_eq!(receipt.await, Err(DeliveryError::Stopped));
}

#[tokio::test]
async fn drop_oldest_keeps_latest_values() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config.overflow = cloud_iot::Overflow::DropOldest;
    config.limits.outbox_messages = 2;
    let session = Session::builder(config).start().unwrap();
    let receipts: Vec<_> = (0..5)
        .map(|n| session.publish(Message::new("t", n.to_string())).unwrap())
        .collect();
    let mut link = peer.subscribed().await;
    assert_eq!(link.publish(Some(PubAckReason::Success)).await, "3");
    assert_eq!(link.publish(Some(PubAckReason::Success)).await, "4");
    for (n, receipt) in receipts.into_iter().enumerate() {
        let expected = if n < 3 {
            Err(DeliveryError::Displaced)
        } else {
            Ok(Ack::Acknowledged)
        };
        assert_eq!(soon(receipt).await, expected, "{n}");
    }
    session.stop(STOP).await;
}

/// Unknown codes are interpreted by range: from 0x80 on they are refusals.
#[tokio::test]
async fn unknown_puback_reason_keeps_the_connection() {
    let (peer, session) = started(|config| config).await;
    let mut link = peer.online(&session).await;
    let refused = Err(DeliveryError::Refused(ReasonCode(0xB0)));
    // The SUBSCRIBE used packet identifier 1.
    for (id, reason, outcome) in [(2, 0xB0, refused), (3, 0x01, Ok(Ack::Acknowledged))] {
        let receipt = session.publish(Message::new("t", "x")).unwrap();
        assert_eq!(link.summary().await, "publish x");
        link.raw(&[0x40, 0x03, 0x00, id, reason]).await;
        assert_eq!(soon(receipt).await, outcome);
    }
    assert!(session.state().borrow().is_online());
    session.stop(STOP).await;
}
