//! What a server may send without ending the connection, and how refusals are reported.

use cloud_iot::{Cause, Message, QoS, ReasonCode, Session, SessionEvent, Subscription};
use rumqttc::v5::mqttbytes::v5::{ConnAckProperties, Packet};

use crate::common::*;
use crate::support::peer::no_properties;

/// Reads a case: a packet in hexadecimal digits, with comment lines.
fn case(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/cases/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let digits: String = text.lines().filter(|line| !line.starts_with('#')).collect();
    let digits = digits.trim().as_bytes().chunks(2);
    digits
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

#[tokio::test]
async fn stray_acknowledgements_do_not_end_the_connection() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config.subscriptions = vec![Subscription::new("in/#").unwrap()];
    let session = Session::builder(config).start().unwrap();
    let mut link = peer.online(&session).await;
    let mut stream = session.messages("in/#").unwrap();
    let receipt = session.publish(Message::new("t", "1")).unwrap();
    // The SUBSCRIBE has packet identifier 1, so the message has 2.
    assert_eq!(link.publish(None).await, "1");
    link.raw(&case("puback-twice")).await;
    soon(receipt).await.unwrap();
    for packet in [
        &[0x40, 0x02, 0x00, 0x00][..],         // PUBACK
        &[0x40, 0x03, 0x00, 0x63, 0x87],       // PUBACK with a failure
        &[0x90, 0x04, 0x00, 0x01, 0x00, 0x01], // SUBACK, doubled
        &[0x90, 0x03, 0x00, 0x00, 0x00],       // SUBACK without codes
        &[0xB0, 0x04, 0x00, 0x01, 0x00, 0x00], // UNSUBACK
        &[0x62, 0x02, 0x00, 0x00],             // PUBREL
        &[0x50, 0x02, 0x00, 0x07],             // PUBREC
        &[0x70, 0x04, 0x00, 0x07, 0x92, 0x00], // PUBCOMP
    ] {
        link.raw(packet).await;
    }
    link.raw(b"\x30\x08\x00\x04in/x\x00!").await;
    assert_eq!(next(&mut stream).await, "!", "the connection is the same");
    session.stop(STOP).await;
}

#[tokio::test]
async fn payload_behind_several_subscription_identifiers_is_as_sent() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config.subscriptions = vec![Subscription::new("c/platform").unwrap()];
    let session = Session::builder(config).start().unwrap();
    let mut link = peer.online(&session).await;
    let mut stream = session.messages("c/platform").unwrap();
    link.raw(&case("publish-3-subscription-ids")).await;
    assert_eq!(next(&mut stream).await, r#"{"three":3}"#);
    session.stop(STOP).await;
}

/// A message of a kept session, or a retained one, comes again on each connection.
#[tokio::test]
async fn invalid_message_ends_one_connection_only() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config.subscriptions = vec![Subscription::new("c/platform").unwrap()];
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    let invalid = case("publish-user-property-latin1");
    let mut link = peer.subscribed().await;
    link.raw(&invalid).await;
    let cause = lost(&mut events).await.to_string();
    for part in ["violated", "PUBLISH", "0x26", "UTF-8", "c/platform"] {
        assert!(cause.contains(part), "{cause}");
    }
    assert_eq!(link.raw_read(3).await, [0xE0, 0x01, 0x81]);

    let mut link = peer.connected().await;
    // Behind CONNACK, as of a kept session, and behind SUBACK.
    link.raw(&invalid).await;
    link.suback(None).await;
    link.raw(&invalid).await;
    online(&session).await;
    for _ in 0..2 {
        let packet = link.read().await;
        assert!(
            matches!(&packet, Some(Packet::PubAck(puback)) if puback.pkid == 7),
            "{packet:?}"
        );
    }
    let mut stream = session.messages("c/platform").unwrap();
    link.raw(b"\x30\x0E\x00\x0Ac/platform\x00!").await;
    assert_eq!(next(&mut stream).await, "!", "only the valid one arrives");
    session.stop(STOP).await;
}

#[tokio::test]
async fn refusals_have_code_and_reason_string() {
    let (peer, session) = started(|config| config).await;
    let mut events = session.events();

    let mut link = peer.accept().await;
    link.raw(&case("connack-96")).await;
    let cause = lost(&mut events).await;
    let expected = Cause::NotAccepted {
        reason: ReasonCode(0x96),
        message: Some("message rate too high".into()),
    };
    assert_eq!(
        (&*cause, cause.retry()),
        (&expected, cloud_iot::Retry::Busy)
    );

    // A code that the standard does not have.
    let mut link = peer.accept().await;
    link.raw(b"\x20\x0B\x00\xC5\x08\x1F\x00\x05\x1b[2Jx").await;
    let cause = lost(&mut events).await.to_string();
    assert!(
        cause.ends_with(r"unknown failure (0xC5): \u{1b}[2Jx"),
        "{cause}"
    );

    // MQTT 3.1.1, 3.2.2.3.
    let mut link = peer.accept().await;
    link.raw(&[0x20, 0x02, 0x00, 0x01]).await;
    let cause = lost(&mut events).await;
    assert_eq!(*cause, Cause::Mqtt311Only);
    assert!(cause.to_string().contains("speaks MQTT 3.1.1 only"));

    let mut link = peer.online(&session).await;
    link.raw(&case("disconnect-unknown-code")).await;
    let expected = Cause::Disconnected {
        reason: ReasonCode(0xA3),
        message: Some("device quarantined".into()),
    };
    assert_eq!(*lost(&mut events).await, expected);
    session.stop(STOP).await;
}

#[tokio::test]
async fn refused_filter_costs_only_itself() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    let documents = "$aws/things/t/shadow/name/config/+/documents";
    config
        .subscriptions
        .push(Subscription::new(documents).unwrap());
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    let mut link = peer.connected().await;
    assert_eq!(link.summary().await, "subscribe 2");
    link.raw(b"\x90\x0A\x00\x01\x05\x1F\x00\x02no\x01\x87")
        .await;
    let SessionEvent::SubscriptionRefused {
        filter,
        reason,
        message,
    } = soon(events.recv()).await.unwrap()
    else {
        panic!("no refusal")
    };
    assert_eq!(filter.as_str(), documents);
    assert_eq!(reason, ReasonCode::NOT_AUTHORIZED);
    assert_eq!(message, Some("no".into()));
    assert_eq!(soon(events.recv()).await, Ok(SessionEvent::Connected));
    assert_eq!(session.refused_subscriptions(), [filter]);
    session.stop(STOP).await;
}

#[tokio::test]
async fn no_packet_exceeds_the_maximum_packet_size() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    config.subscriptions = (0..6)
        .map(|n| Subscription::new(format!("{n}/{}", "x".repeat(33))).unwrap())
        .collect();
    let session = Session::builder(config).start().unwrap();
    let mut link = peer.accept().await;
    link.raw(&case("connack-max-packet-200")).await;
    for filters in [5, 1] {
        let Some(Packet::Subscribe(subscribe)) = link.read().await else {
            panic!("no SUBSCRIBE")
        };
        let mut bytes = bytes::BytesMut::new();
        assert!(subscribe.write(&mut bytes).unwrap() <= 200);
        assert_eq!(subscribe.filters.len(), filters);
        let mut suback = vec![0x90, 3 + filters as u8];
        suback.extend(subscribe.pkid.to_be_bytes());
        suback.push(0);
        suback.extend(vec![1; filters]);
        link.raw(&suback).await;
    }
    online(&session).await;
    session.stop(STOP).await;
}

#[tokio::test]
async fn own_messages_fit_a_server_without_qos_1_and_retained_messages() {
    let (pki, peer) = scripted().await;
    let mut config = config(&pki, peer.port, "device");
    let own = |payload| Message::new("status", payload).retained();
    config.will = Some(own("LOST"));
    config.birth = Some(own("ONLINE"));
    config.goodbye = Some(own("OFFLINE"));
    let session = Session::builder(config).start().unwrap();
    for (code, qos, retain) in [(0x9B, 1, true), (0x9A, 0, true), (0x00, 0, false)] {
        let (mut link, will) = peer.accept_with_will().await;
        assert_eq!((will.qos as u8, will.retain), (qos, retain));
        if code != 0 {
            link.raw(&[0x20, 0x03, 0x00, code, 0x00]).await;
            continue;
        }
        link.connack(Some(ConnAckProperties {
            max_qos: Some(0),
            retain_available: Some(0),
            ..no_properties()
        }))
        .await;
        link.suback(None).await;
        for payload in ["ONLINE", "OFFLINE"] {
            let Some(Packet::Publish(publish)) = link.read().await else {
                panic!("no PUBLISH")
            };
            assert_eq!(publish.payload, payload);
            assert_eq!((publish.qos as u8, publish.retain), (0, false));
            if payload == "ONLINE" {
                online(&session).await;
                let session = session.clone();
                tokio::spawn(async move { session.stop(STOP).await });
            }
        }
    }
    let refused = session.publish(Message::new("t", "x").qos(QoS::AtLeastOnce));
    assert!(refused.is_err(), "the session stops");
}
