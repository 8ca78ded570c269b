//! A TCP stream that records the headers of the TLS records that pass through it.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

pub(crate) const ALERT: u8 = 21;
pub(crate) const APPLICATION_DATA: u8 = 23;

/// Header of a TLS record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) kind: u8,
    /// Length as sent, including the encryption overhead.
    pub(crate) length: usize,
}

/// The records of one direction.
#[derive(Debug, Default)]
pub(crate) struct Records {
    pub(crate) seen: Vec<Record>,
    header: Vec<u8>,
    /// Remaining bytes of the current record.
    left: usize,
}

impl Records {
    fn note(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.header.push(first);
            bytes = rest;
            if let [kind, _, _, high, low] = self.header[..] {
                let length = usize::from(u16::from_be_bytes([high, low]));
                self.seen.push(Record { kind, length });
                self.left = length;
                self.header.clear();
            }
        }
    }
}

/// Both directions, seen from the side that holds the [`Tap`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Wire {
    sent: Arc<Mutex<Records>>,
    received: Arc<Mutex<Records>>,
}

impl Wire {
    pub(crate) fn sent(&self) -> MutexGuard<'_, Records> {
        self.sent.lock().unwrap()
    }

    pub(crate) fn received(&self) -> MutexGuard<'_, Records> {
        self.received.lock().unwrap()
    }
}

#[derive(Debug)]
pub(crate) struct Tap {
    pub(crate) stream: TcpStream,
    pub(crate) wire: Wire,
}

impl Tap {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            wire: Wire::default(),
        }
    }
}

impl AsyncRead for Tap {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.wire.received().note(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tap {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.wire.sent().note(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
