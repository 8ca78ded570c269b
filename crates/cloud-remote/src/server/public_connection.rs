//! A public connection: its place, its idle timer, and its TLS handshake.
//!
//! The device ends a connection at the idle timeout, at its eviction, and, if it is upgraded, when
//! remote access stops: HTTP connections end on their own once their requests are complete, but a
//! WebSocket (over HTTP/1.1 or as an HTTP/2 stream) does not. Reads and writes then return an
//! error. If one side waits for the other, neither may be called, so the task that serves the
//! connection also [watches](PublicConnection::watch) it.
//!
//! The stream owns the place, because an upgraded connection belongs to the application.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::BoxError;
use crate::auth::ConnectionIdentity;
use crate::limits::connection_activity::{ConnectionActivity, EndReason};
use crate::limits::connection_limit::{ConnectionLimiter, ConnectionPermit};
use crate::limits::fair_share::{Caller, LimitReached};
use crate::reverse_proxy::pool::PrivateConnections;
use crate::task_group::TaskGroup;

/// What a request needs to know of its connection.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    /// The caller's address, if the relay sends it.
    pub(crate) address: Option<IpAddr>,
    pub(crate) caller: Caller,
    pub(crate) activity: Arc<ConnectionActivity>,
    /// Its own connections to the application, which end with it.
    pub(crate) private: Arc<PrivateConnections>,
    /// Who the caller is, as far as the connection has shown it.
    pub(crate) identity: Arc<ConnectionIdentity>,
}

/// See the [module](self). Counts as a task until it is dropped.
#[derive(Debug)]
pub(crate) struct PublicConnection<S> {
    stream: S,
    address: Option<IpAddr>,
    activity: Arc<ConnectionActivity>,
    private: Arc<PrivateConnections>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Ready when upgraded connections have to end.
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    cut_due: bool,
    /// The task that these two wake.
    registered: Option<Waker>,
    permit: ConnectionPermit,
    closed: DropGuard,
    _end: ConnectionEnd,
    _task: TaskTrackerToken,
}

/// Records the end of the connection when dropped.
#[derive(Debug)]
struct ConnectionEnd(Arc<ConnectionActivity>);

impl Drop for ConnectionEnd {
    fn drop(&mut self) {
        self.0.closed();
    }
}

impl<S> PublicConnection<S> {
    /// Takes a place for a connection from this address.
    pub(crate) fn admit(
        stream: S,
        address: Option<IpAddr>,
        limiter: &ConnectionLimiter,
        tasks: &TaskGroup,
    ) -> Result<Self, LimitReached> {
        let activity = Arc::new(ConnectionActivity::new(address));
        let permit = limiter.take(address, Arc::clone(&activity))?;
        Ok(Self {
            stream,
            address,
            _end: ConnectionEnd(Arc::clone(&activity)),
            ended: Box::pin(activity.end_token().cancelled_owned()),
            activity,
            cut: Box::pin(tasks.upgraded_cut().cancelled_owned()),
            cut_due: false,
            registered: None,
            permit,
            private: Arc::default(),
            closed: CancellationToken::new().drop_guard(),
            _task: tasks.token(),
        })
    }

    pub(crate) fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            address: self.address,
            caller: self.permit.caller(),
            activity: Arc::clone(&self.activity),
            private: Arc::clone(&self.private),
            identity: Arc::default(),
        }
    }

    /// Returns a future that ends the connection at the idle timeout. Its result is the reason for
    /// which the device has ended it; `None` once the stream is dropped.
    pub(crate) fn watch(
        &self,
        idle: Duration,
    ) -> impl Future<Output = Option<EndReason>> + Send + use<S> {
        let activity = Arc::clone(&self.activity);
        let closed = self.closed.token().clone();
        async move {
            tokio::select! {
                () = closed.cancelled() => None,
                reason = activity.ended() => Some(reason),
                () = activity.idle(idle) => {
                    activity.end(EndReason::Idle);
                    Some(EndReason::Idle)
                }
            }
        }
    }

    fn count_sent(&self, outcome: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = outcome {
            self.activity.count_sent(*bytes);
        }
    }

    /// Returns the result of a read or write, or an error if the connection has to end.
    fn outcome<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Some(reason) = self.activity.end_reason() {
            return Poll::Ready(Err(reason.into()));
        }
        let is_registered = |waker: &Waker| waker.will_wake(context.waker());
        // The reason above shows the end; a cut concerns upgraded connections. So both are polled
        // for their wake-ups alone, and there is at least one pending read in each request.
        if outcome.is_pending()
            && (!self.registered.as_ref().is_some_and(is_registered)
                || self.activity.is_opaque_only())
        {
            self.registered = Some(context.waker().clone());
            self.cut_due = self.cut_due || self.cut.as_mut().poll(context).is_ready();
            if self.ended.as_mut().poll(context).is_ready() {
                let reason = self.activity.end_reason().unwrap_or(EndReason::Evicted);
                return Poll::Ready(Err(reason.into()));
            }
        }
        if self.cut_due && self.activity.is_opaque_only() {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "remote access is stopping",
            )));
        }
        if outcome.is_ready() {
            self.activity.touch();
        }
        outcome
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> PublicConnection<S> {
    pub(crate) async fn handshake(
        self,
        tls: &TlsAcceptor,
        limit: Duration,
    ) -> Result<TlsStream<Self>, BoxError> {
        match timeout(limit, tls.accept(self)).await {
            Ok(stream) => Ok(stream?),
            Err(_) => Err("the TLS handshake took too long".into()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for PublicConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.activity.count_received(buffer.filled().len() - before);
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
        self.count_sent(&outcome);
        self.outcome(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.count_sent(&outcome);
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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::Instant;

    use super::*;
    use crate::limits::fair_share::{Holder, KnownCallers};

    const IDLE: Duration = Duration::from_secs(10);

    struct TestConnection {
        connection: PublicConnection<DuplexStream>,
        other: DuplexStream,
        activity: Arc<ConnectionActivity>,
        tasks: TaskGroup,
    }

    fn test_connection() -> TestConnection {
        let (stream, other) = duplex(64);
        let limiter = ConnectionLimiter::new(1, 1, KnownCallers::default());
        let (address, tasks) = (Some(IpAddr::from([192, 0, 2, 1])), TaskGroup::default());
        let connection = PublicConnection::admit(stream, address, &limiter, &tasks).unwrap();
        TestConnection {
            activity: connection.info().activity,
            connection,
            other,
            tasks,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connection_ends_and_one_in_use_does_not() {
        let mut test_connection = test_connection();
        let watching = tokio::spawn(test_connection.connection.watch(IDLE));
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
        assert_eq!(watching.await.unwrap(), Some(EndReason::Idle));
        // From then on it is of no use.
        let error = test_connection.connection.write_u8(1).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn watch_ends_with_the_stream() {
        let test_connection = test_connection();
        let watching = tokio::spawn(test_connection.connection.watch(IDLE));
        let start = Instant::now();
        drop(test_connection.connection);
        assert_eq!(watching.await.unwrap(), None);
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_counted_while_open_and_after_the_end() {
        let (stream, mut other) = duplex(64);
        let limiter = ConnectionLimiter::new(1, 1, KnownCallers::default());
        let address = Some(IpAddr::from([192, 0, 2, 1]));
        let tasks = TaskGroup::default();
        let mut connection = PublicConnection::admit(stream, address, &limiter, &tasks).unwrap();
        other.write_all(&[1; 20]).await.unwrap();
        connection.read_exact(&mut [0; 20]).await.unwrap();
        connection.write_all(&[1; 30]).await.unwrap();
        drop(connection.info().activity.start_request());
        tokio::time::advance(IDLE).await;
        let [visitor] = limiter.visitors()[..] else {
            panic!("one visitor is expected");
        };
        assert_eq!(visitor.address, address);
        assert_eq!((visitor.connections, visitor.requests), (1, 1));
        assert_eq!((visitor.received, visitor.sent), (20, 30));
        assert_eq!(visitor.connected_for, IDLE);
        let open = limiter.traffic();
        drop(connection);
        assert!(limiter.visitors().is_empty());
        assert_eq!(limiter.traffic(), open);
        assert_eq!((open.connections, open.requests), (1, 1));
        assert_eq!((open.received, open.sent), (20, 30));
    }

    #[tokio::test]
    async fn only_an_upgraded_connection_is_cut() {
        let mut test_connection = test_connection();
        test_connection.tasks.cut_upgraded();
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
