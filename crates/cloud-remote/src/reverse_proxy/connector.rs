//! Opens connections to the application.
//!
//! An application that is being restarted refuses connections for a moment. So a refused connection
//! is tried again, for a limited time from the first refusal: while an application stays away, its
//! callers do not wait.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout};

use super::connection::{Connection, handshake_error};
use super::early_response::EarlyResponseStream;
use super::failure::{RecordedStream, ResponseRecord};
use super::options::{ForwardOptions, UpstreamProtocol};
use crate::limits::Limits;
use crate::shared_setting::SharedSetting;
use crate::task_group::TaskGroup;
use crate::upstream::Upstream;

/// The interval of attempts while the application refuses connections.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Refusals that are further apart belong to different outages.
const OUTAGE_GAP: Duration = Duration::from_secs(10);
/// The timeout of TLS and HTTP/2 handshakes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Read buffer of a response that the caller does not read: the same size as HTTP/2 buffers. It
/// also bounds the header of a response.
const RESPONSE_BUFFER: usize = 64 * 1024;
/// The receive window of an HTTP/2 connection: that of 256 streams, so that callers that do not
/// read their responses do not stop the others.
const CONNECTION_WINDOW: u32 = 256 * 64 * 1024;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Connector {
    upstream: Upstream,
    options: ForwardOptions,
    tasks: TaskGroup,
    limits: SharedSetting<Limits>,
    /// The first and the last refusal of the current outage.
    outage: Mutex<Option<(Instant, Instant)>>,
}

impl Connector {
    pub(super) fn new(
        upstream: Upstream,
        options: ForwardOptions,
        tasks: TaskGroup,
        limits: SharedSetting<Limits>,
    ) -> Self {
        Self {
            upstream,
            options,
            tasks,
            limits,
            outage: Mutex::default(),
        }
    }

    /// Opens a connection; one of HTTP/1.1 if it has to carry an upgrade.
    pub(super) async fn connect(&self, upgrade: bool) -> io::Result<Connection> {
        loop {
            match self.connect_once(upgrade).await {
                Err(error) if self.is_refusal(&error) && self.may_retry() => {
                    sleep(RETRY_INTERVAL).await;
                }
                Err(error) => return Err(error),
                Ok(connection) => {
                    *self.outage() = None;
                    return Ok(connection);
                }
            }
        }
    }

    /// A socket's file is absent while its application restarts.
    fn is_refusal(&self, error: &io::Error) -> bool {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => true,
            #[cfg(unix)]
            io::ErrorKind::NotFound => matches!(self.upstream, Upstream::Unix(_)),
            _ => false,
        }
    }

    /// Records a refusal, and returns whether to try again.
    fn may_retry(&self) -> bool {
        let now = Instant::now();
        let mut outage = self.outage();
        let since = match *outage {
            Some((since, last)) if now - last < OUTAGE_GAP => since,
            _ => now,
        };
        *outage = Some((since, now));
        now - since < self.options.restart_wait
    }

    fn outage(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Instant)>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect_once(&self, upgrade: bool) -> io::Result<Connection> {
        let stream = self.upstream.connect().await?;
        let handshake = async {
            match &self.options.protocol {
                UpstreamProtocol::Http1 => self.http1(stream).await,
                UpstreamProtocol::Http2 => self.http2(stream).await,
                UpstreamProtocol::Tls(tls) => {
                    let (stream, is_http2) = tls.connect(stream, upgrade).await?;
                    if is_http2 {
                        self.http2(stream).await
                    } else {
                        self.http1(stream).await
                    }
                }
            }
        };
        timeout(HANDSHAKE_TIMEOUT, handshake)
            .await
            .unwrap_or_else(|_| {
                Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "the local application does not complete the handshake",
                ))
            })
    }

    async fn http1<S>(&self, stream: S) -> io::Result<Connection>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let record = ResponseRecord::default();
        let stream = RecordedStream::new(EarlyResponseStream::new(stream), record.clone());
        let stream = TokioIo::new(stream);
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(RESPONSE_BUFFER)
            .title_case_headers(self.options.title_case_headers)
            // RFC 9112 §5.1.
            .allow_spaces_after_header_name_in_responses(true);
        if let Some(fields) = self.limits.get().header_table() {
            builder.max_headers(fields);
        }
        let (sender, connection) = builder.handshake(stream).await.map_err(handshake_error)?;
        let connection = connection.with_upgrades();
        drop(self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the application has failed");
            }
        }));
        Ok(Connection::Http1(sender, record))
    }

    async fn http2<S>(&self, stream: S) -> io::Result<Connection>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http2::Builder::new(self.tasks.clone())
            .timer(TokioTimer::new())
            .initial_stream_window_size(RESPONSE_BUFFER as u32)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(RESPONSE_BUFFER as u32)
            .max_send_buf_size(RESPONSE_BUFFER)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(handshake_error)?;
        drop(self.tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the application has failed");
            }
        }));
        sender.ready().await.map_err(handshake_error)?;
        Ok(Connection::Http2(sender))
    }
}
