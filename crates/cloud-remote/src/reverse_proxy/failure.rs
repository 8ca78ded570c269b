//! What an application did instead of answering, for the log.
//!
//! hyper's errors do not say which protocol the application speaks, or how many header fields are
//! too many. So its connection keeps a [record](ResponseRecord) of what it sent.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use cloud_net::{UntrustedText, root_cause};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::upstream::health::UpstreamFailure;

/// What an application did instead of answering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    Refused,
    DoesNotAccept,
    Unreachable(UntrustedText),
    Closed,
    Silent(Duration),
    SpeaksTls,
    SpeaksHttp2,
    HeaderTooLarge { fields: usize },
    NotHttp(UntrustedText),
    UnexpectedUpgrade,
    UnknownCoding,
    Other(UntrustedText),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => formatter.write_str("it refused the connection: is it running?"),
            Self::DoesNotAccept => formatter.write_str("it did not accept the connection in time"),
            Self::Unreachable(error) => {
                write!(formatter, "it cannot be reached: is it running? ({error})")
            }
            Self::Closed => formatter.write_str("it closed the connection without a response"),
            Self::Silent(limit) => write!(
                formatter,
                "it did not respond within {} s (the limit is Limits::response)",
                limit.as_secs()
            ),
            Self::SpeaksTls => formatter.write_str("it speaks TLS, not HTTP/1.1"),
            Self::SpeaksHttp2 => formatter.write_str("it speaks HTTP/2, not HTTP/1.1"),
            Self::HeaderTooLarge { fields } => write!(
                formatter,
                "the header of its response is too large: {fields} fields (the limit of their number is Limits::header_fields)"
            ),
            Self::NotHttp(error) => write!(formatter, "its response is not HTTP/1.1: {error}"),
            Self::UnexpectedUpgrade => {
                formatter.write_str("it upgrades a connection without a request")
            }
            Self::UnknownCoding => {
                formatter.write_str("its response has a transfer coding that nobody asked for")
            }
            Self::Other(error) => write!(formatter, "it gave no response: {error}"),
        }
    }
}

impl Failure {
    /// Returns the kind, for the counters.
    pub(super) fn kind(&self) -> UpstreamFailure {
        match self {
            Self::Refused | Self::DoesNotAccept | Self::Unreachable(_) => {
                UpstreamFailure::Unreachable
            }
            Self::Silent(_) => UpstreamFailure::Silent,
            _ => UpstreamFailure::Unusable,
        }
    }

    /// Returns what the application did instead of accepting a connection.
    pub(super) fn of_connect(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Self::Refused,
            io::ErrorKind::TimedOut => Self::DoesNotAccept,
            _ => Self::Unreachable(UntrustedText::of(&root_cause(error))),
        }
    }

    /// Returns what the application did instead of responding.
    pub(super) fn of_exchange(error: &hyper::Error, record: Option<&ResponseRecord>) -> Self {
        let text = UntrustedText::of(&root_cause(error));
        let (beginning, fields) = record.map_or(([0; 4], 0), |record| {
            let seen = record.seen();
            (seen.beginning, seen.fields)
        });
        match beginning {
            // An alert or a handshake record (RFC 8446 §5.1).
            [0x15 | 0x16, 3, ..] => Self::SpeaksTls,
            // A SETTINGS or GOAWAY frame of less than 64 KiB (RFC 9113 §4.1).
            [0, _, _, 4 | 7] if error.is_parse() => Self::SpeaksHttp2,
            _ if error.is_parse_too_large() => Self::HeaderTooLarge { fields },
            _ if error.is_parse() => Self::NotHttp(text),
            _ if error.is_incomplete_message() || error.is_closed() || error.is_canceled() => {
                Self::Closed
            }
            _ => match root_cause(error)
                .downcast_ref::<io::Error>()
                .map(io::Error::kind)
            {
                Some(
                    io::ErrorKind::ConnectionReset
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof,
                ) => Self::Closed,
                _ => Self::Other(text),
            },
        }
    }
}

/// What an application has sent on a connection. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct ResponseRecord(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen {
    /// The first bytes of the connection.
    beginning: [u8; 4],
    length: usize,
    /// The header fields since the last request.
    fields: usize,
    /// The length of the current header line.
    line: usize,
    /// The blank line after the header was seen.
    header_ended: bool,
}

impl ResponseRecord {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn request(&mut self) {
        (self.fields, self.line, self.header_ended) = (0, 0, false);
    }

    fn response(&mut self, bytes: &[u8]) {
        for (place, byte) in self.beginning.iter_mut().skip(self.length).zip(bytes) {
            *place = *byte;
            self.length += 1;
        }
        if self.header_ended {
            return;
        }
        let mut rest = bytes;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, after) = (&rest[..end], &rest[end + 1..]);
            self.line += line.strip_suffix(b"\r").unwrap_or(line).len();
            if self.line == 0 {
                self.header_ended = true;
                // The status line is none.
                self.fields = self.fields.saturating_sub(1);
                return;
            }
            (self.fields, self.line) = (self.fields + 1, 0);
            rest = after;
        }
        self.line += rest.strip_suffix(b"\r").unwrap_or(rest).len();
    }
}

/// A connection to the application with a record of what the application sends.
#[derive(Debug)]
pub(super) struct RecordedStream<S> {
    stream: S,
    record: ResponseRecord,
}

impl<S> RecordedStream<S> {
    pub(super) fn new(stream: S, record: ResponseRecord) -> Self {
        Self { stream, record }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RecordedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.record.seen().response(&buffer.filled()[before..]);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RecordedStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.record.seen().request();
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.record.seen().request();
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
