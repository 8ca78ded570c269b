//! The public end: authenticates devices by their tokens and connects callers to them by the host
//! name in the ClientHello.
//!
//! One listener serves both: a connection that begins with a TLS handshake record is a caller, one
//! that begins like a Fernet token is a device, any other is closed. A [`ListenerConfig`] can
//! restrict a listener to either. The server never terminates TLS: it reads the ClientHello and
//! then bytes that it cannot decrypt.

mod caller;
mod config;
mod device;
mod handle;
mod listener;
mod metrics;
mod registry;
mod rejection;
mod replay_cache;
mod token;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cloud_net::{LogThrottle, info_throttled, warn_throttled};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::ServerConfig;
pub use handle::ServerHandle;
use listener::AddressLimiter;
pub use listener::{ListenerConfig, ListenerRole};
pub use metrics::ServerMetrics;
use metrics::{Metrics, count};
use registry::Registry;
pub use registry::ServerEvent;
use rejection::CallerRejection;
use replay_cache::UsedKeys;
use token::DynAuthenticator;
pub use token::{Authenticator, FernetKeys, TokenContent, TokenError};

use crate::driver::TunnelLogs;
use crate::limits::Timeouts;

/// Size of the first read, which shows the kind of connection.
const FIRST_READ_SIZE: usize = 2048;
/// First byte of a TLS connection: the record type of a ClientHello.
const TLS_HANDSHAKE: u8 = 0x16;
/// Delay before accepting again after an error (most likely no file descriptors are left).
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// A SniTun server. Cheap to clone; clones share the same server.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    authenticator: Box<dyn DynAuthenticator>,
    config: ServerConfig,
    registry: Arc<Registry>,
    in_flight: Arc<Semaphore>,
    per_address: Arc<AddressLimiter>,
    callers_per_address: Arc<AddressLimiter>,
    connections: Arc<Semaphore>,
    used_keys: UsedKeys,
    metrics: Arc<Metrics>,
    logs: LogThrottles,
    tasks: TaskTracker,
    /// Callers that are being served.
    callers: TaskTracker,
    /// Cancelled when no new connections are accepted.
    closing: CancellationToken,
    /// Cancelled when callers are disconnected and tunnels drained.
    stopping: CancellationToken,
}

/// Rate limits of the log lines that remote peers can cause.
#[derive(Default)]
struct LogThrottles {
    accept_failed: LogThrottle,
    refused: LogThrottle,
    full: LogThrottle,
    connected: LogThrottle,
    disconnected: LogThrottle,
    tunnel: TunnelLogs,
}

/// Held until a connection is authenticated or connected: its permits of the total limit and of its
/// address.
#[expect(dead_code, reason = "the places are given up when it is dropped")]
struct InFlight {
    all: OwnedSemaphorePermit,
    of_address: listener::AddressPermit,
}

impl Server {
    /// Creates a server that accepts the devices that `authenticator` accepts.
    pub fn new(authenticator: impl Authenticator, config: ServerConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                authenticator: Box::new(authenticator),
                registry: Arc::new(Registry::new()),
                in_flight: Arc::new(Semaphore::new(permits(config.max_in_flight))),
                per_address: Arc::new(AddressLimiter::new(config.max_in_flight_per_address)),
                callers_per_address: Arc::new(AddressLimiter::new(config.max_callers_per_address)),
                connections: Arc::new(Semaphore::new(permits(config.max_connections))),
                used_keys: UsedKeys::new(config.max_used_keys),
                metrics: Arc::default(),
                logs: LogThrottles::default(),
                tasks: TaskTracker::new(),
                callers: TaskTracker::new(),
                closing: CancellationToken::new(),
                stopping: CancellationToken::new(),
                config,
            }),
        }
    }

    /// Returns a handle to inspect and control the server.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            registry: Arc::clone(&self.inner.registry),
            metrics: Arc::clone(&self.inner.metrics),
        }
    }

    /// Serves connections from `listener` until `shutdown` is ready, then stops the whole server as
    /// [`stop`](Self::stop) does. The listener is closed first.
    ///
    /// # Cancel safety
    /// Dropping the future only stops accepting; connections go on until [`stop`](Self::stop).
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) {
        self.serve_listener(listener, ListenerConfig::default(), shutdown)
            .await;
    }

    /// Like [`serve`](Self::serve), for a listener that accepts only devices or only callers, or
    /// that is behind a load balancer. A server may have any number of listeners; when one shuts
    /// down, all do.
    ///
    /// # Cancel safety
    /// As [`serve`](Self::serve).
    pub async fn serve_listener(
        &self,
        listener: TcpListener,
        config: ListenerConfig,
        shutdown: impl Future<Output = ()> + Send,
    ) {
        tokio::pin!(shutdown);
        loop {
            let accepted = tokio::select! {
                () = &mut shutdown => break,
                () = self.inner.closing.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, caller)) => self.spawn(stream, caller, config),
                Err(error) => {
                    warn_throttled!(self.inner.logs.accept_failed, %error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
        drop(listener);
        self.stop().await;
    }

    /// Serves one connection that was accepted elsewhere, in a new task, as a listener with
    /// `config` would. The device sees `caller` as the caller's address, unless a PROXY header
    /// contains another.
    pub fn spawn(&self, stream: TcpStream, caller: SocketAddr, config: ListenerConfig) {
        let server = self.clone();
        // The task ends with the connection, and all connections end when the server stops.
        self.inner.tasks.spawn(async move {
            server.handle_connection(stream, caller, config).await;
        });
    }

    /// Serves one connection that was accepted elsewhere until it ends; otherwise like
    /// [`spawn`](Self::spawn).
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection, and for a device its tunnel.
    pub async fn handle_connection(
        &self,
        stream: TcpStream,
        caller: SocketAddr,
        config: ListenerConfig,
    ) {
        let inner = &self.inner;
        count(&inner.metrics.counters.connections);
        let Ok(_connection) = Arc::clone(&inner.connections).try_acquire_owned() else {
            count(&inner.metrics.counters.refused_busy);
            inner.log_full(caller, "max_connections", inner.config.max_connections);
            return;
        };
        let Some(in_flight) = inner.begin(caller, config) else {
            return;
        };
        if let Err(error) = inner.dispatch(stream, caller, config, in_flight).await {
            count(&inner.metrics.counters.refused_unknown);
            tracing::debug!(%caller, %error, "connection failed");
        }
    }

    /// Stops the server gracefully: accepts no new connections, lets the current callers finish for
    /// [`stop_grace`](ServerConfig::stop_grace) at most, then closes all tunnels and waits until
    /// every task has ended, a few seconds more (see [`Timeouts::drain`](crate::Timeouts::drain)).
    ///
    /// # Cancel safety
    /// Dropping the future leaves the remaining connections running until another call of this
    /// function, or until they end.
    pub async fn stop(&self) {
        let inner = &self.inner;
        inner.closing.cancel();
        inner.tasks.close();
        inner.callers.close();
        let grace = inner.config.stop_grace;
        if tokio::time::timeout(grace, inner.callers.wait())
            .await
            .is_err()
        {
            let callers = inner.callers.len();
            tracing::info!(callers, "disconnecting callers that did not finish in time");
        }
        inner.stopping.cancel();
        inner.tasks.wait().await;
    }
}

impl Inner {
    /// Acquires the permits of a new connection, if any are free.
    fn begin(&self, caller: SocketAddr, config: ListenerConfig) -> Option<InFlight> {
        // All connections of a load balancer have its address: the source address is only known
        // later.
        let of_address = if config.proxy_protocol {
            AddressLimiter::uncounted(&self.per_address)
        } else {
            self.acquire_address(caller)?
        };
        let Ok(all) = Arc::clone(&self.in_flight).try_acquire_owned() else {
            count(&self.metrics.counters.refused_busy);
            self.log_full(caller, "max_in_flight", self.config.max_in_flight);
            return None;
        };
        Some(InFlight { all, of_address })
    }

    fn acquire_address(&self, caller: SocketAddr) -> Option<listener::AddressPermit> {
        let permit = AddressLimiter::try_acquire(&self.per_address, caller.ip());
        if permit.is_none() {
            count(&self.metrics.counters.refused_address);
            let maximum = self.config.max_in_flight_per_address;
            self.log_full(caller, "max_in_flight_per_address", maximum);
        }
        permit
    }

    /// Logs a connection that was closed at a limit, with the setting of [`ServerConfig`].
    fn log_full(&self, caller: SocketAddr, setting: &str, maximum: usize) {
        info_throttled!(
            self.logs.full,
            %caller,
            setting,
            maximum,
            "too many connections: one was closed; the limit is a setting"
        );
    }

    async fn dispatch(
        &self,
        mut stream: TcpStream,
        mut caller: SocketAddr,
        config: ListenerConfig,
        mut in_flight: InFlight,
    ) -> io::Result<()> {
        // Frames and TLS records are written as a whole: Nagle's algorithm would only delay them.
        stream.set_nodelay(true)?;
        let mut first = Vec::with_capacity(FIRST_READ_SIZE);
        let wait = match config.role {
            ListenerRole::Any | ListenerRole::Callers => self.config.first_byte_timeout,
            ListenerRole::Devices => self.config.token_timeout,
        };
        let until = Instant::now() + wait.min(Timeouts::MAX);
        let begin = async {
            let source = if config.proxy_protocol {
                listener::read_proxy_header(&mut stream, &mut first).await?
            } else {
                None
            };
            // Two bytes show the kind of connection.
            while first.len() < 2
                && (&mut stream)
                    .take(FIRST_READ_SIZE as u64)
                    .read_buf(&mut first)
                    .await?
                    > 0
            {}
            io::Result::Ok(source)
        };
        let source = tokio::select! {
            () = self.closing.cancelled() => return Ok(()),
            begun = tokio::time::timeout_at(until, begin) => match begun {
                Ok(begun) => begun?,
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            },
        };
        if let Some(source) = source {
            caller = source;
            let Some(permit) = self.acquire_address(caller) else {
                return Ok(());
            };
            in_flight.of_address = permit;
        }
        match (first.as_slice(), config.role) {
            ([TLS_HANDSHAKE, ..], ListenerRole::Any | ListenerRole::Callers) => {
                match self
                    .serve_caller(stream, first, caller.ip(), in_flight)
                    .await
                {
                    Ok(stats) => tracing::debug!(%caller, ?stats, "public connection ended"),
                    Err(error) => {
                        self.metrics.count_caller_rejection(&error);
                        if matches!(error, CallerRejection::TooMany) {
                            let maximum = self.config.max_callers_per_address;
                            self.log_full(caller, "max_callers_per_address", maximum);
                        }
                        tracing::debug!(%caller, %error, "public connection closed");
                    }
                }
            }
            // Where callers connect as well, a token must look like a Fernet token.
            ([b'g', b'A', ..], ListenerRole::Any) | ([0x20..=0x7e, ..], ListenerRole::Devices) => {
                // A running tunnel shuts down by itself when the server stops.
                if let Err(error) = self.serve_device(stream, first, until, in_flight).await {
                    self.metrics.count_device_rejection(&error);
                    info_throttled!(self.logs.refused, %caller, %error, "device refused");
                }
            }
            _ => {
                count(&self.metrics.counters.refused_unknown);
                tracing::debug!(%caller, "connection closed: not what this listener accepts");
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("hostnames", &self.inner.registry.hostnames())
            .finish_non_exhaustive()
    }
}

/// Clamps a limit to the maximum that a semaphore can count.
fn permits(limit: usize) -> usize {
    limit.min(Semaphore::MAX_PERMITS)
}
