//! What AWS IoT Core refuses, leaves out or changes, and its wire format for each version of MQTT.

use std::time::Duration;

use crate::common::{LIMIT, raw_tls, register, start};
use bytes::{Buf, BufMut, Bytes};
use cloud_sim::Simulator;
use mqtt5::packet::connack::ConnAckPacket;
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::packet::disconnect::DisconnectPacket;
use mqtt5::packet::puback::PubAckPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::packet::subscribe::SubscribePacket;
use mqtt5::packet::unsubscribe::UnsubscribePacket;
use mqtt5::packet::{FixedHeader, MqttPacket, Packet};
use mqtt5::protocol::v5::properties::{PropertyId, PropertyValue};
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use mqtt5::{ConnectOptions, QoS, WillMessage};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// AWS IoT Core: bytes of a payload.
const MAX_PAYLOAD: usize = 128 * 1024;

const SHADOW: &str = "$aws/things/SN1/shadow/name/config";

/// A client that sends any packet, in either version of the protocol.
struct Client {
    stream: TlsStream<TcpStream>,
    version: u8,
}

impl Client {
    async fn connect(sim: &Simulator, thing: &Value) -> Self {
        let (client, connack) = Self::connect_with(sim, thing, connect_packet()).await;
        assert_eq!(connack.reason_code, ReasonCode::Success);
        client
    }

    async fn connect_with(
        sim: &Simulator,
        thing: &Value,
        connect: ConnectPacket,
    ) -> (Self, ConnAckPacket) {
        let mut client = Self {
            stream: raw_tls(sim, thing).await,
            version: connect.protocol_version,
        };
        client.send(&connect).await;
        match client.receive().await {
            Some(Packet::ConnAck(connack)) => (client, connack),
            other => panic!("no CONNACK: {other:?}"),
        }
    }

    async fn send(&mut self, packet: &impl MqttPacket) {
        let mut bytes = Vec::new();
        packet.encode(&mut bytes).unwrap();
        self.send_bytes(&bytes).await;
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        // The broker may have closed the connection in the middle of something too large.
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.flush().await;
    }

    /// The next packet in bytes; `None` at the end of the connection.
    async fn receive_bytes(&mut self) -> Option<Bytes> {
        let receive = async {
            let mut bytes = vec![self.stream.read_u8().await.ok()?];
            let mut length = 0;
            for shift in [0, 7, 14, 21] {
                let byte = self.stream.read_u8().await.ok()?;
                bytes.push(byte);
                length |= usize::from(byte & 0x7f) << shift;
                if byte & 0x80 == 0 {
                    break;
                }
            }
            let start = bytes.len();
            bytes.resize(start + length, 0);
            self.stream.read_exact(&mut bytes[start..]).await.ok()?;
            Some(Bytes::from(bytes))
        };
        tokio::time::timeout(LIMIT, receive)
            .await
            .expect("a packet or the end of the connection")
    }

    async fn receive(&mut self) -> Option<Packet> {
        let mut bytes = self.receive_bytes().await?;
        let header = FixedHeader::decode(&mut bytes).unwrap();
        if self.version == 4 && header.packet_type == mqtt5::PacketType::ConnAck {
            let mut connack = ConnAckPacket::new_v311(
                bytes.get_u8() & 1 == 1,
                match bytes.get_u8() {
                    0 => ReasonCode::Success,
                    _ => ReasonCode::NotAuthorized,
                },
            );
            assert!(!bytes.has_remaining(), "a CONNACK of 3.1.1 has two bytes");
            connack.protocol_version = 4;
            return Some(Packet::ConnAck(connack));
        }
        let packet = Packet::decode_from_body_with_version(
            header.packet_type,
            &header,
            &mut bytes,
            self.version,
        );
        Some(packet.unwrap())
    }

    async fn subscribe(&mut self, filters: &[&str]) {
        self.send(&subscribe(self.version, filters)).await;
        match self.receive().await {
            Some(Packet::SubAck(suback)) => {
                assert!(suback.reason_codes.iter().all(|code| code.is_success()));
            }
            other => panic!("no SUBACK: {other:?}"),
        }
    }

    async fn publish(&mut self, topic: &str, payload: &'static str) {
        let mut publish = PublishPacket::new(topic, payload, QoS::AtMostOnce);
        publish.protocol_version = self.version;
        self.send(&publish).await;
    }

    /// Publishes with QoS 1 and waits for the acknowledgement.
    async fn publish_acknowledged(&mut self, publish: PublishPacket) {
        let mut publish = publish.with_packet_id(77);
        publish.protocol_version = self.version;
        self.send(&publish).await;
        match self.receive().await {
            Some(Packet::PubAck(puback)) => assert_eq!(puback.reason_code, ReasonCode::Success),
            other => panic!("no PUBACK: {other:?}"),
        }
    }

    async fn message(&mut self) -> PublishPacket {
        match self.receive().await {
            Some(Packet::Publish(publish)) => publish,
            other => panic!("no PUBLISH: {other:?}"),
        }
    }

    /// The reason of the DISCONNECT that comes next and last.
    async fn disconnected(&mut self) -> ReasonCode {
        match self.receive().await {
            Some(Packet::Disconnect(disconnect)) => {
                assert!(self.receive_bytes().await.is_none(), "not the last packet");
                disconnect.reason_code
            }
            other => panic!("no DISCONNECT: {other:?}"),
        }
    }
}

fn connect_packet() -> ConnectPacket {
    ConnectPacket::new(ConnectOptions::new("SN1").protocol_options)
}

fn connect_v311() -> ConnectPacket {
    ConnectPacket::new_v311(ConnectOptions::new("SN1").protocol_options)
}

fn subscribe(version: u8, filters: &[&str]) -> SubscribePacket {
    let mut packet = filters
        .iter()
        .fold(SubscribePacket::new(7), |packet, filter| {
            packet.add_filter(*filter, QoS::AtLeastOnce)
        });
    packet.protocol_version = version;
    packet
}

fn publish(topic: impl Into<String>, payload: impl Into<Bytes>) -> PublishPacket {
    PublishPacket::new(topic, payload, QoS::AtLeastOnce)
}

fn encoded(packet: &impl MqttPacket) -> Vec<u8> {
    let mut bytes = Vec::new();
    packet.encode(&mut bytes).unwrap();
    bytes
}

#[tokio::test]
async fn wildcard_filter_gets_no_retained_message() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    for connect in [connect_packet(), connect_v311()] {
        let (mut client, _) = Client::connect_with(&sim, &thing, connect).await;
        client
            .publish_acknowledged(publish("c/d/SN1/state", "kept").with_retain(true))
            .await;
        // Delivery follows SUBACK or comes before it; what comes first now belongs to the exact
        // filter.
        client
            .send(&subscribe(client.version, &["c/d/SN1/+"]))
            .await;
        client
            .send(&subscribe(client.version, &["c/d/SN1/state"]))
            .await;
        let mut retained = Vec::new();
        let mut subacks = 0;
        while subacks < 2 || retained.is_empty() {
            match client.receive().await.unwrap() {
                Packet::SubAck(_) => subacks += 1,
                Packet::Publish(publish) => retained.push((publish.retain, publish.payload)),
                other => panic!("{other:?}"),
            }
        }
        client.publish("c/d/SN1/last", "live").await;
        let next = client.message().await;
        assert_eq!(next.topic_name, "c/d/SN1/last", "one retained message only");
        assert_eq!(retained, [(true, Bytes::from("kept"))]);
    }
    sim.stop().await;
}

#[tokio::test]
async fn hash_filter_does_not_match_its_parent() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut client = Client::connect(&sim, &thing).await;
    client.subscribe(&["c/d/SN1/a/#"]).await;
    for topic in ["c/d/SN1/a", "c/d/SN1/a/", "c/d/SN1/a/b", "c/d/SN1/a/b/c"] {
        client.publish(topic, "x").await;
    }
    for expected in ["c/d/SN1/a/", "c/d/SN1/a/b", "c/d/SN1/a/b/c"] {
        assert_eq!(client.message().await.topic_name, expected);
    }
    client
        .send(&UnsubscribePacket::new(8).add_filter("c/d/SN1/a/#"))
        .await;
    match client.receive().await.unwrap() {
        Packet::UnsubAck(unsuback) => {
            assert!(unsuback.reason_codes.iter().all(|code| code.is_success()));
        }
        other => panic!("{other:?}"),
    }
    client.subscribe(&["c/d/SN1/z"]).await;
    client.publish("c/d/SN1/a/b", "x").await;
    client.publish("c/d/SN1/z", "x").await;
    assert_eq!(client.message().await.topic_name, "c/d/SN1/z");
    sim.stop().await;
}

#[tokio::test]
async fn messages_carry_the_properties_of_the_sender_alone() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut client = Client::connect(&sim, &thing).await;
    client.subscribe(&["c/d/SN1/a"]).await;
    let sent = publish("c/d/SN1/a", "x")
        .with_user_property("mine".into(), "1".into())
        .with_content_type("text/plain".into())
        .with_response_topic("c/d/SN1/answer".into())
        .with_correlation_data(b"42".to_vec())
        .with_payload_format_indicator(true)
        .with_packet_id(5);
    client.send(&sent).await;
    let received = loop {
        if let Packet::Publish(publish) = client.receive().await.unwrap() {
            break publish;
        }
    };
    let sorted = |publish: &PublishPacket| {
        let mut properties: Vec<_> = publish
            .properties
            .iter()
            .map(|(id, value)| format!("{id:?} {value:?}"))
            .collect();
        properties.sort();
        properties
    };
    assert_eq!(sorted(&received), sorted(&sent));
    sim.stop().await;
}

#[tokio::test]
async fn message_expiry_is_at_most_seven_days() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut client = Client::connect(&sim, &thing).await;
    client.subscribe(&["c/d/SN1/a"]).await;
    for (sent, most) in [(u32::MAX, 604_800), (604_800, 604_800), (60, 60)] {
        let packet = PublishPacket::new("c/d/SN1/a", "x", QoS::AtMostOnce)
            .with_message_expiry_interval(sent);
        client.send(&packet).await;
        let received = client.message().await.message_expiry_interval().unwrap();
        assert!((most - 20..=most).contains(&received), "{sent}: {received}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn breach_of_a_limit_ends_the_connection_with_its_reason() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let own = |length: usize| format!("c/d/SN1/{}", "x".repeat(length - 8));
    let nine: Vec<String> = (0..9).map(|n| format!("c/d/SN1/{n}")).collect();
    let nine: Vec<&str> = nine.iter().map(String::as_str).collect();
    let unsubscribe_nine = nine
        .iter()
        .fold(UnsubscribePacket::new(8), |packet, filter| {
            packet.add_filter(*filter)
        });
    let mut qos_2 = PublishPacket::new("c/d/SN1/a", "x", QoS::ExactlyOnce);
    qos_2.packet_id = Some(9);
    let mut empty_topic = publish("", "x").with_packet_id(9);
    empty_topic.qos = QoS::AtMostOnce;
    let at_most_once = |topic: &str| PublishPacket::new(topic, "x", QoS::AtMostOnce);
    let mut qos_3 = encoded(&at_most_once("c/d/SN1/a"));
    qos_3[0] |= 0x06;
    let too_large = encoded(&publish("c/d/SN1/a", vec![0; 150_000]).with_packet_id(9));
    let breaches = [
        (
            "nine filters",
            encoded(&subscribe(5, &nine)),
            ReasonCode::QuotaExceeded,
        ),
        (
            "nine filters to leave",
            encoded(&unsubscribe_nine),
            ReasonCode::QuotaExceeded,
        ),
        (
            "a filter of 257 bytes",
            encoded(&subscribe(5, &[&own(257)])),
            ReasonCode::TopicFilterInvalid,
        ),
        (
            "a filter of eight slashes",
            encoded(&subscribe(5, &["c/d/SN1/4/5/6/7/8/9"])),
            ReasonCode::TopicFilterInvalid,
        ),
        (
            "a subscription identifier",
            encoded(&subscribe(5, &["c/d/SN1/a"]).with_subscription_identifier(3)),
            ReasonCode::SubscriptionIdentifiersNotSupported,
        ),
        (
            "a topic of 257 bytes",
            encoded(&publish(own(257), "x").with_packet_id(9)),
            ReasonCode::TopicNameInvalid,
        ),
        (
            "eight slashes",
            encoded(&at_most_once("c/d/SN1/4/5/6/7/8/9")),
            ReasonCode::TopicNameInvalid,
        ),
        (
            "a wildcard in a topic",
            encoded(&at_most_once("c/d/SN1/+")),
            ReasonCode::TopicNameInvalid,
        ),
        (
            "a payload over 128 KiB",
            encoded(&publish("c/d/SN1/a", vec![0; MAX_PAYLOAD + 1]).with_packet_id(9)),
            ReasonCode::PacketTooLarge,
        ),
        (
            "a packet over the maximum",
            too_large,
            ReasonCode::PacketTooLarge,
        ),
        (
            "an alias over the maximum",
            encoded(&at_most_once("c/d/SN1/a").with_topic_alias(9)),
            ReasonCode::TopicAliasInvalid,
        ),
        (
            "alias 0",
            encoded(&at_most_once("c/d/SN1/a").with_topic_alias(0)),
            ReasonCode::TopicAliasInvalid,
        ),
        (
            "an alias that stands for no topic",
            encoded(&at_most_once("").with_topic_alias(3)),
            ReasonCode::ProtocolError,
        ),
        ("no topic", encoded(&empty_topic), ReasonCode::ProtocolError),
        ("QoS 2", encoded(&qos_2), ReasonCode::QoSNotSupported),
        ("QoS 3", qos_3, ReasonCode::MalformedPacket),
        ("no packet type", vec![0x00, 0], ReasonCode::MalformedPacket),
        ("reserved flags", vec![0xc1, 0], ReasonCode::MalformedPacket),
        (
            "a cut packet",
            vec![0x82, 1, 0],
            ReasonCode::MalformedPacket,
        ),
        (
            "a length of five bytes",
            vec![0x30, 0x80, 0x80, 0x80, 0x80, 1],
            ReasonCode::MalformedPacket,
        ),
        (
            "a second CONNECT",
            encoded(&connect_packet()),
            ReasonCode::ProtocolError,
        ),
        (
            "a packet of servers",
            vec![0xd0, 0],
            ReasonCode::ProtocolError,
        ),
        (
            "a foreign topic with QoS 0",
            encoded(&at_most_once("c/d/SN2/status")),
            ReasonCode::NotAuthorized,
        ),
        (
            "a retained message on a reserved topic",
            encoded(&at_most_once(&format!("{SHADOW}/get")).with_retain(true)),
            ReasonCode::NotAuthorized,
        ),
    ];
    for (breach, bytes, expected) in breaches {
        let mut client = Client::connect(&sim, &thing).await;
        client.send_bytes(&bytes).await;
        assert_eq!(client.disconnected().await, expected, "{breach}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn alias_of_a_foreign_topic_gives_no_right() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut client = Client::connect(&sim, &thing).await;
    let foreign = publish("c/d/SN2/status", "x").with_topic_alias(1);
    client.send(&foreign.with_packet_id(9)).await;
    match client.receive().await.unwrap() {
        Packet::PubAck(puback) => assert_eq!(puback.reason_code, ReasonCode::NotAuthorized),
        other => panic!("{other:?}"),
    }
    let again = PublishPacket::new("", "x", QoS::AtMostOnce).with_topic_alias(1);
    client.send(&again).await;
    assert_eq!(client.disconnected().await, ReasonCode::NotAuthorized);
    sim.stop().await;
}

#[tokio::test]
async fn what_is_at_a_limit_is_accepted() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut client = Client::connect(&sim, &thing).await;
    let longest = format!("c/d/SN1/{}", "x".repeat(248));
    let eight: Vec<String> = (0..6).map(|n| format!("c/d/SN1/{n}")).collect();
    let mut eight: Vec<&str> = eight.iter().map(String::as_str).collect();
    eight.extend([longest.as_str(), "c/d/SN1/4/5/6/7/8"]);
    client.subscribe(&eight).await;
    client.publish(&longest, "x").await;
    assert_eq!(client.message().await.topic_name, longest);
    client.publish("c/d/SN1/4/5/6/7/8", "x").await;
    client.message().await;
    client
        .publish_acknowledged(publish("c/d/SN1/large", vec![0; MAX_PAYLOAD]))
        .await;
    // The first three levels of a reserved topic do not count.
    client
        .publish_acknowledged(publish("$aws/things/SN1/shadow/name/config/update", "{}"))
        .await;
    let aliased = PublishPacket::new("c/d/SN1/1", "x", QoS::AtMostOnce).with_topic_alias(8);
    client.send(&aliased).await;
    client.message().await;
    client
        .send(&PublishPacket::new("", "again", QoS::AtMostOnce).with_topic_alias(8))
        .await;
    let again = client.message().await;
    assert_eq!(
        (again.topic_name.as_str(), &again.payload[..]),
        ("c/d/SN1/1", &b"again"[..])
    );
    sim.stop().await;
}

#[tokio::test]
async fn keep_alive_out_of_range_is_replaced_by_the_server() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    for (asked, granted) in [
        (0, Some(1200)),
        (1201, Some(1200)),
        (1200, None),
        (60, None),
        (30, None),
        (5, Some(30)),
    ] {
        let mut connect = connect_packet();
        connect.keep_alive = asked;
        let (_, connack) = Client::connect_with(&sim, &thing, connect).await;
        assert_eq!(
            connack.properties.get_server_keep_alive(),
            granted,
            "{asked}"
        );
    }
    sim.stop().await;
}

#[tokio::test]
async fn will_for_a_topic_without_rights_is_refused() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    for (topic, expected) in [
        ("c/d/SN2/status", ReasonCode::NotAuthorized),
        ("c/platform", ReasonCode::NotAuthorized),
        ("c/d/SN1/+", ReasonCode::TopicNameInvalid),
        ("c/d/SN1/#", ReasonCode::TopicNameInvalid),
        ("c/d/SN1/status", ReasonCode::Success),
    ] {
        for connect in [connect_packet(), connect_v311()] {
            let mut connect = connect;
            connect.will = Some(WillMessage::new(topic, "{}"));
            let version = connect.protocol_version;
            let (mut client, connack) = Client::connect_with(&sim, &thing, connect).await;
            if version == 5 {
                assert_eq!(connack.reason_code, expected, "{topic}");
            }
            let refused = connack.reason_code != ReasonCode::Success;
            assert_eq!(refused, expected != ReasonCode::Success, "{topic}");
            if refused {
                assert!(client.receive_bytes().await.is_none());
            }
        }
    }
    sim.stop().await;
}

#[tokio::test]
async fn will_expiry_is_at_most_seven_days() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut listener = connect_packet();
    listener.client_id = "SN1-proof".to_owned();
    let (mut listener, _) = Client::connect_with(&sim, &thing, listener).await;
    listener.subscribe(&["c/d/SN1/status"]).await;
    let mut connect = connect_packet();
    connect.will = Some(WillMessage::new("c/d/SN1/status", "{}"));
    connect
        .will_properties
        .add(
            PropertyId::MessageExpiryInterval,
            PropertyValue::FourByteInteger(u32::MAX),
        )
        .unwrap();
    drop(Client::connect_with(&sim, &thing, connect).await);
    let expiry = listener.message().await.message_expiry_interval().unwrap();
    assert!((604_780..=604_800).contains(&expiry), "{expiry}");
    sim.stop().await;
}

#[tokio::test]
async fn client_of_3_1_1_is_sent_3_1_1() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut connect = connect_v311();
    connect.clean_start = false;
    let (mut client, connack) = Client::connect_with(&sim, &thing, connect.clone()).await;
    assert!(!connack.session_present);
    client
        .send(&subscribe(4, &["c/d/SN1/a", "c/d/SN2/a"]))
        .await;
    assert_eq!(
        client.receive_bytes().await.unwrap()[..],
        [0x90, 4, 0, 7, 1, 0x80]
    );
    let mut message = publish("c/d/SN1/a", "x").with_packet_id(9);
    message.protocol_version = 4;
    client.send(&message).await;
    let (mut puback, mut delivered) = (None, None);
    while puback.is_none() || delivered.is_none() {
        let packet = client.receive_bytes().await.unwrap();
        match packet[0] >> 4 {
            3 => delivered = Some(packet),
            _ => puback = Some(packet),
        }
    }
    assert_eq!(puback.unwrap()[..], [0x40, 2, 0, 9]);
    let delivered = delivered.unwrap();
    assert_eq!(delivered[..13], *b"\x32\x0e\0\x09c/d/SN1/a");
    assert_eq!(delivered[15..], *b"x", "no properties before the payload");
    let id = u16::from_be_bytes([delivered[13], delivered[14]]);
    client.send(&PubAckPacket::new(id)).await;
    client.send_bytes(&[0xc0, 0]).await;
    assert_eq!(client.receive_bytes().await.unwrap()[..], [0xd0, 0]);

    // The session is kept, and what it missed is delivered.
    client.send_bytes(&[0xe0, 0]).await;
    assert!(client.receive_bytes().await.is_none());
    let mut other = connect_packet();
    other.client_id = "SN1-proof".to_owned();
    let (mut other, _) = Client::connect_with(&sim, &thing, other).await;
    other
        .publish_acknowledged(publish("c/d/SN1/a", "missed"))
        .await;
    let (mut client, connack) = Client::connect_with(&sim, &thing, connect).await;
    assert!(connack.session_present);
    assert_eq!(client.message().await.payload, "missed");

    let mut unsubscribe = UnsubscribePacket::new(8).add_filter("c/d/SN1/a");
    unsubscribe.protocol_version = 4;
    client.send(&unsubscribe).await;
    assert_eq!(client.receive_bytes().await.unwrap()[..], [0xb0, 2, 0, 8]);

    // Taken over: the connection ends without a packet.
    let _second = Client::connect(&sim, &thing).await;
    assert!(client.receive_bytes().await.is_none());
    sim.stop().await;
}

#[tokio::test]
async fn foreign_publish_of_3_1_1_ends_the_connection() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
        let (mut client, _) = Client::connect_with(&sim, &thing, connect_v311()).await;
        let mut foreign = PublishPacket::new_v311("c/d/SN2/status", "x", qos);
        foreign.packet_id = (qos == QoS::AtLeastOnce).then_some(4);
        client.send(&foreign).await;
        assert!(client.receive_bytes().await.is_none(), "{qos:?}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn qos_2_of_3_1_1_gets_no_answer() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let (mut client, _) = Client::connect_with(&sim, &thing, connect_v311()).await;
    let mut exactly_once = PublishPacket::new_v311("c/d/SN1/a", "x", QoS::ExactlyOnce);
    exactly_once.packet_id = Some(4);
    client.send(&exactly_once).await;
    client.send_bytes(&[0xc0, 0]).await;
    assert_eq!(client.receive_bytes().await.unwrap()[..], [0xd0, 0]);
    sim.stop().await;
}

#[tokio::test]
async fn unknown_version_of_the_protocol_is_refused_in_its_own_form() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    for (version, expected) in [(3, &[0x20, 2, 0, 1][..]), (6, &[0x20, 3, 0, 0x84, 0])] {
        let mut stream = raw_tls(&sim, &thing).await;
        let mut bytes = Vec::new();
        bytes.put_slice(b"\x10\x0f\0\x04MQTT");
        bytes.put_slice(&[version, 2, 0, 60, 0, 3]);
        bytes.put_slice(b"SN1");
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(crate::common::rest(stream).await, expected, "{version}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn tls_without_server_name_is_refused() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    for (name, accepted) in [("localhost", true), ("127.0.0.1", false)] {
        let connected = crate::common::try_raw_tls(&sim, &thing, name).await;
        // TLS 1.3 completes for the client before the server has judged; reading tells.
        let served = match connected {
            Err(_) => false,
            Ok(mut stream) => {
                let quiet =
                    tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await;
                quiet.is_err()
            }
        };
        assert_eq!(served, accepted, "{name}");
    }
    sim.stop().await;
}

#[tokio::test]
async fn disconnect_of_the_client_is_not_answered() {
    let sim = start().await;
    let thing = register(&sim, "SN1").await;
    let mut client = Client::connect(&sim, &thing).await;
    client.send(&DisconnectPacket::normal()).await;
    assert!(client.receive_bytes().await.is_none());
    sim.stop().await;
}
