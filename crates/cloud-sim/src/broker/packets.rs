//! Leaves chosen packets out of a stream of MQTT packets.
//!
//! Sans-IO: bytes in, bytes out, in whatever pieces they come. Only the fixed header (type and remaining length) is
//! looked at. This is not a codec, and it holds nothing back except the few bytes of an unfinished fixed header.

use crate::faults::AckPacket;

/// A fixed header is the type byte and at most four bytes of length.
const MAX_HEADER: usize = 5;

/// The filter of one direction of one connection.
pub(crate) struct PacketFilter {
    state: State,
}

/// What remains of a stream, and where in it packets end.
#[derive(Default)]
pub(crate) struct Filtered {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Filtered {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }

    /// The bytes in pieces that belong to one packet each.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        let ends = self.ends.iter().copied().chain([self.bytes.len()]);
        starts
            .zip(ends)
            .filter_map(|(start, end)| self.bytes.get(start..end))
            .filter(|piece| !piece.is_empty())
    }
}

enum State {
    /// Collecting a fixed header.
    Header { bytes: [u8; MAX_HEADER], len: usize },
    /// Inside a packet, with this many bytes to come.
    Body { left: usize, keep: bool },
    /// The stream is not MQTT (a length of more than four bytes): everything passes as it is.
    Opaque,
}

impl PacketFilter {
    pub(crate) fn new() -> Self {
        Self {
            state: State::empty_header(),
        }
    }

    /// Takes the next bytes and appends what remains of them to `output`. `withhold` is asked once for each packet
    /// of a type that can be withheld.
    pub(crate) fn push(
        &mut self,
        mut input: &[u8],
        output: &mut Filtered,
        mut withhold: impl FnMut(AckPacket) -> bool,
    ) {
        while let Some((&first, rest)) = input.split_first() {
            match &mut self.state {
                State::Opaque => {
                    output.bytes.extend_from_slice(input);
                    return;
                }
                State::Header { bytes, len } => {
                    input = rest;
                    if let Some(slot) = bytes.get_mut(*len) {
                        *slot = first;
                    }
                    *len += 1;
                    let header = bytes.get(..*len).unwrap_or_default();
                    if header.len() > 1 && first & 0x80 == 0 {
                        let keep = !ack_packet(header).is_some_and(&mut withhold);
                        if keep {
                            output.bytes.extend_from_slice(header);
                        }
                        let left = remaining_length(header);
                        self.state = State::body(left, keep);
                        if left == 0 {
                            output.ends.push(output.bytes.len());
                        }
                    } else if header.len() == MAX_HEADER {
                        output.bytes.extend_from_slice(header);
                        self.state = State::Opaque;
                    }
                }
                State::Body { left, keep } => {
                    let (body, rest) = input.split_at((*left).min(input.len()));
                    if *keep {
                        output.bytes.extend_from_slice(body);
                    }
                    *left -= body.len();
                    if *left == 0 {
                        self.state = State::empty_header();
                        output.ends.push(output.bytes.len());
                    }
                    input = rest;
                }
            }
        }
    }
}

impl State {
    fn empty_header() -> Self {
        Self::Header {
            bytes: [0; MAX_HEADER],
            len: 0,
        }
    }

    fn body(left: usize, keep: bool) -> Self {
        if left == 0 {
            Self::empty_header()
        } else {
            Self::Body { left, keep }
        }
    }
}

/// The acknowledgement that a fixed header begins, if it is one that can be withheld.
fn ack_packet(header: &[u8]) -> Option<AckPacket> {
    match header.first()? >> 4 {
        2 => Some(AckPacket::Connack),
        4 => Some(AckPacket::Puback),
        9 => Some(AckPacket::Suback),
        13 => Some(AckPacket::Pingresp),
        _ => None,
    }
}

fn remaining_length(header: &[u8]) -> usize {
    header
        .iter()
        .skip(1)
        .enumerate()
        .fold(0, |length, (place, byte)| {
            length | usize::from(byte & 0x7f) << (7 * place)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];
    const PUBACK: &[u8] = &[0x40, 2, 0, 7];
    const SUBACK: &[u8] = &[0x90, 4, 0, 1, 0, 0];
    const PINGRESP: &[u8] = &[0xd0, 0];

    fn publish(size: usize) -> Vec<u8> {
        let mut packet = vec![0x30];
        let mut length = size;
        loop {
            let byte = u8::try_from(length & 0x7f).unwrap();
            length >>= 7;
            packet.push(if length > 0 { byte | 0x80 } else { byte });
            if length == 0 {
                break;
            }
        }
        packet.extend(std::iter::repeat_n(0x20, size));
        packet
    }

    /// Runs a stream through the filter in pieces of every size.
    fn filtered(stream: &[u8], withheld: AckPacket) -> Vec<u8> {
        let mut results = (1..=stream.len()).map(|size| {
            let (mut filter, mut output) = (PacketFilter::new(), Filtered::default());
            for piece in stream.chunks(size) {
                filter.push(piece, &mut output, |packet| packet == withheld);
            }
            output.bytes
        });
        let first = results.next().unwrap();
        assert!(results.all(|other| other == first));
        first
    }

    #[test]
    fn leaves_out_the_chosen_type_alone() {
        let big = publish(300);
        let stream = [CONNACK, PUBACK, &big, SUBACK, PINGRESP, PUBACK].concat();
        assert_eq!(
            filtered(&stream, AckPacket::Puback),
            [CONNACK, &big, SUBACK, PINGRESP].concat()
        );
        assert_eq!(
            filtered(&stream, AckPacket::Pingresp),
            [CONNACK, PUBACK, &big, SUBACK, PUBACK].concat()
        );
        assert_eq!(
            filtered(&stream, AckPacket::Connack),
            stream[CONNACK.len()..]
        );
    }

    #[test]
    fn asks_once_for_each_packet() {
        let (mut filter, mut output, mut asked) = (PacketFilter::new(), Filtered::default(), 0);
        for byte in [SUBACK, SUBACK].concat() {
            filter.push(&[byte], &mut output, |_| {
                asked += 1;
                asked == 1
            });
        }
        assert_eq!((asked, output.bytes.as_slice()), (2, SUBACK));
    }

    #[test]
    fn pieces_end_where_packets_end() {
        let stream = [CONNACK, PINGRESP, PUBACK, &SUBACK[..3]].concat();
        let (mut filter, mut output) = (PacketFilter::new(), Filtered::default());
        filter.push(&stream, &mut output, |packet| packet == AckPacket::Puback);
        assert_eq!(
            output.pieces().collect::<Vec<_>>(),
            [CONNACK, PINGRESP, &SUBACK[..3]]
        );
    }

    #[test]
    fn what_is_not_mqtt_passes() {
        let noise = [0xff; 40];
        assert_eq!(filtered(&noise, AckPacket::Connack), noise);
    }
}
