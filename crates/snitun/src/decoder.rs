//! The reading end of the codec: bytes in, frames out, in pieces as they arrive.
//!
//! A frame may announce 4 GiB; the decoder neither waits for it nor makes room for it. DATA comes out as the pieces that
//! the input happens to hold, cut from the input buffer without copying. What the protocol tells us to ignore (unknown
//! types, data where none belongs, a NEW with a malformed address) is skipped here up to a limit, so that the multiplexer only
//! sees frames that mean something.

use std::fmt;
use std::net::IpAddr;

use bytes::{Buf, BytesMut};

use crate::cipher::{BadUnit, Opener};
use crate::frame::{
    ChannelId, EXTRA_LEN, FrameType, HEADER_LEN, Header, MAX_ADDRESS_LEN, address_from_extra,
    address_from_unit,
};
use crate::version::ProtocolVersion;

/// What came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// The peer opens a channel.
    New {
        /// The new channel.
        id: ChannelId,
        /// The public caller's address, where the version and the peer carry it.
        caller: Option<IpAddr>,
    },
    /// A piece of channel data, never empty. One frame may come as many pieces.
    Data {
        /// The channel.
        id: ChannelId,
        /// The bytes, cut from the input buffer.
        data: BytesMut,
    },
    /// The peer closes the channel.
    Close {
        /// The channel.
        id: ChannelId,
    },
    /// The peer wants a sign of life.
    Ping {
        /// To be repeated in the answer.
        id: ChannelId,
    },
    /// The answer to a ping of ours.
    Pong {
        /// The id of the ping.
        id: ChannelId,
    },
    /// The peer's queue for this channel is full enough.
    Pause {
        /// The channel.
        id: ChannelId,
    },
    /// The peer's queue for this channel has room again.
    Resume {
        /// The channel.
        id: ChannelId,
    },
    /// A NEW whose address cannot be read; it opens nothing.
    MalformedNew {
        /// The channel that is not opened.
        id: ChannelId,
    },
}

impl Incoming {
    /// The channel, or the ping, that this is about.
    pub fn id(&self) -> ChannelId {
        match self {
            Self::New { id, .. }
            | Self::Data { id, .. }
            | Self::Close { id }
            | Self::Ping { id }
            | Self::Pong { id }
            | Self::Pause { id }
            | Self::Resume { id }
            | Self::MalformedNew { id } => *id,
        }
    }

    /// A short name for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::New { .. } => "new",
            Self::Data { .. } => "data",
            Self::Close { .. } => "close",
            Self::Ping { .. } => "ping",
            Self::Pong { .. } => "pong",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::MalformedNew { .. } => "malformed new",
        }
    }
}

/// Why the bytes of a connection cannot be understood any further. The connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A header or address does not decrypt.
    #[error(transparent)]
    BadUnit(#[from] BadUnit),
    /// A NEW announces an address longer than any address is.
    #[error(
        "the peer announces a caller's address of {0} bytes; it speaks another version or another key is in use"
    )]
    AddressTooLong(u32),
    /// A frame announces more data than [`MAX_SKIPPED`] that would have no meaning.
    #[error(
        "the peer announces {0} bytes of data without a meaning; the connection is garbled, or the peer speaks another version or another key is in use"
    )]
    SkippedTooLong(u32),
}

/// Data without a meaning (of an unknown type, or where none belongs) that is skipped for one frame: four times the largest
/// frame of the reference. With `aes-cbc` a header that is garbled decrypts to random bytes, which nearly always announce more
/// than this; to skip that would be to wait for a gigabyte instead of connecting again.
pub const MAX_SKIPPED: u32 = 16 * 1024 * 1024;

/// Reads frames from one direction of one connection.
pub struct Decoder {
    opener: Opener,
    version: ProtocolVersion,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// A header is next.
    Header,
    /// The encrypted address of a NEW is next: its length on the wire.
    Address { id: ChannelId, wire_len: usize },
    /// Channel data is next: how much of the frame is still to come.
    Data { id: ChannelId, left: usize },
    /// Data that nobody wants is next.
    Skip { left: usize },
}

impl Decoder {
    /// A decoder that goes on where the handshake left its [`Opener`].
    pub fn new(opener: Opener, version: ProtocolVersion) -> Self {
        Self {
            opener,
            version,
            state: State::Header,
        }
    }

    /// Takes the next frame, or piece of one, off the front of `input`; `None` when more bytes are needed.
    ///
    /// # Errors
    /// [`DecodeError`]; do not call this again then.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Incoming>, DecodeError> {
        loop {
            match self.state {
                State::Header => {
                    let wire_len = HEADER_LEN + self.opener.cipher().overhead();
                    let Some(unit) = input.get_mut(..wire_len) else {
                        return Ok(None);
                    };
                    let header = self
                        .opener
                        .open(unit)?
                        .first_chunk()
                        .map(Header::from_bytes)
                        .ok_or(BadUnit)?;
                    input.advance(wire_len);
                    if let Some(incoming) = self.begin(&header)? {
                        return Ok(Some(incoming));
                    }
                }
                State::Address { id, wire_len } => {
                    let Some(unit) = input.get_mut(..wire_len) else {
                        return Ok(None);
                    };
                    let address = address_from_unit(self.opener.open(unit)?);
                    input.advance(wire_len);
                    self.state = State::Header;
                    return Ok(Some(match address {
                        Ok(caller) => Incoming::New { id, caller },
                        Err(_) => Incoming::MalformedNew { id },
                    }));
                }
                State::Data { id, left } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let data = input.split_to(left.min(input.len()));
                    self.state = match left - data.len() {
                        0 => State::Header,
                        left => State::Data { id, left },
                    };
                    return Ok(Some(Incoming::Data { id, data }));
                }
                State::Skip { left } => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let skipped = left.min(input.len());
                    input.advance(skipped);
                    self.state = skip(left - skipped);
                }
            }
        }
    }

    /// Whether the decoder stands between two frames, where an end of the stream cuts nothing.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header)
    }

    /// Acts on a header: sets the state for what follows it.
    fn begin(&mut self, header: &Header) -> Result<Option<Incoming>, DecodeError> {
        let id = header.id;
        let size = usize::try_from(header.size).unwrap_or(usize::MAX);
        self.state = skip(size);
        let kind = FrameType::from_byte(header.kind);
        let has_data = match kind {
            Some(FrameType::Data) => true,
            Some(FrameType::New) => self.version.has_address_unit(),
            _ => false,
        };
        if !has_data && header.size > MAX_SKIPPED {
            return Err(DecodeError::SkippedTooLong(header.size));
        }
        let incoming = match kind {
            Some(FrameType::New) if self.version.has_address_unit() => {
                if size > MAX_ADDRESS_LEN {
                    return Err(DecodeError::AddressTooLong(header.size));
                }
                self.state = State::Header;
                if size == 0 {
                    Incoming::MalformedNew { id }
                } else {
                    let wire_len = size + self.opener.cipher().overhead();
                    self.state = State::Address { id, wire_len };
                    return Ok(None);
                }
            }
            Some(FrameType::New) => Incoming::New {
                id,
                caller: address_from_extra(&header.extra),
            },
            Some(FrameType::Data) => {
                if size > 0 {
                    self.state = State::Data { id, left: size };
                }
                return Ok(None);
            }
            Some(FrameType::Close) => Incoming::Close { id },
            Some(FrameType::Ping) if is_answer(&header.extra) => Incoming::Pong { id },
            Some(FrameType::Ping) => Incoming::Ping { id },
            Some(FrameType::Pause) if self.version.has_flow_control() => Incoming::Pause { id },
            Some(FrameType::Resume) if self.version.has_flow_control() => Incoming::Resume { id },
            Some(FrameType::Pause | FrameType::Resume) | None => return Ok(None),
        };
        Ok(Some(incoming))
    }
}

fn skip(left: usize) -> State {
    match left {
        0 => State::Header,
        left => State::Skip { left },
    }
}

fn is_answer(extra: &[u8; EXTRA_LEN]) -> bool {
    extra.starts_with(b"pong")
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("opener", &self.opener)
            .field("version", &self.version)
            .field("state", &self.state)
            .finish()
    }
}
