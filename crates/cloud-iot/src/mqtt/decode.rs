//! Decoding of the packets that a server sends.
//!
//! rumqttc encodes the packets of this crate, and decodes none of them. Its decoder refuses reason
//! codes that it does not know, refuses the short forms of DISCONNECT, and miscounts the length of
//! properties (several Subscription Identifiers in a PUBLISH move the start of the payload). Each
//! of these ends a connection, or damages a message, again and again.
//!
//! A fault of a PUBLISH leaves the bounds of the packet readable, and mostly its packet identifier.
//! Such a message can be acknowledged and dropped, so that the server does not send it again on
//! every connection.

use bytes::Bytes;
use cloud_net::UntrustedText;
use zeroize::Zeroizing;

use crate::mqtt::message_properties::MessageProperties;
use crate::mqtt::property::{self, Value, read_properties};
use crate::mqtt::reader::{Fault, Packet, Reader};
use crate::mqtt::reason_code::ReasonCode;

/// A received packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    ConnAck(ConnAck),
    /// A CONNACK in the form of MQTT 3.1.1.
    ConnAckOfMqtt311,
    Publish(Publish),
    /// A PUBLISH that cannot be delivered.
    UndeliverablePublish(Undeliverable),
    PubAck {
        packet_id: u16,
        reason: ReasonCode,
    },
    SubAck(SubAck),
    PingResp,
    Disconnect {
        reason: ReasonCode,
        message: Option<UntrustedText>,
    },
    /// A packet of an exchange that this crate never starts.
    Unexpected {
        packet: Packet,
        packet_id: u16,
    },
}

/// CONNACK, with the properties that matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ConnAck {
    pub(crate) session_present: bool,
    pub(crate) reason: ReasonCode,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) maximum_qos: Option<u8>,
    pub(crate) retain_available: Option<bool>,
    pub(crate) maximum_packet: Option<u32>,
    pub(crate) server_keep_alive: Option<u16>,
    /// The server's words.
    pub(crate) message: Option<UntrustedText>,
}

/// SUBACK: a reason code for each filter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SubAck {
    pub(crate) packet_id: u16,
    pub(crate) codes: Vec<ReasonCode>,
    /// The server's words.
    pub(crate) message: Option<UntrustedText>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) topic: String,
    /// Wiped from memory when its last clone is dropped, because it may be a private key.
    pub(crate) payload: Bytes,
    pub(crate) properties: Option<Box<MessageProperties>>,
    /// Whether it is at QoS 1.
    pub(crate) at_least_once: bool,
    pub(crate) retain: bool,
    pub(crate) duplicate: bool,
    /// 0 at QoS 0.
    pub(crate) packet_id: u16,
}

/// A PUBLISH that cannot be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Undeliverable {
    pub(crate) qos: u8,
    /// 0 at QoS 0, and if it could not be read.
    pub(crate) packet_id: u16,
    pub(crate) duplicate: bool,
    pub(crate) fault: Fault,
    /// Whether it ends the connection, unless it has done so before. Otherwise it is only dropped.
    pub(crate) ends_connection: bool,
}

/// Returns the length of the first packet, or `None` while its header is incomplete.
pub(crate) fn packet_length(bytes: &[u8]) -> Result<Option<usize>, Fault> {
    let Some((_, rest)) = bytes.split_first() else {
        return Ok(None);
    };
    let mut reader = Reader::new(rest);
    match reader.variable_byte() {
        Ok(length) => Ok(Some(bytes.len() - reader.rest().len() + length as usize)),
        Err(_) if rest.len() < 4 => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Returns whether the packet that begins with this byte is a PUBLISH.
pub(crate) fn is_publish(first: u8) -> bool {
    first >> 4 == 3
}

/// Decodes the start of a PUBLISH that is too large to be received; `None` while the start is
/// incomplete.
pub(crate) fn oversized_publish(bytes: &[u8], fault: Fault) -> Option<Undeliverable> {
    let mut reader = Reader::new(bytes);
    let first = reader.byte().ok()?;
    reader.variable_byte().ok()?;
    reader.binary().ok()?;
    let qos = qos(first);
    Some(Undeliverable {
        qos,
        packet_id: if qos == 0 {
            0
        } else {
            reader.two_bytes().ok()?
        },
        duplicate: is_duplicate(first),
        fault,
        ends_connection: true,
    })
}

fn qos(first: u8) -> u8 {
    (first >> 1) & 3
}

fn is_duplicate(first: u8) -> bool {
    first & 0b1000 != 0
}

/// Decodes one complete packet. With `lenient`, properties that cannot be read are left out, unless
/// they belong to a PUBLISH.
pub(crate) fn decode(packet: &[u8], lenient: bool) -> Result<Received, Fault> {
    let mut reader = Reader::new(packet);
    let first = reader.byte()?;
    reader.variable_byte()?;
    let kind = match first >> 4 {
        2 => return connack(reader, lenient),
        3 => return Ok(publish(first, reader)),
        4 => return puback(reader),
        5 => Packet::PubRec,
        6 => Packet::PubRel,
        7 => Packet::PubComp,
        9 => return suback(reader, lenient),
        11 => Packet::UnsubAck,
        13 => return Ok(Received::PingResp),
        14 => return disconnect(reader),
        0 => return Err(Fault::malformed("a packet of the reserved type 0")),
        other => {
            return Err(Fault::new(
                ReasonCode::PROTOCOL_ERROR,
                format!("a packet of type {other}, which servers do not send here"),
            ));
        }
    };
    Ok(Received::Unexpected {
        packet: kind,
        packet_id: reader.two_bytes()?,
    })
}

fn connack(mut reader: Reader<'_>, lenient: bool) -> Result<Received, Fault> {
    let flags = reader.byte()?;
    let reason = ReasonCode(reader.byte()?);
    // MQTT 3.1.1 has no properties, and its return codes are below those of MQTT 5.
    if reader.is_empty() && reason.0 <= 5 || (1..=5).contains(&reason.0) {
        return Ok(Received::ConnAckOfMqtt311);
    }
    let mut connack = ConnAck {
        session_present: flags & 1 == 1,
        reason,
        ..ConnAck::default()
    };
    let read = reader.properties().and_then(|bytes| {
        read_properties(Packet::ConnAck, bytes, |id, value| match (id, value) {
            (property::RECEIVE_MAXIMUM, Value::Number(number)) => {
                connack.receive_maximum = u16::try_from(number).ok();
            }
            (property::MAXIMUM_QOS, Value::Number(number)) => {
                connack.maximum_qos = u8::try_from(number).ok();
            }
            (property::RETAIN_AVAILABLE, Value::Number(number)) => {
                connack.retain_available = Some(number == 1);
            }
            (property::MAXIMUM_PACKET_SIZE, Value::Number(number)) => {
                connack.maximum_packet = Some(number);
            }
            (property::SERVER_KEEP_ALIVE, Value::Number(number)) => {
                connack.server_keep_alive = u16::try_from(number).ok();
            }
            (property::REASON_STRING, Value::Text(text)) => connack.message = Some(text.into()),
            _ => {}
        })
    });
    // The reason of a refusal matters more than its form.
    if !reason.is_failure() && !lenient {
        read?;
    }
    Ok(Received::ConnAck(connack))
}

fn publish(first: u8, mut reader: Reader<'_>) -> Received {
    let mut undeliverable = Undeliverable {
        qos: qos(first),
        packet_id: 0,
        duplicate: is_duplicate(first),
        fault: Fault::malformed(""),
        ends_connection: true,
    };
    match deliverable(first, &mut reader, &mut undeliverable) {
        Ok(publish) => Received::Publish(publish),
        Err(fault) => {
            undeliverable.fault = fault;
            Received::UndeliverablePublish(undeliverable)
        }
    }
}

/// Decodes a PUBLISH. Before a fault, `undeliverable` receives what could be read.
fn deliverable(
    first: u8,
    reader: &mut Reader<'_>,
    undeliverable: &mut Undeliverable,
) -> Result<Publish, Fault> {
    let qos = qos(first);
    let topic = reader.binary()?;
    let shown = UntrustedText::from_bytes(topic);
    let about = |fault: Fault| Fault {
        text: format!("{} (topic {shown})", fault.text),
        ..fault
    };
    if qos > 0 {
        undeliverable.packet_id = reader.two_bytes().map_err(about)?;
        if undeliverable.packet_id == 0 {
            return Err(about(Fault::malformed(
                "PUBLISH with the packet identifier 0",
            )));
        }
    }
    let properties = (reader.properties())
        .and_then(MessageProperties::decode)
        .map_err(about)?;
    if qos > 1 {
        let text = format!("PUBLISH at QoS {qos}, which was not requested");
        return Err(about(Fault::new(ReasonCode::PROTOCOL_ERROR, text)));
    }
    let topic = match std::str::from_utf8(topic) {
        Ok("") => {
            undeliverable.ends_connection = false;
            let text = "PUBLISH without a topic; no topic alias was offered";
            return Err(Fault::new(ReasonCode::PROTOCOL_ERROR, text));
        }
        Ok(topic) => topic.to_owned(),
        Err(_) => {
            undeliverable.ends_connection = false;
            return Err(about(Fault::malformed("PUBLISH whose topic is not UTF-8")));
        }
    };
    Ok(Publish {
        topic,
        payload: Bytes::from_owner(Zeroizing::new(reader.rest().to_vec())),
        properties,
        at_least_once: qos == 1,
        retain: first & 1 == 1,
        duplicate: undeliverable.duplicate,
        packet_id: undeliverable.packet_id,
    })
}

/// Decodes a PUBACK (MQTT 5.0, 3.4.2). Reason code and properties are optional; the properties must
/// fill the packet, but their content is not needed.
fn puback(mut reader: Reader<'_>) -> Result<Received, Fault> {
    let packet_id = reader.two_bytes()?;
    let reason = if reader.is_empty() {
        ReasonCode::SUCCESS
    } else {
        ReasonCode(reader.byte()?)
    };
    if !reader.is_empty() {
        reader.properties()?;
        reader.end(Packet::PubAck)?;
    }
    Ok(Received::PubAck { packet_id, reason })
}

fn suback(mut reader: Reader<'_>, lenient: bool) -> Result<Received, Fault> {
    let packet_id = reader.two_bytes()?;
    let mut message = None;
    let read = read_properties(Packet::SubAck, reader.properties()?, |id, value| {
        if let (property::REASON_STRING, Value::Text(text)) = (id, value) {
            message = Some(text.into());
        }
    });
    if !lenient {
        read?;
    }
    let codes = reader.rest().iter().copied().map(ReasonCode).collect();
    Ok(Received::SubAck(SubAck {
        packet_id,
        codes,
        message,
    }))
}

/// Decodes a DISCONNECT. Reason code and properties are optional.
fn disconnect(mut reader: Reader<'_>) -> Result<Received, Fault> {
    if reader.is_empty() {
        return Ok(Received::Disconnect {
            reason: ReasonCode::SUCCESS,
            message: None,
        });
    }
    let reason = ReasonCode(reader.byte()?);
    let mut message = None;
    // The reason matters more than the form of the properties.
    let _ = reader.properties().and_then(|bytes| {
        read_properties(Packet::Disconnect, bytes, |id, value| {
            if let (property::REASON_STRING, Value::Text(text)) = (id, value) {
                message = Some(text.into());
            }
        })
    });
    Ok(Received::Disconnect { reason, message })
}

#[cfg(test)]
mod tests;
