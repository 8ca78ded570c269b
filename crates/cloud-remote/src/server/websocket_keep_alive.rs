//! Keeps a quiet WebSocket over HTTP/1.1 alive: relays close a connection that is idle for about
//! 112 s. (HTTP/2 connections have PINGs of their own.)
//!
//! The device sends a PING to the caller between two frames of the application. The caller answers
//! it with a PONG, which the application gets: unsolicited PONGs are allowed (RFC 6455 §5.5.3). A
//! caller that does not answer gets no further PING, so that the idle timeout ends the connection.
//!
//! Specification: RFC 6455 §5.2 (frames), §5.5 (control frames).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

use crate::limits::connection_activity::ConnectionActivity;

/// The time without traffic after which a PING is sent.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// A final PING frame without data.
const PING: &[u8] = &[0x89, 0];
const OPCODE_CLOSE: u8 = 8;

/// A connection that may become a WebSocket; see the [module](self).
#[derive(Debug)]
pub(super) struct WebSocketKeepAlive<S> {
    stream: S,
    activity: Arc<ConnectionActivity>,
    sent: Position,
    /// The rest of a PING.
    unsent: &'static [u8],
    /// The application waits until more can be sent.
    is_blocked: bool,
    /// The caller has sent something since the last PING.
    has_answered: bool,
    /// Exists for WebSockets.
    ping_at: Option<Pin<Box<Sleep>>>,
}

impl<S> WebSocketKeepAlive<S> {
    pub(super) fn new(stream: S, activity: Arc<ConnectionActivity>) -> Self {
        Self {
            stream,
            activity,
            sent: Position::Http,
            unsent: &[],
            is_blocked: false,
            has_answered: true,
            ping_at: None,
        }
    }

    /// Follows the data sent to the caller.
    fn record_sent(&mut self, slices: &[IoSlice<'_>], mut count: usize) {
        if matches!(self.sent, Position::Http) {
            if !self.activity.is_websocket() {
                return;
            }
            self.sent = Position::StatusLine(0);
        }
        for slice in slices {
            let sent = &slice[..slice.len().min(count)];
            count -= sent.len();
            self.sent.advance(sent);
        }
        self.schedule();
    }

    fn schedule(&mut self) {
        if matches!(self.sent, Position::Http) {
            return;
        }
        match &mut self.ping_at {
            Some(timer) => timer.as_mut().reset(Instant::now() + PING_INTERVAL),
            None => self.ping_at = Some(Box::pin(sleep(PING_INTERVAL))),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> WebSocketKeepAlive<S> {
    /// Sends the rest of a PING.
    fn poll_unsent(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let count = ready!(Pin::new(&mut self.stream).poll_write(context, self.unsent))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent = &self.unsent[count..];
        }
        Poll::Ready(Ok(()))
    }

    /// Sends a PING if one is due.
    fn poll_ping(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        while let Some(timer) = &mut self.ping_at
            && timer.as_mut().poll(context).is_ready()
        {
            self.schedule();
            if self.sent.is_between_frames() && !self.is_blocked && self.has_answered {
                self.has_answered = false;
                self.unsent = PING;
            }
        }
        // While the application is blocked, it has the connection's only waker for writing.
        if !self.unsent.is_empty()
            && !self.is_blocked
            && let Poll::Ready(sent) = self.poll_unsent(context)
        {
            sent?;
            if let Poll::Ready(flushed) = Pin::new(&mut self.stream).poll_flush(context) {
                flushed?;
            }
        }
        Ok(())
    }

    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.is_blocked = true;
        ready!(self.poll_unsent(context))?;
        let count = match slices {
            [slice] => ready!(Pin::new(&mut self.stream).poll_write(context, slice)),
            _ => ready!(Pin::new(&mut self.stream).poll_write_vectored(context, slices)),
        };
        self.is_blocked = false;
        let count = count?;
        self.record_sent(slices, count);
        Poll::Ready(Ok(count))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocketKeepAlive<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            self.has_answered = true;
            self.schedule();
        } else {
            self.poll_ping(context)?;
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocketKeepAlive<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(context, slices)
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

/// The position in the data sent to the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// No WebSocket.
    Http,
    /// Before or in the beginning of the 101 response, of which so many bytes match.
    StatusLine(usize),
    /// In the header of the 101 response, whose end matches so far.
    Header(usize),
    /// In the header of a frame.
    Frame { header: [u8; 10], length: usize },
    /// In the payload of a frame, of which so many bytes are left.
    Payload(u64),
    /// After the CLOSE frame.
    Closed,
}

impl Position {
    const STATUS_LINE: &[u8] = b"HTTP/1.1 101 ";
    const HEADER_END: &[u8] = b"\r\n\r\n";
    const NEXT_FRAME: Self = Self::Frame {
        header: [0; 10],
        length: 0,
    };

    fn is_between_frames(self) -> bool {
        self == Self::NEXT_FRAME
    }

    fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if let Self::Payload(left) = self {
                let skipped = usize::try_from(*left).map_or(bytes.len(), |n| n.min(bytes.len()));
                bytes = &bytes[skipped..];
                *left -= skipped as u64;
                if *left == 0 {
                    *self = Self::NEXT_FRAME;
                }
                continue;
            }
            bytes = rest;
            *self = self.after(*first);
        }
    }

    /// Returns the position after one more byte.
    fn after(self, byte: u8) -> Self {
        match self {
            Self::StatusLine(matching) => match matches_after(Self::STATUS_LINE, matching, byte) {
                matching if matching == Self::STATUS_LINE.len() => Self::Header(0),
                matching => Self::StatusLine(matching),
            },
            Self::Header(matching) => match matches_after(Self::HEADER_END, matching, byte) {
                matching if matching == Self::HEADER_END.len() => Self::NEXT_FRAME,
                matching => Self::Header(matching),
            },
            Self::Frame { mut header, length } => {
                header[length] = byte;
                let (header_length, payload) = match header[1] & 0x7f {
                    126 => (4, u64::from(u16::from_be_bytes([header[2], header[3]]))),
                    127 => {
                        let [_, _, payload @ ..] = header;
                        (10, u64::from_be_bytes(payload))
                    }
                    short => (2, u64::from(short)),
                };
                let length = length + 1;
                if length < 2 || length < header_length {
                    Self::Frame { header, length }
                } else if header[0] & 0x0f == OPCODE_CLOSE {
                    Self::Closed
                } else if payload == 0 {
                    Self::NEXT_FRAME
                } else {
                    Self::Payload(payload)
                }
            }
            Self::Http | Self::Payload(_) | Self::Closed => self,
        }
    }
}

/// Returns how many bytes of `pattern` match, where `matching` did before `byte`.
fn matches_after(pattern: &[u8], matching: usize, byte: u8) -> usize {
    if pattern[matching] == byte {
        matching + 1
    } else {
        usize::from(pattern[0] == byte)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::timeout;

    use super::*;

    const RESPONSE: &[u8] = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";

    /// A connection that has been upgraded, and its caller.
    async fn websocket() -> (WebSocketKeepAlive<DuplexStream>, DuplexStream) {
        let (stream, mut caller) = duplex(256 * 1024);
        let activity = Arc::<ConnectionActivity>::default();
        let mut device = WebSocketKeepAlive::new(stream, Arc::clone(&activity));
        device.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        activity.set_websocket();
        device.write_all(RESPONSE).await.unwrap();
        let mut seen = vec![0; 19 + RESPONSE.len()];
        caller.read_exact(&mut seen).await.unwrap();
        (device, caller)
    }

    /// Lets the device wait for the caller.
    async fn wait(device: &mut WebSocketKeepAlive<DuplexStream>, time: Duration) {
        let read = timeout(time, device.read_u8()).await;
        assert!(read.is_err(), "{read:?}");
    }

    async fn received(caller: &mut DuplexStream) -> Vec<u8> {
        let mut bytes = vec![0; 256 * 1024];
        let read = timeout(Duration::from_millis(1), caller.read(&mut bytes)).await;
        bytes.truncate(read.map_or(0, Result::unwrap));
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn pings_a_quiet_caller_as_long_as_it_answers() {
        let (mut device, mut caller) = websocket().await;
        for _ in 0..10 {
            wait(&mut device, PING_INTERVAL + Duration::from_secs(1)).await;
            assert_eq!(received(&mut caller).await, PING);
            caller.write_all(&[0x8a, 0x80, 1, 2, 3, 4]).await.unwrap();
            device.read_exact(&mut [0; 6]).await.unwrap();
        }
        wait(&mut device, PING_INTERVAL * 10).await;
        assert_eq!(received(&mut caller).await, PING, "one without an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn never_pings_within_a_frame() {
        let frames: [&[u8]; 4] = [
            &[0x81, 2, b'a', b'b'],
            &[0x82, 126, 0, 200],
            &[0x02, 127, 0, 0, 0, 0, 0, 1, 0, 0],
            &[0x88, 0],
        ];
        for (frame, payload) in frames.into_iter().zip([0, 200, 65_536, 0]) {
            let frame = [frame, &vec![7; payload]].concat();
            for cut in [1, frame.len() / 2, frame.len() - 1] {
                let (mut device, mut caller) = websocket().await;
                device.write_all(&frame[..cut]).await.unwrap();
                wait(&mut device, PING_INTERVAL * 3).await;
                assert_eq!(received(&mut caller).await, frame[..cut]);
                device.write_all(&frame[cut..]).await.unwrap();
                wait(&mut device, PING_INTERVAL + Duration::from_secs(1)).await;
                let mut expected = frame[cut..].to_vec();
                if frame[0] & 0x0f != OPCODE_CLOSE {
                    expected.extend(PING);
                }
                assert_eq!(received(&mut caller).await, expected, "{cut}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn other_connections_get_no_ping() {
        let (stream, mut caller) = duplex(1024);
        let mut device = WebSocketKeepAlive::new(stream, Arc::default());
        device.write_all(RESPONSE).await.unwrap();
        wait(&mut device, PING_INTERVAL * 10).await;
        assert_eq!(received(&mut caller).await, RESPONSE);
    }
}
