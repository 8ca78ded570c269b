//! Properties of received packets (MQTT 5.0, 2.2.2.2).

use crate::mqtt::reader::{Fault, Packet, Reader};
use crate::mqtt::reason_code::ReasonCode;

pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(crate) const MAXIMUM_QOS: u8 = 0x24;
pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(crate) const REASON_STRING: u8 = 0x1F;
pub(crate) const MESSAGE_EXPIRY: u8 = 0x02;
pub(crate) const CONTENT_TYPE: u8 = 0x03;
pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
pub(crate) const CORRELATION_DATA: u8 = 0x09;
const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
pub(crate) const USER_PROPERTY: u8 = 0x26;

/// Data type of a property (MQTT 5.0, 1.5).
#[derive(Clone, Copy)]
enum Kind {
    Byte,
    TwoBytes,
    FourBytes,
    VariableByte,
    Text,
    Binary,
    TextPair,
}

/// A property's value. A Variable Byte Integer is checked and skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    Number(u32),
    Text(&'a str),
    Binary(&'a [u8]),
    TextPair(&'a str, &'a str),
    Skipped,
}

/// Returns the type of a property and the packets that may have it.
fn definition(id: u8) -> Option<(Kind, &'static [Packet])> {
    use Packet::{ConnAck, Disconnect, Publish, SubAck};
    Some(match id {
        0x01 => (Kind::Byte, &[Publish]),
        MESSAGE_EXPIRY => (Kind::FourBytes, &[Publish]),
        CONTENT_TYPE | RESPONSE_TOPIC => (Kind::Text, &[Publish]),
        CORRELATION_DATA => (Kind::Binary, &[Publish]),
        SUBSCRIPTION_IDENTIFIER => (Kind::VariableByte, &[Publish]),
        0x23 => (Kind::TwoBytes, &[Publish]),
        0x11 => (Kind::FourBytes, &[ConnAck, Disconnect]),
        0x1C => (Kind::Text, &[ConnAck, Disconnect]),
        0x12 | 0x15 | 0x1A => (Kind::Text, &[ConnAck]),
        0x16 => (Kind::Binary, &[ConnAck]),
        SERVER_KEEP_ALIVE | RECEIVE_MAXIMUM | 0x22 => (Kind::TwoBytes, &[ConnAck]),
        MAXIMUM_QOS | RETAIN_AVAILABLE | 0x28 | 0x29 | 0x2A => (Kind::Byte, &[ConnAck]),
        MAXIMUM_PACKET_SIZE => (Kind::FourBytes, &[ConnAck]),
        REASON_STRING => (Kind::Text, &[ConnAck, SubAck, Disconnect]),
        USER_PROPERTY => (Kind::TextPair, &[ConnAck, Publish, SubAck, Disconnect]),
        _ => return None,
    })
}

/// Reads the properties of a packet, and passes each to `take`.
///
/// The fault is that of the first property that cannot be read. Those before it were passed.
pub(crate) fn read_properties<'a>(
    packet: Packet,
    bytes: &'a [u8],
    mut take: impl FnMut(u8, Value<'a>),
) -> Result<(), Fault> {
    let mut reader = Reader::new(bytes);
    // One bit for each identifier; the standard has none above 0x2A.
    let mut seen = 0_u64;
    while !reader.is_empty() {
        let id = reader.byte()?;
        let Some((kind, packets)) = definition(id) else {
            return Err(Fault::malformed(format!(
                "{packet} with the unknown property 0x{id:02X}"
            )));
        };
        if !packets.contains(&packet) {
            return Err(Fault::malformed(format!(
                "{packet} with the property 0x{id:02X}, which it cannot have"
            )));
        }
        let bit = 1 << id;
        if seen & bit != 0 && !matches!(id, SUBSCRIPTION_IDENTIFIER | USER_PROPERTY) {
            return Err(Fault::new(
                ReasonCode::PROTOCOL_ERROR,
                format!("{packet} with two properties 0x{id:02X}"),
            ));
        }
        seen |= bit;
        let value = read_value(&mut reader, kind).map_err(|fault| {
            Fault::malformed(format!("{packet}, property 0x{id:02X}: {}", fault.text))
        })?;
        take(id, value);
    }
    Ok(())
}

fn read_value<'a>(reader: &mut Reader<'a>, kind: Kind) -> Result<Value<'a>, Fault> {
    Ok(match kind {
        Kind::Byte => Value::Number(reader.byte()?.into()),
        Kind::TwoBytes => Value::Number(reader.two_bytes()?.into()),
        Kind::FourBytes => Value::Number(reader.four_bytes()?),
        Kind::VariableByte => {
            reader.variable_byte()?;
            Value::Skipped
        }
        Kind::Text => Value::Text(reader.text()?),
        Kind::Binary => Value::Binary(reader.binary()?),
        Kind::TextPair => Value::TextPair(reader.text()?, reader.text()?),
    })
}
