//! A TLS connection whose caller may end its sending direction and still wait for the response.
//!
//! Such a caller sends `close_notify` behind its request (RFC 8446 §6.1). The end of its data is
//! passed on only when no response is due, because hyper takes it for a disconnect. The end of the
//! transport, which has no half-close in a tunnel, is a disconnect and is passed on at once.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use crate::limits::connection_activity::ConnectionActivity;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct HalfCloseStream<S> {
    stream: Box<TlsStream<S>>,
    activity: Arc<ConnectionActivity>,
    /// The caller has ended its sending direction.
    caller_done: bool,
}

impl<S> HalfCloseStream<S> {
    pub(super) fn new(stream: Box<TlsStream<S>>, activity: Arc<ConnectionActivity>) -> Self {
        Self {
            stream,
            activity,
            caller_done: false,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for HalfCloseStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.caller_done {
            let before = buffer.filled().len();
            ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            self.caller_done = true;
        }
        // hyper reads again after each response.
        while self.activity.in_flight() > 0 {
            let mut rest = [0; 256];
            let mut rest = ReadBuf::new(&mut rest);
            let transport = Pin::new(self.stream.get_mut().0);
            ready!(transport.poll_read(context, &mut rest))?;
            if rest.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HalfCloseStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
