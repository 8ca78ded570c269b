//! MQTT packets over a byte stream, with a buffer for each direction.
//!
//! Queued packets leave with one write. After a write error, received data is still read: a server
//! sends the reason before it closes a connection, and a device that is sending would otherwise see
//! only a broken pipe.
//!
//! rumqttc encodes, [`decode`](crate::mqtt::decode) decodes. A packet that violates the protocol is
//! answered with DISCONNECT and its reason code, and ends the connection. A server may send the
//! same packet again on the next one: a message of a kept session, or a retained one. So a session
//! that has lost a connection in this way receives leniently: it drops such messages, and leaves
//! out properties that it cannot read.
//!
//! A packet may contain a private key, so received data is wiped when it leaves the buffer, which
//! lives as long as the connection.
//!
//! Not here: the meaning of packets. Invariants: no operation blocks; memory for a packet is
//! allocated only after its length is checked against the announced maximum.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use rumqttc::v5::mqttbytes::v5::Packet;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use zeroize::Zeroize;

use crate::error::cause::Cause;
use crate::mqtt::decode::{
    Received, Undeliverable, decode, is_publish, oversized_publish, packet_length,
};
use crate::mqtt::reader::Fault;
use crate::mqtt::reason_code::ReasonCode;

/// Capacity for a read: several packets of the usual size.
const READ_BYTES: usize = 4096;

/// An empty buffer with a larger capacity is released.
const KEEP_BYTES: usize = 64 << 10;

/// First byte of a DISCONNECT.
const DISCONNECT: u8 = 0xE0;

#[derive(Debug)]
pub(crate) struct Framed<S> {
    stream: S,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Maximum received packet, as announced to the server.
    max_incoming: u32,
    /// Whether a message that violates the protocol is dropped; otherwise it ends the connection.
    lenient: bool,
    /// Bytes of a message that is too large, still to be dropped.
    skip: usize,
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
    pub(crate) fn new(stream: S, max_incoming: u32, lenient: bool) -> Self {
        Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            max_incoming,
            lenient,
            skip: 0,
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
            match self.decode() {
                Ok(Some(Received::Disconnect { reason, message })) => {
                    return Poll::Ready(Err(Cause::disconnected(reason, message)));
                }
                Ok(Some(packet)) => return Poll::Ready(Ok(packet)),
                Ok(None) => {}
                Err(fault) => {
                    self.reject(fault.reason, cx);
                    return Poll::Ready(Err(Cause::Protocol(fault.text)));
                }
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
    fn decode(&mut self) -> Result<Option<Received>, Fault> {
        let skipped = self.skip.min(self.incoming.len());
        self.skip -= skipped;
        self.drop_incoming(skipped);
        let Some(length) = packet_length(&self.incoming)? else {
            return Ok(None);
        };
        if length > self.max_incoming as usize {
            return self.oversized(length);
        }
        let Some(packet) = self.incoming.get(..length) else {
            return Ok(None);
        };
        let received = decode(packet, self.lenient);
        self.drop_incoming(length);
        match received? {
            Received::UndeliverablePublish(Undeliverable {
                fault,
                ends_connection: true,
                ..
            }) if !self.lenient => Err(fault),
            received => Ok(Some(received)),
        }
    }

    fn drop_incoming(&mut self, length: usize) {
        self.incoming[..length].zeroize();
        self.incoming.advance(length);
    }

    fn oversized(&mut self, length: usize) -> Result<Option<Received>, Fault> {
        let fault = Fault::new(
            ReasonCode::PACKET_TOO_LARGE,
            format!(
                "a packet of {length} bytes, above the announced maximum of {}",
                self.max_incoming
            ),
        );
        if !self.lenient
            || !self
                .incoming
                .first()
                .is_some_and(|first| is_publish(*first))
        {
            return Err(fault);
        }
        let undeliverable = oversized_publish(&self.incoming, fault);
        Ok(undeliverable.map(|undeliverable| {
            self.skip = length;
            Received::UndeliverablePublish(undeliverable)
        }))
    }

    /// Sends DISCONNECT as far as the stream accepts it now. The connection ends in any case.
    fn reject(&mut self, reason: ReasonCode, cx: &mut Context<'_>) {
        self.outgoing.put_slice(&[DISCONNECT, 1, reason.0]);
        self.poll_write(cx);
        if self.outgoing.is_empty() {
            let _ = self.poll_shutdown(cx);
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

fn release(buffer: &mut BytesMut) {
    if buffer.is_empty() && buffer.capacity() > KEEP_BYTES {
        *buffer = BytesMut::new();
    }
}

#[cfg(test)]
mod tests;
