//! MQTT packets over a byte stream: a buffer for each direction, and rumqttc's codec.
//!
//! Queued packets leave with one write. After a write error, received data is still read: a server
//! sends the reason before it closes a connection, and a device that is sending would otherwise see
//! only a broken pipe.
//!
//! The codec receives complete packets only. It decodes DISCONNECT in its longest form only, while
//! servers send the short ones, and PUBACK with the known reason codes only. An unknown code would
//! end the connection, and its message would be resent on every connection. So both packets are
//! decoded here.
//!
//! A packet may contain a private key, so received data is wiped when it leaves the buffer, which
//! lives as long as the connection.
//!
//! Not here: the meaning of packets. Invariants: no operation blocks; memory for a packet is
//! allocated only after its length is checked against the announced maximum.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rumqttc::v5::mqttbytes::Error as CodecError;
use rumqttc::v5::mqttbytes::v5::{Packet, check};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use zeroize::Zeroize;

use crate::error::cause::Cause;
use crate::mqtt::reason_code::ReasonCode;

/// Capacity for a read: several packets of the usual size.
const READ_BYTES: usize = 4096;

/// An empty buffer with a larger capacity is released.
const KEEP_BYTES: usize = 64 << 10;

/// First byte of a DISCONNECT.
const DISCONNECT: u8 = 0xE0;

/// First byte of a PUBACK.
const PUBACK: u8 = 0x40;

/// A received packet.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is taken apart at once"
)]
#[derive(Debug, PartialEq)]
pub(crate) enum Received {
    /// PUBACK. The reader interprets the code: from 0x80 on it is a refusal (MQTT 5.0, 2.4).
    PubAck { packet_id: u16, reason: ReasonCode },
    /// Any other packet.
    Packet(Packet),
}

#[derive(Debug)]
pub(crate) struct Framed<S> {
    stream: S,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Maximum received packet, as announced to the server.
    max_incoming: u32,
    /// Bytes queued since the start, and those that the stream has accepted.
    queued: u64,
    written: u64,
    /// Whether the stream may have unflushed data.
    unflushed: bool,
    /// Whether the stream was not writable; and whether it has accepted data since.
    blocked: bool,
    progress: bool,
    /// Why writing failed. The end of the readable data follows.
    broken: Option<Cause>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    pub(crate) fn new(stream: S, max_incoming: u32) -> Self {
        Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            max_incoming,
            queued: 0,
            written: 0,
            unflushed: false,
            blocked: false,
            progress: false,
            broken: None,
        }
    }

    /// Queues a packet for [`poll_write`](Self::poll_write), and returns the position of its end.
    pub(crate) fn queue(&mut self, packet: &Packet) -> Result<u64, Cause> {
        let before = self.outgoing.len();
        packet
            .write(&mut self.outgoing, None)
            .map_err(|error| Cause::Internal(error.to_string()))?;
        self.queued += (self.outgoing.len() - before) as u64;
        Ok(self.queued)
    }

    /// Returns the position up to which the stream has accepted the queued bytes.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Returns whether the stream has become writable again since the last call.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Returns the number of queued bytes that the stream has not accepted.
    pub(crate) fn backlog(&self) -> usize {
        self.outgoing.len()
    }

    /// Sends as much as the stream accepts. [`poll_packet`](Self::poll_packet) reports an error.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>) {
        while !self.outgoing.is_empty() && self.broken.is_none() {
            match Pin::new(&mut self.stream).poll_write(cx, &self.outgoing) {
                Poll::Pending => {
                    self.blocked = true;
                    break;
                }
                Poll::Ready(Ok(0)) => self.broken = Some(Cause::Closed { soon: false }),
                Poll::Ready(Ok(taken)) => {
                    self.outgoing.advance(taken);
                    self.written += taken as u64;
                    self.unflushed = true;
                    self.progress |= std::mem::take(&mut self.blocked);
                }
                Poll::Ready(Err(error)) => self.broken = Some(Cause::from(&error)),
            }
        }
        release(&mut self.outgoing);
        if self.unflushed && self.broken.is_none() {
            match Pin::new(&mut self.stream).poll_flush(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => self.broken = Some(Cause::from(&error)),
            }
        }
    }

    /// Closes the sending side.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // An error does not matter any more.
        Pin::new(&mut self.stream).poll_shutdown(cx).map(drop)
    }

    /// Returns the next packet. Everything that ends the connection, including DISCONNECT, is an
    /// error.
    pub(crate) fn poll_packet(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, Cause>> {
        loop {
            if let Some(packet) = self.decode()? {
                return Poll::Ready(Ok(packet));
            }
            release(&mut self.incoming);
            self.incoming.reserve(READ_BYTES);
            let read = pin!(self.stream.read_buf(&mut self.incoming)).poll(cx);
            match ready!(read) {
                Ok(0) => {
                    let closed = Cause::Closed { soon: false };
                    return Poll::Ready(Err(self.broken.take().unwrap_or(closed)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(Cause::from(&error))),
            }
        }
    }

    /// Decodes a complete packet from the received data, if there is one.
    fn decode(&mut self) -> Result<Option<Received>, Cause> {
        let length = match check(self.incoming.iter(), Some(self.max_incoming)) {
            Ok(header) => header.frame_length(),
            Err(CodecError::InsufficientBytes(_)) => return Ok(None),
            Err(error) => return Err(malformed(&error)),
        };
        let mut frame = BytesMut::from(&self.incoming[..length]);
        self.incoming[..length].zeroize();
        self.incoming.advance(length);
        if let Some(reason) = short_disconnect(&frame) {
            return Err(Cause::disconnected(reason, None));
        }
        if let Some((packet_id, reason)) = puback(&frame) {
            return Ok(Some(Received::PubAck { packet_id, reason }));
        }
        match Packet::read(&mut frame, None) {
            Ok(Packet::Disconnect(packet)) => {
                let message = packet.properties.and_then(|p| p.reason_string);
                Err(Cause::disconnected(packet.reason_code.into(), message))
            }
            Ok(packet) => Ok(Some(Received::Packet(packet))),
            Err(error) => Err(malformed(&error)),
        }
    }

    /// Sends one packet and waits until the stream has accepted it.
    pub(crate) async fn send(&mut self, packet: &Packet) -> Result<(), Cause> {
        let end = self.queue(packet)?;
        std::future::poll_fn(|cx| {
            self.poll_write(cx);
            // `poll_packet` reports a failure.
            if self.written >= end || self.broken.is_some() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        Ok(())
    }

    /// Returns the next packet, and sends queued packets meanwhile.
    pub(crate) async fn receive(&mut self) -> Result<Received, Cause> {
        std::future::poll_fn(|cx| {
            self.poll_write(cx);
            let packet = ready!(self.poll_packet(cx));
            Poll::Ready(packet)
        })
        .await
    }
}

/// Decodes a DISCONNECT without properties: reason code and properties are optional.
fn short_disconnect(frame: &[u8]) -> Option<ReasonCode> {
    match *frame {
        [DISCONNECT, 0] => Some(ReasonCode::SUCCESS),
        [DISCONNECT, 1, reason] | [DISCONNECT, 2, reason, 0] => Some(ReasonCode(reason)),
        _ => None,
    }
}

/// Decodes the packet identifier and reason of a well-formed PUBACK (MQTT 5.0, 3.4.2). Reason code
/// and properties are optional. The properties must fill the packet; their content is not needed.
fn puback(frame: &[u8]) -> Option<(u16, ReasonCode)> {
    let (&PUBACK, rest) = frame.split_first()? else {
        return None;
    };
    let (length, body) = variable_length(rest)?;
    let (&[high, low], rest) = body.split_first_chunk()?;
    let reason = match *rest {
        _ if length != body.len() => return None,
        [] => ReasonCode::SUCCESS,
        [reason] => ReasonCode(reason),
        [reason, ref properties @ ..] => {
            let (length, properties) = variable_length(properties)?;
            (length == properties.len()).then_some(ReasonCode(reason))?
        }
    };
    Some((u16::from_be_bytes([high, low]), reason))
}

/// Decodes a Variable Byte Integer (MQTT 5.0, 1.5.5); returns it and the remaining bytes.
fn variable_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = bytes.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = bytes.split_at_checked(end + 1)?;
    let digits = number.iter().rev();
    let length = digits.fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F));
    Some((length, rest))
}

fn malformed(error: &CodecError) -> Cause {
    Cause::Protocol(error.to_string())
}

fn release(buffer: &mut BytesMut) {
    if buffer.is_empty() && buffer.capacity() > KEEP_BYTES {
        *buffer = BytesMut::new();
    }
}

#[cfg(test)]
mod tests;
