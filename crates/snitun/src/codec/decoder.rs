//! The decoder: bytes in, frames out, in pieces as they arrive.
//!
//! A frame may announce 4 GiB; the decoder neither waits nor allocates for it. DATA is returned in
//! the pieces that the input happens to contain, cut from the input buffer without copying. Data
//! that the protocol requires to ignore (unknown types, unexpected data, a NEW with a malformed
//! address) is skipped here up to a limit, so that the multiplexer only sees valid frames.

use std::fmt;
use std::net::IpAddr;

use bytes::{Buf, BytesMut};

use crate::codec::frame::{
    ChannelId, EXTRA_LEN, FrameType, HEADER_LEN, Header, MAX_ADDRESS_LEN, PONG_BACKPRESSURE,
    address_from_extra, address_from_unit,
};
use crate::crypto::cipher::{DecryptError, Opener};
use crate::version::ProtocolVersion;

/// A received frame.
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
    /// The peer sends a ping.
    Ping {
        /// The id, which the answer repeats.
        id: ChannelId,
    },
    /// The answer to our ping.
    Pong {
        /// The id of the ping.
        id: ChannelId,
        /// The peer slows down a sender that is far ahead, although it cannot pause one.
        has_backpressure: bool,
    },
    /// The peer's queue for this channel is above its threshold.
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
    /// Returns the id of the channel or the ping.
    pub fn id(&self) -> ChannelId {
        match self {
            Self::New { id, .. }
            | Self::Data { id, .. }
            | Self::Close { id }
            | Self::Ping { id }
            | Self::Pong { id, .. }
            | Self::Pause { id }
            | Self::Resume { id }
            | Self::MalformedNew { id } => *id,
        }
    }

    /// Returns a short name for logs.
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

/// The reason why the bytes of a connection cannot be decoded. The connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A header or address does not decrypt.
    #[error(transparent)]
    Decrypt(#[from] DecryptError),
    /// A NEW announces an address that is too long.
    #[error(
        "the peer announces a caller's address of {0} bytes; it uses another protocol version or another key"
    )]
    AddressTooLong(u32),
    /// A frame announces more than [`MAX_SKIPPED`] bytes of unexpected data.
    #[error(
        "the peer announces {0} bytes of unexpected data; the connection is garbled, or the peer uses another protocol version or another key"
    )]
    SkippedTooLong(u32),
}

/// Maximum bytes of unexpected data (of an unknown type, or for a type without data) that is
/// skipped for one frame: four times the largest frame of the reference. With `aes-cbc` a garbled
/// header decrypts to random bytes, which nearly always announce more than this; skipping that
/// would mean to wait for a gigabyte instead of reconnecting.
pub const MAX_SKIPPED: u32 = 16 * 1024 * 1024;

/// Decodes the frames of one direction of a connection.
pub struct Decoder {
    opener: Opener,
    version: ProtocolVersion,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Expects a header.
    Header,
    /// Expects the encrypted address of a NEW, of this length on the wire.
    Address { id: ChannelId, wire_len: usize },
    /// Expects channel data: the bytes of the frame still to come.
    Data { id: ChannelId, left: usize },
    /// Skips unexpected data.
    Skip { left: usize },
}

impl Decoder {
    /// Creates a decoder that continues with the [`Opener`] of the handshake.
    pub fn new(opener: Opener, version: ProtocolVersion) -> Self {
        Self {
            opener,
            version,
            state: State::Header,
        }
    }

    /// Decodes the next frame, or piece of one, from the start of `input`; `None` when more bytes
    /// are needed.
    ///
    /// # Errors
    /// [`DecodeError`]; do not call this method again then.
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
                        .ok_or(DecryptError)?;
                    input.advance(wire_len);
                    if let Some(incoming) = self.handle_header(&header)? {
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

    /// Returns whether the decoder is between two frames, where an end of the stream truncates
    /// nothing.
    pub fn is_between_frames(&self) -> bool {
        matches!(self.state, State::Header)
    }

    /// Handles a header: sets the state for the data that follows.
    fn handle_header(&mut self, header: &Header) -> Result<Option<Incoming>, DecodeError> {
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
            Some(FrameType::Ping) if is_answer(&header.extra) => Incoming::Pong {
                id,
                has_backpressure: header.extra[ANSWER.len()..] == *PONG_BACKPRESSURE,
            },
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

/// Start of the extra of an answer to a PING.
const ANSWER: &[u8] = b"pong";

fn is_answer(extra: &[u8; EXTRA_LEN]) -> bool {
    extra.starts_with(ANSWER)
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
