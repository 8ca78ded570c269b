//! The encoder: frame headers, sealed in wire order.
//!
//! The writer of the connection owns the encoder exclusively: with `aes-cbc` each header is chained
//! to the previous one, so the order of the calls *is* the order of the bytes. The encoder does not
//! process data: the writer appends it after the header, copied or chained.

use std::fmt;
use std::net::IpAddr;

use crate::codec::frame::{
    ChannelId, EXTRA_LEN, FrameType, Header, PONG_BACKPRESSURE, address_to_extra, address_to_unit,
};
use crate::crypto::cipher::{Entropy, SealError, Sealer};
use crate::version::ProtocolVersion;

/// Seals the frame headers of one direction of a connection.
pub struct Encoder {
    sealer: Sealer,
    version: ProtocolVersion,
    entropy: Box<dyn Entropy>,
}

impl Encoder {
    /// Creates an encoder that continues with the [`Sealer`] of the handshake.
    pub fn new(sealer: Sealer, version: ProtocolVersion, entropy: Box<dyn Entropy>) -> Self {
        Self {
            sealer,
            version,
            entropy,
        }
    }

    /// Appends NEW with the caller's address, if the version can carry it.
    ///
    /// # Errors
    /// [`SealError`], as for all methods here; the connection is over then.
    pub fn new_channel(
        &mut self,
        id: ChannelId,
        caller: Option<IpAddr>,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let mut extra = self.padding();
        if !self.version.has_address_unit() {
            address_to_extra(caller, &mut extra);
            return self.header(id, FrameType::New, 0, extra, out);
        }
        let mut unit = [0; 32];
        self.entropy.fill(&mut unit);
        let len = address_to_unit(caller, &mut unit);
        // The size counts the plaintext: 16 or 32 bytes.
        let size = u32::try_from(len).unwrap_or(0);
        self.header(id, FrameType::New, size, extra, out)?;
        self.sealer.seal(&unit[..len], self.entropy.as_mut(), out)
    }

    /// Appends the header of a DATA frame; `size` bytes of data must follow it.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn data(&mut self, id: ChannelId, size: u32, out: &mut Vec<u8>) -> Result<(), SealError> {
        let extra = self.padding();
        self.header(id, FrameType::Data, size, extra, out)
    }

    /// Appends a frame that consists of its header alone: CLOSE, PAUSE or RESUME.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn bare(
        &mut self,
        id: ChannelId,
        kind: FrameType,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let extra = self.padding();
        self.header(id, kind, 0, extra, out)
    }

    /// Appends a PING, either the request or the answer.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn ping(
        &mut self,
        id: ChannelId,
        answer: bool,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let mut extra = self.padding();
        extra[..4].copy_from_slice(if answer { b"pong" } else { b"ping" });
        self.header(id, FrameType::Ping, 0, extra, out)
    }

    /// Appends the answer to a PING in version 0 that says that we slow down a sender that is far
    /// ahead, by reading less.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn pong_with_backpressure(
        &mut self,
        id: ChannelId,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let mut extra = *b"pong.......";
        extra[4..].copy_from_slice(PONG_BACKPRESSURE);
        self.header(id, FrameType::Ping, 0, extra, out)
    }

    /// Appends a header as given, including its padding. For tools and tests.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn raw(&mut self, header: &Header, out: &mut Vec<u8>) -> Result<(), SealError> {
        self.sealer
            .seal(&header.to_bytes(), self.entropy.as_mut(), out)
    }

    fn header(
        &mut self,
        id: ChannelId,
        kind: FrameType,
        size: u32,
        extra: [u8; EXTRA_LEN],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let header = Header {
            id,
            kind: kind as u8,
            size,
            extra,
        };
        self.raw(&header, out)
    }

    fn padding(&mut self) -> [u8; EXTRA_LEN] {
        let mut extra = [0; EXTRA_LEN];
        self.entropy.fill(&mut extra);
        extra
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("sealer", &self.sealer)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}
