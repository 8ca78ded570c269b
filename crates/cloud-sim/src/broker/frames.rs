//! Cuts a stream of bytes into MQTT packets. Sans-IO; only the fixed header (type and remaining
//! length) is read.

use bytes::{Bytes, BytesMut};
use mqtt5::FixedHeader;
use mqtt5::protocol::v5::reason_codes::ReasonCode;

use crate::faults::AckPacket;

/// A fixed header has at most this many bytes of length.
const MAX_LENGTH_BYTES: usize = 4;

/// The bytes of one direction of a connection that do not make a whole packet yet.
#[derive(Default)]
pub(super) struct FrameBuffer {
    pub(super) bytes: BytesMut,
}

/// One whole packet.
pub(super) struct Frame {
    pub(super) header: FixedHeader,
    /// All of it, the fixed header included.
    pub(super) bytes: Bytes,
    /// What follows the fixed header.
    pub(super) body: Bytes,
}

impl FrameBuffer {
    /// The next packet, if all of it is there. The error is the reason for which the connection has
    /// to end: it is no MQTT packet, or larger than `max` bytes.
    pub(super) fn next(&mut self, max: usize) -> Result<Option<Frame>, ReasonCode> {
        let length_bytes = self.bytes.iter().skip(1).take(MAX_LENGTH_BYTES);
        let Some(last) = length_bytes.clone().position(|byte| byte & 0x80 == 0) else {
            return if length_bytes.len() == MAX_LENGTH_BYTES {
                Err(ReasonCode::MalformedPacket)
            } else {
                Ok(None)
            };
        };
        let header_len = last + 2;
        let mut start = self.bytes.get(..header_len).unwrap_or_default();
        let header = FixedHeader::decode(&mut start).map_err(|_| ReasonCode::MalformedPacket)?;
        let length = usize::try_from(header.remaining_length).unwrap_or(usize::MAX);
        let total = header_len.saturating_add(length);
        if total > max {
            return Err(ReasonCode::PacketTooLarge);
        }
        if self.bytes.len() < total {
            return Ok(None);
        }
        let bytes = self.bytes.split_to(total).freeze();
        let body = bytes.slice(header_len..);
        Ok(Some(Frame {
            header,
            bytes,
            body,
        }))
    }
}

impl Frame {
    /// Which acknowledgement it is, if it is one that can be withheld.
    pub(super) fn acknowledgement(&self) -> Option<AckPacket> {
        match self.header.packet_type {
            mqtt5::PacketType::ConnAck => Some(AckPacket::Connack),
            mqtt5::PacketType::PubAck => Some(AckPacket::Puback),
            mqtt5::PacketType::SubAck => Some(AckPacket::Suback),
            mqtt5::PacketType::PingResp => Some(AckPacket::Pingresp),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];
    const PINGRESP: &[u8] = &[0xd0, 0];

    fn publish(size: usize) -> Vec<u8> {
        let mut packet = vec![0x30];
        mqtt5::encoding::encode_variable_int(&mut packet, u32::try_from(size).unwrap()).unwrap();
        packet.extend(std::iter::repeat_n(0x20, size));
        packet
    }

    #[test]
    fn packets_are_whole_for_any_chunk_size() {
        let big = publish(300);
        let stream = [CONNACK, &big, PINGRESP, CONNACK].concat();
        for size in 1..=stream.len() {
            let mut buffer = FrameBuffer::default();
            let mut packets = Vec::new();
            for piece in stream.chunks(size) {
                buffer.bytes.extend_from_slice(piece);
                while let Some(frame) = buffer.next(1000).unwrap() {
                    packets.push(frame);
                }
            }
            let bytes: Vec<&[u8]> = packets.iter().map(|frame| &frame.bytes[..]).collect();
            assert_eq!(bytes, [CONNACK, &big, PINGRESP, CONNACK]);
            assert_eq!(packets[1].body.len(), 300);
            assert_eq!(packets[2].acknowledgement(), Some(AckPacket::Pingresp));
        }
    }

    #[test]
    fn bad_header_has_its_reason_before_the_body_is_there() {
        for (start, expected) in [
            (
                &[0x30, 0xff, 0xff, 0xff, 0xff][..],
                ReasonCode::MalformedPacket,
            ),
            (&[0x00, 0], ReasonCode::MalformedPacket),
            (&[0x30, 0x80, 0x08], ReasonCode::PacketTooLarge),
        ] {
            let mut buffer = FrameBuffer::default();
            buffer.bytes.extend_from_slice(start);
            assert_eq!(buffer.next(1000).err(), Some(expected), "{start:?}");
        }
    }

    #[test]
    fn unfinished_header_waits() {
        for start in [&[][..], &[0x30], &[0x30, 0x80], &[0x30, 0xff, 0xff, 0xff]] {
            let mut buffer = FrameBuffer::default();
            buffer.bytes.extend_from_slice(start);
            assert!(buffer.next(1000).unwrap().is_none(), "{start:?}");
        }
    }
}
