//! A public connection with its place, idle timeout, and end.
//!
//! It ends with an error at the idle timeout, at its eviction, and, if it is upgraded, when remote
//! access stops: HTTP connections end on their own once their requests are complete, but a
//! WebSocket (over HTTP/1.1 or as an HTTP/2 stream) does not. Reads and writes return that error.
//! If one side waits for the other, neither may be called, so the task that serves the connection
//! also watches it.
//!
//! The stream owns the place, because an upgraded connection belongs to the application.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::limits::connection_activity::{ConnectionActivity, idle_error};
use crate::limits::connection_limit::ConnectionPermit;

/// See the [module](self). Counts as a task until it is dropped.
#[derive(Debug)]
pub(crate) struct PublicConnection<S> {
    stream: S,
    idle: Duration,
    idle_until: Pin<Box<Sleep>>,
    activity: Arc<ConnectionActivity>,
    evicted: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ready when upgraded connections have to end.
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_due: bool,
    _permit: ConnectionPermit,
    _task: TaskTrackerToken,
}

impl<S> PublicConnection<S> {
    /// `cut` is cancelled when upgraded connections have to end.
    pub(crate) fn new(
        stream: S,
        idle: Duration,
        activity: Arc<ConnectionActivity>,
        cut: CancellationToken,
        permit: ConnectionPermit,
        task: TaskTrackerToken,
    ) -> Self {
        Self {
            stream,
            idle,
            idle_until: Box::pin(sleep(idle)),
            evicted: Box::pin(activity.evicted().clone().cancelled_owned()),
            activity,
            cut: Box::pin(cut.cancelled_owned()),
            cut_due: false,
            _permit: permit,
            _task: task,
        }
    }

    /// Returns the result of a read or write, or an error if the connection has to end.
    fn outcome<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if self.activity.evicted().is_cancelled() {
            return aborted("the connection was evicted for another caller");
        }
        if outcome.is_pending() {
            self.cut_due = self.cut_due || self.cut.as_mut().poll(context).is_ready();
            if self.evicted.as_mut().poll(context).is_ready() {
                return aborted("the connection was evicted for another caller");
            }
        }
        if self.cut_due && self.activity.is_opaque_only() {
            return aborted("remote access is stopping");
        }
        if outcome.is_ready() {
            self.activity.touch();
            self.idle_until.as_mut().reset(Instant::now() + self.idle);
        } else if self.idle_until.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(idle_error()));
        }
        outcome
    }
}

fn aborted<T>(reason: &'static str) -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::Error::new(
        io::ErrorKind::ConnectionAborted,
        reason,
    )))
}

impl<S: AsyncRead + Unpin> AsyncRead for PublicConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.outcome(context, outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for PublicConnection<S> {
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
    use std::net::IpAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::limits::connection_limit::ConnectionLimiter;
    use crate::limits::fair_share::{Holder, KnownCallers};
    use crate::task_group::TaskGroup;

    const IDLE: Duration = Duration::from_secs(10);

    struct TestConnection {
        connection: PublicConnection<DuplexStream>,
        other: DuplexStream,
        activity: Arc<ConnectionActivity>,
        cut: CancellationToken,
    }

    fn test_connection() -> TestConnection {
        let (stream, other) = duplex(64);
        let (activity, cut) = (
            Arc::<ConnectionActivity>::default(),
            CancellationToken::new(),
        );
        let limiter = ConnectionLimiter::new(1, 1, KnownCallers::default());
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        let permit = limiter.take(address, Arc::clone(&activity)).unwrap();
        let task = TaskGroup::default().token();
        let connection = PublicConnection::new(
            stream,
            IDLE,
            Arc::clone(&activity),
            cut.clone(),
            permit,
            task,
        );
        TestConnection {
            connection,
            other,
            activity,
            cut,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_ends_and_one_in_use_does_not() {
        let mut test_connection = test_connection();
        let start = Instant::now();
        for _ in 0..5 {
            tokio::time::sleep(IDLE / 2).await;
            test_connection.other.write_u8(1).await.unwrap();
            test_connection.connection.read_u8().await.unwrap();
        }
        assert_eq!(start.elapsed(), IDLE / 2 * 5);
        let error = test_connection.connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(start.elapsed(), IDLE / 2 * 7);

        // A caller that does not read is idle too.
        let error = test_connection
            .connection
            .write_all(&[0; 65])
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn only_an_upgraded_connection_is_cut() {
        let mut test_connection = test_connection();
        test_connection.cut.cancel();
        test_connection.activity.set_opaque();
        let request = test_connection.activity.start_request();
        test_connection.other.write_u8(1).await.unwrap();
        test_connection.connection.read_u8().await.unwrap();
        drop(request);
        let error = test_connection.connection.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }

    #[tokio::test]
    async fn evicted_connection_ends_while_it_waits_and_when_it_is_busy() {
        let mut waiting = test_connection();
        let mut buffer = [0];
        let read = waiting.connection.read(&mut buffer);
        tokio::pin!(read);
        assert!(futures_util::poll!(read.as_mut()).is_pending());
        waiting.activity.evict();
        let error = read.await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);

        let mut busy = test_connection();
        busy.other.write_all(&[1; 64]).await.unwrap();
        busy.activity.evict();
        busy.connection.read_u8().await.unwrap_err();
    }
}
