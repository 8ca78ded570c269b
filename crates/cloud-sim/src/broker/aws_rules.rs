//! What AWS IoT Core does with packets and the broker behind this does not.
//!
//! Sans-IO: a packet goes in, and what becomes of it comes out. One value for each connection. It
//! holds clients to the broker's [`limits`](super::limits), rewrites what AWS understands otherwise
//! than the MQTT specification, and speaks MQTT 3.1.1 to a client that does: the broker is spoken
//! to in MQTT 5 alone.
//!
//! Choices where AWS's documents do not say how a limit is enforced: the connection ends with the
//! reason code that the MQTT 5 specification has for it, so that no fault of a device stays hidden.
//! That includes a RETAIN flag on a reserved topic, which is taken for a publish without rights.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use mqtt5::packet::MqttPacket;
use mqtt5::packet::connack::ConnAckPacket;
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::packet::disconnect::DisconnectPacket;
use mqtt5::packet::puback::PubAckPacket;
use mqtt5::packet::publish::PublishPacket;
use mqtt5::packet::subscribe::{RetainHandling, SubscribePacket};
use mqtt5::packet::unsubscribe::UnsubscribePacket;
use mqtt5::protocol::v5::properties::{Properties, PropertyId, PropertyValue};
use mqtt5::protocol::v5::reason_codes::ReasonCode;
use mqtt5::{MqttError, Packet, PacketType, QoS};

use super::acl::Identity;
use super::frames::Frame;
use super::limits::{
    MAX_FILTERS, MAX_MESSAGE_EXPIRY, MAX_PAYLOAD, TOPIC_ALIASES, exceeds_topic_limits,
    granted_keep_alive, is_reserved, silence_limit,
};

/// The version byte of MQTT 3.1.1.
const V311: u8 = 4;

/// The version byte of MQTT 5.
const V5: u8 = 5;

/// Where CONNECT has its version: behind the protocol's name and its length.
const VERSION_OFFSET: usize = 6;

/// What the broker library adds to each message.
const ADDED_PROPERTIES: [&str; 2] = ["x-mqtt-sender", "x-mqtt-client-id"];

/// What becomes of a packet of the client.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// The broker gets these bytes.
    Forward(Bytes),
    /// Nothing happens.
    Ignore,
    /// The connection ends.
    Refuse(Refusal),
}

/// What becomes of a packet of the broker.
#[derive(Debug, PartialEq)]
pub(super) enum Outgoing {
    /// The client gets these bytes.
    Send(Bytes),
    /// The connection ends without a packet, as MQTT 3.1.1 has it.
    Close,
}

/// Why a connection ends, and the packet that says so if the client's version has one.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) reason: ReasonCode,
    pub(super) message: &'static str,
    pub(super) packet: Option<Bytes>,
}

/// The reason code and the words for a breach of the rules.
type Breach = (ReasonCode, &'static str);

/// The rules for one connection.
pub(super) struct AwsRules {
    identity: Option<Identity>,
    version: u8,
    is_connected: bool,
    /// In seconds, as granted.
    keep_alive: Option<u16>,
    server_keep_alive: Option<u16>,
    explains_problems: bool,
    /// The topics that aliases stand for.
    aliases: HashMap<u16, String>,
}

impl AwsRules {
    pub(super) fn new(identity: Option<Identity>) -> Self {
        Self {
            identity,
            version: V5,
            is_connected: false,
            keep_alive: None,
            server_keep_alive: None,
            explains_problems: true,
            aliases: HashMap::new(),
        }
    }

    /// How long the client may be silent; `None` before its CONNECT.
    pub(super) fn silence_limit(&self) -> Option<Duration> {
        self.keep_alive.map(silence_limit)
    }

    /// The end of a connection with a packet that could not be cut out of the stream.
    pub(super) fn unreadable(&self, reason: ReasonCode) -> Refusal {
        self.refusal((reason, "not an MQTT packet, or one over the maximum size"))
    }

    pub(super) fn keep_alive_missed(&self) -> Refusal {
        self.refusal((
            ReasonCode::KeepAliveTimeout,
            "nothing received for one and a half times the keep-alive",
        ))
    }

    /// Judges a packet of the client.
    pub(super) fn on_client_packet(&mut self, frame: &Frame) -> Verdict {
        let judged = if self.is_connected {
            self.packet(frame)
        } else {
            self.connect(frame)
        };
        judged.unwrap_or_else(|breach| Verdict::Refuse(self.refusal(breach)))
    }

    fn refusal(&self, (reason, message): Breach) -> Refusal {
        let explanation = || message.to_owned();
        let packet = match (self.is_connected, self.version) {
            (true, V311) => None,
            (true, _) if self.explains_problems => {
                encoded(&DisconnectPacket::new(reason).with_reason_string(explanation())).ok()
            }
            (true, _) => encoded(&DisconnectPacket::new(reason)).ok(),
            (false, V311) => encoded(&ConnAckPacket::new_v311(false, reason)).ok(),
            (false, _) if self.explains_problems => {
                encoded(&ConnAckPacket::new(false, reason).with_reason_string(explanation())).ok()
            }
            (false, _) => encoded(&ConnAckPacket::new(false, reason)).ok(),
        };
        Refusal {
            reason,
            message,
            packet,
        }
    }

    fn connect(&mut self, frame: &Frame) -> Result<Verdict, Breach> {
        if frame.header.packet_type != PacketType::Connect {
            return Ok(Verdict::Refuse(Refusal {
                reason: ReasonCode::ProtocolError,
                message: "the first packet is not CONNECT",
                packet: None,
            }));
        }
        if let Some(version) = frame.body.get(VERSION_OFFSET)
            && ![V311, V5].contains(version)
        {
            self.version = if *version < V5 { V311 } else { V5 };
            // A client of another version may not know what a reason string is.
            self.explains_problems = false;
            return Err((
                ReasonCode::UnsupportedProtocolVersion,
                "a version of MQTT other than 3.1.1 and 5",
            ));
        }
        let Packet::Connect(mut connect) = self.decode(frame)? else {
            return Err(malformed());
        };
        self.version = connect.protocol_version;
        self.explains_problems = connect
            .properties
            .get_request_problem_information()
            .unwrap_or(true);
        self.check_will(&connect)?;
        limit_expiry(&mut connect.will_properties);
        let granted = granted_keep_alive(connect.keep_alive);
        self.keep_alive = Some(granted);
        self.server_keep_alive = (granted != connect.keep_alive).then_some(granted);
        // The broker's own timer comes second: it closes the connection without a reason.
        connect.keep_alive = granted.saturating_mul(2);
        if self.version == V311 {
            connect.protocol_version = V5;
            if !connect.clean_start {
                connect.properties.set_session_expiry_interval(u32::MAX);
            }
        }
        self.is_connected = true;
        forward(&*connect)
    }

    fn check_will(&self, connect: &ConnectPacket) -> Result<(), Breach> {
        let Some(will) = &connect.will else {
            return Ok(());
        };
        check_topic(&will.topic)?;
        if will.payload.len() > MAX_PAYLOAD {
            return Err((ReasonCode::PacketTooLarge, "the will is over 128 KiB"));
        }
        if !self.may_publish(&will.topic) {
            return Err((
                ReasonCode::NotAuthorized,
                "no right to the topic of the will",
            ));
        }
        check_retain(&will.topic, will.retain)
    }

    fn packet(&mut self, frame: &Frame) -> Result<Verdict, Breach> {
        match self.decode(frame)? {
            Packet::Publish(publish) => self.publish(publish, frame),
            Packet::Subscribe(subscribe) => self.subscribe(subscribe),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(unsubscribe),
            Packet::PubAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::PingReq
            | Packet::Disconnect(_) => Ok(Verdict::Forward(frame.bytes.clone())),
            Packet::Connect(_) => Err((ReasonCode::ProtocolError, "a second CONNECT")),
            _ => Err((ReasonCode::ProtocolError, "not a packet of a client")),
        }
    }

    fn publish(&mut self, mut publish: PublishPacket, frame: &Frame) -> Result<Verdict, Breach> {
        if publish.qos == QoS::ExactlyOnce {
            // MQTT 3.1.1 has no way to refuse: the message is never acknowledged.
            return match self.version {
                V311 => Ok(Verdict::Ignore),
                _ => Err((ReasonCode::QoSNotSupported, "QoS 2 is not supported")),
            };
        }
        if publish.payload.len() > MAX_PAYLOAD {
            return Err((ReasonCode::PacketTooLarge, "the payload is over 128 KiB"));
        }
        if !publish.properties.subscription_identifiers().is_empty() {
            return Err((
                ReasonCode::ProtocolError,
                "a client's PUBLISH has a subscription identifier",
            ));
        }
        let alias = publish.topic_alias();
        if alias.is_some_and(|alias| !(1..=TOPIC_ALIASES).contains(&alias)) {
            return Err((ReasonCode::TopicAliasInvalid, "a topic alias is 1 to 8"));
        }
        let topic = if publish.topic_name.is_empty() {
            alias
                .and_then(|alias| self.aliases.get(&alias))
                .ok_or((
                    ReasonCode::ProtocolError,
                    "neither a topic nor an alias that stands for one",
                ))?
                .clone()
        } else {
            check_topic(&publish.topic_name)?;
            publish.topic_name.clone()
        };
        // In MQTT 5 the acknowledgement of QoS 1 says it.
        let is_acknowledged = publish.qos == QoS::AtLeastOnce && self.version == V5;
        if !(self.may_publish(&topic) || is_acknowledged) {
            return Err((
                ReasonCode::NotAuthorized,
                "no right to publish on this topic",
            ));
        }
        check_retain(&topic, publish.retain)?;
        if let Some(alias) = alias {
            self.aliases.insert(alias, topic);
        }
        if let Some(PropertyValue::Utf8String(topic)) =
            publish.properties.get(PropertyId::ResponseTopic)
        {
            check_topic(topic)?;
        }
        let is_changed = limit_expiry(&mut publish.properties) || self.version == V311;
        if !is_changed {
            return Ok(Verdict::Forward(frame.bytes.clone()));
        }
        publish.protocol_version = V5;
        forward(&publish)
    }

    fn subscribe(&self, mut subscribe: SubscribePacket) -> Result<Verdict, Breach> {
        if subscribe.properties.get_subscription_identifier().is_some() {
            return Err((
                ReasonCode::SubscriptionIdentifiersNotSupported,
                "subscription identifiers are not supported",
            ));
        }
        check_filters(subscribe.filters.iter().map(|filter| &filter.filter))?;
        for filter in &mut subscribe.filters {
            if self.version == V311 && filter.options.qos == QoS::ExactlyOnce {
                return Ok(Verdict::Ignore);
            }
            if filter.filter.contains(['+', '#']) {
                filter.options.retain_handling = RetainHandling::DoNotSend;
            }
            filter.filter = without_parent(&filter.filter);
        }
        subscribe.protocol_version = V5;
        forward(&subscribe)
    }

    fn unsubscribe(&self, mut unsubscribe: UnsubscribePacket) -> Result<Verdict, Breach> {
        check_filters(unsubscribe.filters.iter())?;
        for filter in &mut unsubscribe.filters {
            *filter = without_parent(filter);
        }
        unsubscribe.protocol_version = V5;
        forward(&unsubscribe)
    }

    fn may_publish(&self, topic: &str) -> bool {
        // The broker refuses a client without an identity.
        self.identity
            .as_ref()
            .is_none_or(|identity| identity.may_publish(topic))
    }

    fn decode(&self, frame: &Frame) -> Result<Packet, Breach> {
        decode(frame, self.version).map_err(|error| match error {
            MqttError::ProtocolError(_) | MqttError::DuplicatePropertyId(_) => {
                (ReasonCode::ProtocolError, "a packet against the protocol")
            }
            _ => malformed(),
        })
    }

    /// Puts a packet of the broker into what AWS would send.
    pub(super) fn on_broker_packet(&self, frame: &Frame) -> Result<Outgoing, MqttError> {
        let is_v311 = self.version == V311;
        let unchanged = || Ok(Outgoing::Send(frame.bytes.clone()));
        let packet = match frame.header.packet_type {
            PacketType::Publish => decode(frame, V5)?,
            PacketType::ConnAck if is_v311 || self.server_keep_alive.is_some() => {
                decode(frame, V5)?
            }
            _ if is_v311 => decode(frame, V5)?,
            _ => return unchanged(),
        };
        match packet {
            Packet::ConnAck(connack) if is_v311 => send(&ConnAckPacket::new_v311(
                connack.session_present,
                connack.reason_code,
            )),
            Packet::ConnAck(mut connack) => match self.server_keep_alive {
                Some(keep_alive) if connack.reason_code == ReasonCode::Success => {
                    connack.properties.set_server_keep_alive(keep_alive);
                    send(&connack)
                }
                _ => unchanged(),
            },
            Packet::Publish(mut publish) => {
                for key in ADDED_PROPERTIES {
                    publish.properties.remove_user_property_by_key(key);
                }
                publish.protocol_version = self.version;
                send(&publish)
            }
            Packet::SubAck(mut suback) => {
                suback.protocol_version = self.version;
                send(&suback)
            }
            Packet::UnsubAck(mut unsuback) => {
                unsuback.protocol_version = self.version;
                send(&unsuback)
            }
            Packet::PubAck(puback) if puback.reason_code.is_error() => Ok(Outgoing::Close),
            Packet::PubAck(puback) => send(&PubAckPacket::new(puback.packet_id)),
            Packet::Disconnect(_) => Ok(Outgoing::Close),
            _ => unchanged(),
        }
    }
}

fn malformed() -> Breach {
    (ReasonCode::MalformedPacket, "a malformed packet")
}

fn check_topic(topic: &str) -> Result<(), Breach> {
    if mqtt5::is_valid_topic_name(topic) && !exceeds_topic_limits(topic) {
        return Ok(());
    }
    Err((
        ReasonCode::TopicNameInvalid,
        "a topic has no wildcards, at most 256 bytes and at most 7 slashes",
    ))
}

fn check_retain(topic: &str, retain: bool) -> Result<(), Breach> {
    if retain && is_reserved(topic) {
        return Err((
            ReasonCode::NotAuthorized,
            "a message on a reserved topic cannot be retained",
        ));
    }
    Ok(())
}

fn check_filters<'a>(filters: impl ExactSizeIterator<Item = &'a String>) -> Result<(), Breach> {
    if filters.len() > MAX_FILTERS {
        return Err((
            ReasonCode::QuotaExceeded,
            "more than 8 topic filters at once",
        ));
    }
    for filter in filters {
        if exceeds_topic_limits(filter) {
            return Err((
                ReasonCode::TopicFilterInvalid,
                "a topic filter has at most 256 bytes and at most 7 slashes",
            ));
        }
    }
    Ok(())
}

/// A filter that matches in the broker what `filter` matches in AWS IoT Core, where `a/#` does not
/// match `a`.
fn without_parent(filter: &str) -> String {
    match filter.strip_suffix("/#") {
        Some(parent) => format!("{parent}/+/#"),
        None => filter.to_owned(),
    }
}

/// Shortens a message's life to what the broker grants; `true` if it was longer.
fn limit_expiry(properties: &mut Properties) -> bool {
    let is_longer = properties
        .get_message_expiry_interval()
        .is_some_and(|seconds| seconds > MAX_MESSAGE_EXPIRY);
    if is_longer {
        let mut limited = Properties::new();
        for (id, value) in properties.iter() {
            let value = match id {
                PropertyId::MessageExpiryInterval => {
                    PropertyValue::FourByteInteger(MAX_MESSAGE_EXPIRY)
                }
                _ => value.clone(),
            };
            // They were read from a packet, so that none is there twice that must not be.
            let _ = limited.add(id, value);
        }
        *properties = limited;
    }
    is_longer
}

fn decode(frame: &Frame, version: u8) -> Result<Packet, MqttError> {
    Packet::decode_from_body_with_version(
        frame.header.packet_type,
        &frame.header,
        &mut frame.body.clone(),
        version,
    )
}

fn encoded(packet: &impl MqttPacket) -> Result<Bytes, MqttError> {
    let mut bytes = Vec::new();
    packet.encode(&mut bytes)?;
    Ok(bytes.into())
}

fn forward(packet: &impl MqttPacket) -> Result<Verdict, Breach> {
    encoded(packet)
        .map(Verdict::Forward)
        .map_err(|_| malformed())
}

fn send(packet: &impl MqttPacket) -> Result<Outgoing, MqttError> {
    encoded(packet).map(Outgoing::Send)
}
