//! A channel as a tokio byte stream.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::shared::Shared;
use crate::close::ChannelError;
use crate::codec::frame::ChannelId;
use crate::mux::{ChannelKey, Read, Write};

/// One public connection inside the tunnel.
///
/// - A write is accepted as soon as the channel's send queue has room, and waits otherwise.
///   Flushing does nothing: accepted data is always sent.
/// - `shutdown` closes the channel in **both** directions, since the protocol has no half-close:
///   the peer gets everything written before and then the end; data that it sent until then can
///   still be read here. Dropping the channel also closes it and discards unread data.
/// - When the peer closes, reading returns the remaining data and then the end; writing fails with
///   [`BrokenPipe`](io::ErrorKind::BrokenPipe).
/// - When received data exceeds the receive limit, or the tunnel ends, reading fails with
///   [`ConnectionReset`](io::ErrorKind::ConnectionReset) and a [`ChannelError`] inside.
///
/// # Cancel safety
/// Like a TCP stream: a read or write that returns pending has transferred nothing.
#[derive(Debug)]
pub struct Channel {
    end: End,
    /// Data taken from the multiplexer and not yet read: it is copied to the reader's buffer
    /// without the lock.
    current: BytesMut,
}

/// Owns the channel's key; dropping it closes the channel.
struct End {
    shared: Arc<Shared>,
    key: ChannelKey,
    id: ChannelId,
    caller: Option<IpAddr>,
}

/// The reading half of a [`Channel`], borrowed.
#[derive(Debug)]
pub struct ChannelReader<'a> {
    end: &'a End,
    current: &'a mut BytesMut,
}

/// The writing half of a [`Channel`], borrowed. Shutting it down closes the channel in both
/// directions.
#[derive(Debug)]
pub struct ChannelWriter<'a> {
    end: &'a End,
}

impl Channel {
    pub(crate) fn new(
        shared: Arc<Shared>,
        key: ChannelKey,
        id: ChannelId,
        caller: Option<IpAddr>,
    ) -> Self {
        Self {
            end: End {
                shared,
                key,
                id,
                caller,
            },
            current: BytesMut::new(),
        }
    }

    /// Returns the address of the public caller; `None` if the protocol version or the peer does
    /// not carry it.
    pub fn peer_ip(&self) -> Option<IpAddr> {
        self.end.caller
    }

    /// Returns the channel's id on the wire.
    pub fn id(&self) -> ChannelId {
        self.end.id
    }

    /// Splits the channel into borrowed halves for concurrent use.
    pub fn halves(&mut self) -> (ChannelReader<'_>, ChannelWriter<'_>) {
        let end = &self.end;
        let current = &mut self.current;
        (ChannelReader { end, current }, ChannelWriter { end })
    }
}

impl ChannelReader<'_> {
    /// Waits until `current` has data, unless the channel has ended.
    fn poll_current(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let cooperation = ready!(tokio::task::coop::poll_proceed(cx));
        if self.current.is_empty() {
            let read = self.end.shared.with(|state| {
                let read = state.mux.read(self.end.key);
                if read == Read::Blocked {
                    state.park_reader(self.end.key, cx);
                }
                read
            });
            match read {
                Read::Data(data) => *self.current = data,
                Read::Blocked => return Poll::Pending,
                Read::End => {}
                Read::Failed(error) => return Poll::Ready(Err(reset(error))),
            }
        }
        cooperation.made_progress();
        Poll::Ready(Ok(()))
    }

    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
        if self.current.is_empty() {
            // Releases the connection's input buffer.
            *self.current = BytesMut::new();
        }
    }
}

impl ChannelReader<'_> {
    /// Appends received data to `pieces`, up to about `enough` bytes; appends nothing once the
    /// channel has ended.
    ///
    /// # Cancel safety
    /// Yes: data that was taken is in `pieces`.
    pub(crate) async fn read_pieces(
        &mut self,
        pieces: &mut VecDeque<BytesMut>,
        enough: usize,
    ) -> io::Result<()> {
        if !self.current.is_empty() {
            pieces.push_back(std::mem::take(self.current));
            return Ok(());
        }
        poll_fn(|cx| {
            let cooperation = ready!(tokio::task::coop::poll_proceed(cx));
            let nothing = self.end.shared.with(|state| {
                let nothing = state.mux.read_pieces(self.end.key, pieces, enough);
                if nothing == Some(Read::Blocked) {
                    state.park_reader(self.end.key, cx);
                }
                nothing
            });
            match nothing {
                Some(Read::Blocked) => return Poll::Pending,
                Some(Read::Failed(error)) => return Poll::Ready(Err(reset(error))),
                None | Some(Read::End | Read::Data(_)) => {}
            }
            cooperation.made_progress();
            Poll::Ready(Ok(()))
        })
        .await
    }
}

impl ChannelWriter<'_> {
    /// Returns an empty buffer for one frame, for [`write_buffer`](Self::write_buffer).
    pub(crate) fn take_buffer(&self) -> Vec<u8> {
        self.end.shared.with(|state| state.mux.take_buffer())
    }

    /// Returns an unused buffer to the pool.
    pub(crate) fn return_buffer(&self, buffer: Vec<u8>) {
        self.end
            .shared
            .with(|state| state.mux.return_buffer(buffer));
    }

    /// Writes a whole buffer.
    ///
    /// # Cancel safety
    /// No: part of it may have been written.
    pub(crate) async fn write_buffer(&mut self, mut buffer: Vec<u8>) -> io::Result<()> {
        poll_fn(|cx| {
            let cooperation = ready!(tokio::task::coop::poll_proceed(cx));
            let closed = self.end.shared.with(|state| {
                while !buffer.is_empty() {
                    match state.mux.write_buffer(self.end.key, &mut buffer) {
                        Write::Accepted(_) => {}
                        Write::Blocked => {
                            state.park_writer(self.end.key, cx);
                            return false;
                        }
                        Write::Closed => return true,
                    }
                }
                false
            });
            if closed {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if !buffer.is_empty() {
                return Poll::Pending;
            }
            cooperation.made_progress();
            Poll::Ready(Ok(()))
        })
        .await
    }
}

fn reset(error: ChannelError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for ChannelReader<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_current(cx))?;
        let len = self.current.len().min(buf.remaining());
        buf.put_slice(&self.current[..len]);
        (*self).consume(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for ChannelReader<'_> {
    fn poll_fill_buf(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        ready!(self.poll_current(cx))?;
        Poll::Ready(Ok(self.get_mut().current))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        (*self).consume(amount);
    }
}

impl AsyncWrite for ChannelWriter<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(data)])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let cooperation = ready!(tokio::task::coop::poll_proceed(cx));
        let written = self.end.shared.with(|state| {
            let written = state.mux.write_vectored(self.end.key, data);
            if written == Write::Blocked {
                state.park_writer(self.end.key, cx);
            }
            written
        });
        if written == Write::Blocked {
            return Poll::Pending;
        }
        cooperation.made_progress();
        Poll::Ready(match written {
            Write::Accepted(count) => Ok(count),
            Write::Blocked | Write::Closed => Err(io::ErrorKind::BrokenPipe.into()),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let End { shared, key, .. } = self.end;
        shared.with(|state| state.close_channel(*key));
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.halves().0).poll_read(cx, buf)
    }
}

impl AsyncBufRead for Channel {
    fn poll_fill_buf(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        ready!(self.halves().0.poll_current(cx))?;
        Poll::Ready(Ok(&self.get_mut().current))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        self.halves().0.consume(amount);
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.halves().1).poll_write(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.halves().1).poll_write_vectored(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.halves().1).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.halves().1).poll_shutdown(cx)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.shared.with(|state| {
            state.close_channel(self.key);
            state.mux.release(self.key, state.clock.now());
            state.clear_wakers(self.key);
        });
    }
}

impl fmt::Debug for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("End")
            .field("id", &self.id)
            .field("caller", &self.caller)
            .finish_non_exhaustive()
    }
}
