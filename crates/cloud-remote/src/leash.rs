//! Ends a public connection that nobody uses, and at the end of remote access one that never ends by itself.
//!
//! Nothing has gone over it for too long: then it is ended at any time, and HTTP without a request for as long comes to its
//! end too, though pings may go over it. Whoever reads or writes is told so; but where one side waits for the other nobody may
//! do either, so whoever serves the connection watches over it as well. Or remote access is coming to its end: HTTP ends its
//! connections by itself once the requests under way are done, but a connection that was upgraded (a WebSocket, over
//! HTTP/1.1 or as a stream of HTTP/2) would go on for ever. It is cut after a short grace, unless other requests are still
//! under way on it. Whoever has such a connection sees an error when reading or writing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request};
use http_body::{Body, Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::progress::{Progress, passed_since};

/// What a connection is used for.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// Some of it belongs to the application, which alone knows when it is done.
    upgraded: AtomicBool,
    /// Requests whose answers are not yet complete.
    exchanges: AtomicUsize,
    /// When the last of them ended.
    ended: Progress,
    /// When something last went over the connection.
    moved: Progress,
}

impl Usage {
    /// What is left of the connection, if anything, is not HTTP any more.
    pub(crate) fn upgraded(&self) {
        self.upgraded.store(true, Ordering::Relaxed);
    }

    /// Counts a request until what is returned is dropped, unless it asks for a stream of its own (RFC 8441).
    pub(crate) fn begin<B>(self: &Arc<Self>, request: &Request<B>) -> Option<Exchange> {
        if request.method() == Method::CONNECT {
            self.upgraded();
            return None;
        }
        self.exchanges.fetch_add(1, Ordering::Relaxed);
        Some(Exchange(Arc::clone(self)))
    }

    /// Until there has been no request for so long. What answers pings and does nothing else is not used.
    pub(crate) async fn unused(&self, limit: Duration) {
        passed_since(limit, || match self.exchanges.load(Ordering::Relaxed) {
            0 => self.ended.last(),
            _ => Instant::now(),
        })
        .await;
    }

    /// Until nothing has gone over the connection for so long, whether anybody reads and writes or not.
    pub(crate) async fn idle(&self, limit: Duration) -> io::Error {
        self.moved.stalled(limit).await;
        idle_error()
    }

    fn only_upgraded(&self) -> bool {
        self.upgraded.load(Ordering::Relaxed) && self.exchanges.load(Ordering::Relaxed) == 0
    }
}

fn idle_error() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "nothing has gone over the connection for too long",
    )
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct Exchange(Arc<Usage>);

impl Drop for Exchange {
    fn drop(&mut self) {
        self.0.ended.touch();
        self.0.exchanges.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body, which is the last of a request, with what is to be held until then.
#[derive(Debug)]
pub(crate) struct Holding<B, H> {
    body: B,
    _held: H,
}

impl<B, H> Holding<B, H> {
    pub(crate) fn new(body: B, held: H) -> Self {
        Self { body, _held: held }
    }
}

impl<B: Body + Unpin, H: Unpin> Body for Holding<B, H> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Leash<S> {
    stream: S,
    idle: Duration,
    idle_until: Pin<Box<Sleep>>,
    usage: Arc<Usage>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_due: bool,
}

impl<S> Leash<S> {
    /// `cut` is when upgraded connections are cut.
    pub(crate) fn new(
        stream: S,
        idle: Duration,
        usage: Arc<Usage>,
        cut: CancellationToken,
    ) -> Self {
        Self {
            stream,
            idle,
            idle_until: Box::pin(sleep(idle)),
            usage,
            cut: Box::pin(cut.cancelled_owned()),
            cut_due: false,
        }
    }

    /// What came of trying to read or write.
    fn outcome<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_pending() && !self.cut_due {
            self.cut_due = self.cut.as_mut().poll(context).is_ready();
        }
        if self.cut_due && self.usage.only_upgraded() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "remote access is ending",
            )));
        }
        if outcome.is_ready() {
            self.usage.moved.touch();
            self.idle_until.as_mut().reset(Instant::now() + self.idle);
        } else if self.idle_until.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(idle_error()));
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Leash<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.outcome(context, outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Leash<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.outcome(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.outcome(context, outcome)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_ends_and_one_in_use_does_not() {
        let (stream, mut other) = duplex(64);
        let mut stream = Leash::new(stream, IDLE, Arc::default(), CancellationToken::new());
        let start = Instant::now();
        for _ in 0..5 {
            tokio::time::sleep(IDLE / 2).await;
            other.write_u8(1).await.unwrap();
            stream.read_u8().await.unwrap();
        }
        assert_eq!(start.elapsed(), IDLE / 2 * 5);
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), IDLE / 2 * 7);

        // A caller that does not read is idle too.
        let error = stream.write_all(&[0; 65]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn only_what_is_upgraded_alone_is_cut() {
        let (stream, mut other) = duplex(64);
        let (usage, cut) = (Arc::<Usage>::default(), CancellationToken::new());
        let mut stream = Leash::new(stream, IDLE, Arc::clone(&usage), cut.clone());
        cut.cancel();
        let plain = usage.begin(&Request::get("/").body(()).unwrap());
        let upgrade = usage.begin(&Request::connect("/").body(()).unwrap());
        assert!(plain.is_some() && upgrade.is_none());
        other.write_u8(1).await.unwrap();
        stream.read_u8().await.unwrap();
        drop(plain);
        let error = stream.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
