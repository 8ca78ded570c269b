//! The frame header: 32 bytes at the start of each frame.
//!
//! This module defines only the layout: the [cipher](crate::Cipher) encrypts it, the
//! [decoder](crate::Decoder) and the [encoder](crate::Encoder) interpret it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::hex;

/// Bytes of a header before encryption.
pub const HEADER_LEN: usize = 32;
/// Bytes at the end of a header for the frame type's use; the rest of them is random.
pub const EXTRA_LEN: usize = 11;
/// Follows `pong` in the extra of an answer in version 0: the end that answers slows down a sender
/// that is far ahead, by reading less. The Python package puts random bytes there and ignores them.
pub(crate) const PONG_BACKPRESSURE: &[u8; 7] = b"bounded";

/// Maximum plaintext of a version 2 address unit. An address needs 5 or 17 bytes, padded to 16 or
/// 32; this leaves room for one more family.
pub(crate) const MAX_ADDRESS_LEN: usize = 64;

/// Identifies a channel on the wire: 16 random bytes, chosen by the end that opens it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub [u8; 16]);

impl fmt::Display for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for ChannelId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChannelId({self})")
    }
}

/// The frame types, with their numbers on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameType {
    /// Opens a channel.
    New = 0x01,
    /// Carries channel bytes.
    Data = 0x02,
    /// Ends a channel in both directions.
    Close = 0x04,
    /// Ping request or answer.
    Ping = 0x08,
    /// Asks the peer to stop sending on a channel (from version 1).
    Pause = 0x16,
    /// Ends a PAUSE (from version 1).
    Resume = 0x32,
}

impl FrameType {
    /// Returns the type with this number, if it exists.
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0x01 => Some(Self::New),
            0x02 => Some(Self::Data),
            0x04 => Some(Self::Close),
            0x08 => Some(Self::Ping),
            0x16 => Some(Self::Pause),
            0x32 => Some(Self::Resume),
            _ => None,
        }
    }
}

/// A decrypted header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The channel, or the id of a PING, which its answer repeats.
    pub id: ChannelId,
    /// The frame type's number, which may be unknown.
    pub kind: u8,
    /// Number of bytes of data that follow (before encryption, if they are encrypted).
    pub size: u32,
    /// Data of the frame type, then random bytes.
    pub extra: [u8; EXTRA_LEN],
}

impl Header {
    /// Serializes the header.
    pub fn to_bytes(&self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..16].copy_from_slice(&self.id.0);
        bytes[16] = self.kind;
        bytes[17..21].copy_from_slice(&self.size.to_be_bytes());
        bytes[21..].copy_from_slice(&self.extra);
        bytes
    }

    /// Parses a header; any bytes are a header, possibly of an unknown type.
    pub fn from_bytes(bytes: &[u8; HEADER_LEN]) -> Self {
        let mut header = Self {
            id: ChannelId([0; 16]),
            kind: bytes[16],
            size: u32::from_be_bytes([bytes[17], bytes[18], bytes[19], bytes[20]]),
            extra: [0; EXTRA_LEN],
        };
        header.id.0.copy_from_slice(&bytes[..16]);
        header.extra.copy_from_slice(&bytes[21..]);
        header
    }
}

/// Parses the address in a NEW header before version 2: IPv4 only; all zeros stand for another
/// family.
pub(crate) fn address_from_extra(extra: &[u8; EXTRA_LEN]) -> Option<IpAddr> {
    let octets: [u8; 4] = extra.get(1..5)?.try_into().ok()?;
    let address = Ipv4Addr::from(octets);
    (extra[0] == b'4' && !address.is_unspecified()).then_some(IpAddr::V4(address))
}

/// Writes the address in the format of versions before 2.
pub(crate) fn address_to_extra(address: Option<IpAddr>, extra: &mut [u8; EXTRA_LEN]) {
    let address = match address {
        Some(IpAddr::V4(address)) => address,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    extra[0] = b'4';
    extra[1..5].copy_from_slice(&address.octets());
}

/// Parses the address in a version 2 unit: `Err` if it is truncated or of an unknown family,
/// `Ok(None)` if it is the unspecified address.
pub(crate) fn address_from_unit(unit: &[u8]) -> Result<Option<IpAddr>, MalformedAddress> {
    let (family, rest) = unit.split_first().ok_or(MalformedAddress)?;
    let address = match family {
        b'4' => {
            let octets = rest.first_chunk::<4>().ok_or(MalformedAddress)?;
            IpAddr::V4(Ipv4Addr::from(*octets))
        }
        b'6' => {
            let octets = rest.first_chunk::<16>().ok_or(MalformedAddress)?;
            IpAddr::V6(Ipv6Addr::from(*octets))
        }
        _ => return Err(MalformedAddress),
    };
    Ok((!address.is_unspecified()).then_some(address))
}

/// Writes the address as a version 2 unit into `unit`, which the caller has filled with random
/// bytes, and returns its length including the padding.
pub(crate) fn address_to_unit(address: Option<IpAddr>, unit: &mut [u8; 32]) -> usize {
    match address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)) {
        IpAddr::V4(address) => {
            unit[0] = b'4';
            unit[1..5].copy_from_slice(&address.octets());
            16
        }
        IpAddr::V6(address) => {
            unit[0] = b'6';
            unit[1..17].copy_from_slice(&address.octets());
            32
        }
    }
}

/// The address of a NEW is truncated or of an unknown family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MalformedAddress;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_round_trips() {
        let header = Header {
            id: ChannelId([7; 16]),
            kind: 0x16,
            size: 0x0102_0304,
            extra: [9; EXTRA_LEN],
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes[16..21], [0x16, 1, 2, 3, 4]);
        assert_eq!(Header::from_bytes(&bytes), header);
    }

    #[test]
    fn addresses_round_trip_per_version() {
        let v4: IpAddr = "192.0.2.7".parse().unwrap();
        let v6: IpAddr = "2001:db8::17".parse().unwrap();
        for address in [Some(v4), Some(v6), None] {
            let mut unit = [0xee; 32];
            let len = address_to_unit(address, &mut unit);
            assert_eq!(address_from_unit(&unit[..len]), Ok(address));
            let mut extra = [0xee; EXTRA_LEN];
            address_to_extra(address, &mut extra);
            assert_eq!(
                address_from_extra(&extra),
                address.filter(|address| address.is_ipv4())
            );
        }
        assert_eq!(address_from_unit(b"4\x01\x02\x03"), Err(MalformedAddress));
        assert_eq!(
            address_from_unit(b"6\x01\x02\x03\x04"),
            Err(MalformedAddress)
        );
        assert_eq!(address_from_unit(b""), Err(MalformedAddress));
    }
}
