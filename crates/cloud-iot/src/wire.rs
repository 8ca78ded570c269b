//! MQTT packets over a byte stream: one buffer for each direction, and rumqttc's codec between.
//!
//! Packets to be sent are gathered and leave with one write. When writing has failed, what had been received before is
//! still read: a server that ends a connection says why first, and a device that is just sending would otherwise see
//! nothing but a broken pipe.
//!
//! The codec is given whole packets only. It knows DISCONNECT in its longest form alone, while servers send the short
//! ones; and of PUBACK the reason codes that the standard has today, while any other one would end the connection, and the
//! message that it answers would be sent again on the next one, for ever. So these are decoded here.
//!
//! A packet may carry a private key, so what was received is wiped as it leaves the buffer, which lives as long as the
//! connection.
//!
//! Not here: what a packet means. Invariants: nothing waits; what a peer announces is not allocated before it is known
//! to be within the limit that the server was told.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use rumqttc::v5::mqttbytes::Error as WireError;
use rumqttc::v5::mqttbytes::v5::{Packet, check};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use zeroize::Zeroize;

use crate::cause::Cause;
use crate::reason::ReasonCode;

/// Room for a read: what several packets of the usual size take.
const READ_BYTES: usize = 4096;

/// A buffer that has grown beyond this for a large packet is given back when it is empty.
const KEEP_BYTES: usize = 64 << 10;

/// The first byte of a DISCONNECT.
const DISCONNECT: u8 = 0xE0;

/// The first byte of a PUBACK.
const PUBACK: u8 = 0x40;

/// A packet of the peer's.
#[allow(
    clippy::large_enum_variant,
    reason = "there is one at a time, and it is taken apart at once"
)]
#[derive(Debug, PartialEq)]
pub(crate) enum Received {
    /// PUBACK. What code it may bear is for the reader to judge: from 0x80 on it is a refusal (MQTT 5.0, 2.4).
    PubAck { packet_id: u16, reason: ReasonCode },
    /// Any other one.
    Packet(Packet),
}

#[derive(Debug)]
pub(crate) struct Wire<S> {
    stream: S,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// The largest packet that is taken, as the server was told.
    max_incoming: u32,
    /// Bytes that were queued since the beginning, and how many of them the stream has taken.
    queued: u64,
    written: u64,
    /// Whether the stream may hold something back.
    unflushed: bool,
    /// The stream took less than there was; and it has taken more since.
    blocked: bool,
    progress: bool,
    /// Why writing has failed. The end of what can be read comes by itself then.
    broken: Option<Cause>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
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

    /// Adds a packet to what [`poll_write`](Self::poll_write) will send, and returns the position at which it ends.
    pub(crate) fn queue(&mut self, packet: &Packet) -> Result<u64, Cause> {
        let before = self.outgoing.len();
        packet
            .write(&mut self.outgoing, None)
            .map_err(|error| Cause::Internal(error.to_string()))?;
        self.queued += (self.outgoing.len() - before) as u64;
        Ok(self.queued)
    }

    /// The position up to which the stream has taken what was queued.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Whether the stream has taken something, after it took nothing for a while, since the last call.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Bytes that were queued and not taken by the stream.
    pub(crate) fn backlog(&self) -> usize {
        self.outgoing.len()
    }

    /// Sends as much as the stream takes. A failure is told by [`poll_packet`](Self::poll_packet).
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

    /// Tells the peer that nothing more comes.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Whether it could be told changes nothing any more.
        Pin::new(&mut self.stream).poll_shutdown(cx).map(drop)
    }

    /// The next packet. DISCONNECT and everything else that ends the connection is an error.
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

    /// Takes a whole packet from what was received, if there is one.
    fn decode(&mut self) -> Result<Option<Received>, Cause> {
        let length = match check(self.incoming.iter(), Some(self.max_incoming)) {
            Ok(header) => header.frame_length(),
            Err(WireError::InsufficientBytes(_)) => return Ok(None),
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

    /// Sends one packet and waits until the stream has taken it.
    pub(crate) async fn send(&mut self, packet: &Packet) -> Result<(), Cause> {
        let end = self.queue(packet)?;
        std::future::poll_fn(|cx| {
            self.poll_write(cx);
            // A failure comes with the next packet.
            if self.written >= end || self.broken.is_some() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
        Ok(())
    }

    /// The next packet, with what is left to be sent on the way.
    pub(crate) async fn receive(&mut self) -> Result<Received, Cause> {
        std::future::poll_fn(|cx| {
            self.poll_write(cx);
            let packet = ready!(self.poll_packet(cx));
            Poll::Ready(packet)
        })
        .await
    }
}

/// The reason in a DISCONNECT that ends with it: the reason code may be left out, and so may the properties.
fn short_disconnect(frame: &[u8]) -> Option<ReasonCode> {
    match *frame {
        [DISCONNECT, 0] => Some(ReasonCode::SUCCESS),
        [DISCONNECT, 1, reason] | [DISCONNECT, 2, reason, 0] => Some(ReasonCode(reason)),
        _ => None,
    }
}

/// Packet id and reason of a PUBACK that is sound (MQTT 5.0, 3.4.2). The reason code may be left out, and so may the
/// properties, which say nothing that is needed: they have to fill the packet, and are not looked into.
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

/// A Variable Byte Integer (MQTT 5.0, 1.5.5) and what follows it.
fn variable_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = bytes.iter().take(4).position(|byte| byte & 0x80 == 0)?;
    let (number, rest) = bytes.split_at_checked(end + 1)?;
    let digits = number.iter().rev();
    let length = digits.fold(0, |length, byte| length << 7 | usize::from(byte & 0x7F));
    Some((length, rest))
}

fn malformed(error: &WireError) -> Cause {
    Cause::Protocol(error.to_string())
}

fn release(buffer: &mut BytesMut) {
    if buffer.is_empty() && buffer.capacity() > KEEP_BYTES {
        *buffer = BytesMut::new();
    }
}

#[cfg(test)]
mod tests;
