//! Reading of the values in a received packet (MQTT 5.0, 1.5), and what can be wrong with one.

use std::fmt;

use crate::mqtt::reason_code::ReasonCode;

/// Types of packets that a server sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packet {
    ConnAck,
    Publish,
    PubAck,
    PubRec,
    PubRel,
    PubComp,
    SubAck,
    UnsubAck,
    Disconnect,
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::SubAck => "SUBACK",
            Self::UnsubAck => "UNSUBACK",
            Self::Disconnect => "DISCONNECT",
        })
    }
}

/// What is wrong with a packet, and the reason code of the DISCONNECT that answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) reason: ReasonCode,
    pub(crate) text: String,
}

impl Fault {
    pub(crate) fn new(reason: ReasonCode, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { reason, text }
    }

    pub(crate) fn malformed(text: impl Into<String>) -> Self {
        Self::new(ReasonCode::MALFORMED_PACKET, text)
    }
}

/// The unread bytes of a packet.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Returns the unread bytes.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes this many bytes.
    pub(crate) fn take(&mut self, length: usize) -> Result<&'a [u8], Fault> {
        let (taken, rest) = (self.0.split_at_checked(length))
            .ok_or_else(|| Fault::malformed("a value that is longer than its packet"))?;
        self.0 = rest;
        Ok(taken)
    }

    /// Takes `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = (self.0.split_first_chunk())
            .ok_or_else(|| Fault::malformed("a value that is longer than its packet"))?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Fault> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn two_bytes(&mut self) -> Result<u16, Fault> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn four_bytes(&mut self) -> Result<u32, Fault> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads a Variable Byte Integer (MQTT 5.0, 1.5.5). More bytes than needed are accepted.
    pub(crate) fn variable_byte(&mut self) -> Result<u32, Fault> {
        let mut number = 0;
        for position in 0..4 {
            let byte = self.byte()?;
            number |= u32::from(byte & 0x7F) << (7 * position);
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Fault::malformed("a length in more than four bytes"))
    }

    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.two_bytes()?;
        self.take(length.into())
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.binary()?).map_err(|_| Fault::malformed("text that is not UTF-8"))
    }

    /// Reads the properties with their length. Without a length there are none.
    pub(crate) fn properties(&mut self) -> Result<&'a [u8], Fault> {
        if self.is_empty() {
            return Ok(&[]);
        }
        let length = self.variable_byte()?;
        self.take(length as usize)
    }

    pub(crate) fn end(&self, packet: Packet) -> Result<(), Fault> {
        if self.is_empty() {
            return Ok(());
        }
        Err(Fault::malformed(format!(
            "{packet} with bytes after its end"
        )))
    }
}
