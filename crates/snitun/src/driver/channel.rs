//! A channel as an ordinary byte stream.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::shared::{Shared, now};
use crate::close::ChannelError;
use crate::frame::ChannelId;
use crate::mux::{ChannelKey, Read, Write};

/// One public connection, carried inside the tunnel: reads what the other end sends and writes to it.
///
/// - A write is taken as soon as there is room in the channel's send queue, and waits otherwise. Flushing has nothing to
///   do: what is taken is on its way.
/// - `shutdown` closes the channel in **both** directions, since the protocol has no half-close: the peer gets everything
///   written before and then the end; what it had sent up to then can still be read here. Dropping the channel does the
///   same and gives up what was not read.
/// - When the peer closes, reading yields what it had sent and then the end; writing fails with
///   [`BrokenPipe`](io::ErrorKind::BrokenPipe).
/// - When more arrives than the receive limit allows, or the tunnel ends, reading fails with
///   [`ConnectionReset`](io::ErrorKind::ConnectionReset) and a [`ChannelError`] inside.
///
/// # Cancel safety
/// Like a TCP stream: a read or write that is not ready has taken nothing.
pub struct Channel {
    shared: Arc<Shared>,
    key: ChannelKey,
    id: ChannelId,
    caller: Option<IpAddr>,
    /// Taken from the multiplexer and not yet read: the copy to the reader's buffer is made without the lock.
    current: BytesMut,
}

impl Channel {
    pub(crate) fn new(
        shared: Arc<Shared>,
        key: ChannelKey,
        id: ChannelId,
        caller: Option<IpAddr>,
    ) -> Self {
        Self {
            shared,
            key,
            id,
            caller,
            current: BytesMut::new(),
        }
    }

    /// The address of the public caller; `None` where the version or the peer does not carry it.
    pub fn peer_ip(&self) -> Option<IpAddr> {
        self.caller
    }

    /// The channel's id on the wire.
    pub fn id(&self) -> ChannelId {
        self.id
    }

    /// Makes sure that `current` holds something, or yields `false` at the end.
    fn poll_current(&mut self, cx: &Context<'_>) -> Poll<io::Result<bool>> {
        if !self.current.is_empty() {
            return Poll::Ready(Ok(true));
        }
        let read = self.shared.with(|state| {
            let read = state.mux.read(self.key);
            if read == Read::Wait {
                state.park_reader(self.key, cx);
            }
            read
        });
        Poll::Ready(match read {
            Read::Data(data) => {
                self.current = data;
                Ok(true)
            }
            Read::Wait => return Poll::Pending,
            Read::End => Ok(false),
            Read::Failed(error) => Err(reset(error)),
        })
    }
}

fn reset(error: ChannelError) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, error)
}

impl AsyncRead for Channel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let cooperation = ready!(tokio::task::coop::poll_proceed(cx));
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let more = ready!(self.poll_current(cx))?;
        cooperation.made_progress();
        if more {
            let len = self.current.len().min(buf.remaining());
            buf.put_slice(&self.current[..len]);
            self.consume(len);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncBufRead for Channel {
    fn poll_fill_buf(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let cooperation = ready!(tokio::task::coop::poll_proceed(cx));
        ready!(self.poll_current(cx))?;
        cooperation.made_progress();
        Poll::Ready(Ok(&self.get_mut().current))
    }

    fn consume(mut self: Pin<&mut Self>, amount: usize) {
        (*self).consume(amount);
    }
}

impl Channel {
    fn consume(&mut self, amount: usize) {
        self.current.advance(amount);
        if self.current.is_empty() {
            // Lets go of the connection's input buffer.
            self.current = BytesMut::new();
        }
    }
}

impl AsyncWrite for Channel {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let cooperation = ready!(tokio::task::coop::poll_proceed(cx));
        let written = self.shared.with(|state| {
            let written = state.mux.write(self.key, data);
            if written == Write::Wait {
                state.park_writer(self.key, cx);
            }
            written
        });
        Poll::Ready(match written {
            Write::Taken(count) => {
                cooperation.made_progress();
                Ok(count)
            }
            Write::Wait => return Poll::Pending,
            Write::Closed => Err(io::ErrorKind::BrokenPipe.into()),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|state| state.mux.close(self.key, now()));
        Poll::Ready(Ok(()))
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.shared.with(|state| {
            state.mux.release(self.key, now());
            state.forget_waiting(self.key);
        });
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("id", &self.id)
            .field("peer_ip", &self.caller)
            .finish_non_exhaustive()
    }
}
