//! The public end: lets devices in by their tokens and connects callers to them by the host name in their ClientHello.
//!
//! One port serves both: a connection that begins with a TLS handshake record is a caller, one that begins like a Fernet
//! token is a device, anything else is closed. A [`Port`] may also be for one of them alone. TLS is never ended here: the
//! server sees the ClientHello and then bytes that it cannot read ([`docs/protocol.md`] in the repository, "SniTun").
//!
//! [`docs/protocol.md`]: https://github.com/clesyde/clesyde-cloud-rs/blob/main/docs/protocol.md#snitun

mod config;
mod handle;
mod metrics;
mod port;
mod public;
mod registry;
mod spent;
mod token;
mod tunnel;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
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
pub use metrics::ServerMetrics;
use metrics::{Metrics, count};
use port::PerAddress;
pub use port::{Port, PortRole};
use registry::Registry;
pub use registry::ServerEvent;
use spent::SpentKeys;
use token::DynAuthenticator;
pub use token::{Authenticator, FernetKeys, TokenContent, TokenError};

use crate::limits::Timeouts;

/// Read at first, to see what a connection is.
const FIRST_READ: usize = 2048;
/// How a TLS connection begins: the type of a record with a ClientHello.
const TLS_HANDSHAKE: u8 = 0x16;
/// After accepting failed (most likely no file descriptors are left), how long to wait before trying again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A SniTun server. Cheap to clone; clones are the same server.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    authenticator: Box<dyn DynAuthenticator>,
    config: ServerConfig,
    registry: Arc<Registry>,
    in_flight: Arc<Semaphore>,
    per_address: Arc<PerAddress>,
    callers_per_address: Arc<PerAddress>,
    connections: Arc<Semaphore>,
    spent: SpentKeys,
    metrics: Arc<Metrics>,
    logs: LogThrottles,
    tasks: TaskTracker,
    /// The callers that are being served.
    callers: TaskTracker,
    /// Nobody new is let in.
    closing: CancellationToken,
    /// Callers are cut off and tunnels drained.
    stopping: CancellationToken,
}

/// The rate limits of the log lines that devices, and whatever else connects, can cause.
#[derive(Default)]
struct LogThrottles {
    accept_failed: LogThrottle,
    refused: LogThrottle,
    connected: LogThrottle,
    disconnected: LogThrottle,
    malformed: Arc<LogThrottle>,
}

/// Held while a connection has not yet shown what it wants: its place among all and among those of its address.
#[expect(dead_code, reason = "the places are given up when it is dropped")]
struct InFlight {
    all: OwnedSemaphorePermit,
    of_address: port::Place,
}

impl Server {
    /// A server that lets in whom `authenticator` lets in.
    pub fn new(authenticator: impl Authenticator, config: ServerConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                authenticator: Box::new(authenticator),
                registry: Arc::new(Registry::new()),
                in_flight: Arc::new(Semaphore::new(permits(config.max_in_flight))),
                per_address: Arc::new(PerAddress::new(config.max_in_flight_per_address)),
                callers_per_address: Arc::new(PerAddress::new(config.max_callers_per_address)),
                connections: Arc::new(Semaphore::new(permits(config.max_connections))),
                spent: SpentKeys::new(config.max_spent_keys),
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

    /// For looking at the server, and reaching into it, from elsewhere.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            registry: Arc::clone(&self.inner.registry),
            metrics: Arc::clone(&self.inner.metrics),
        }
    }

    /// Serves connections from `listener` until `shutdown` is ready, then stops the whole server as
    /// [`stop`](Self::stop) does. The port is closed before that begins.
    ///
    /// # Cancel safety
    /// Dropping the future only stops accepting; connections go on until [`stop`](Self::stop).
    pub async fn serve(&self, listener: TcpListener, shutdown: impl Future<Output = ()> + Send) {
        self.serve_port(listener, Port::default(), shutdown).await;
    }

    /// Like [`serve`](Self::serve), for a port that takes devices or callers only, or that has a load balancer in front of
    /// it. A server may have any number of ports; when one is shut down, all are.
    ///
    /// # Cancel safety
    /// As [`serve`](Self::serve).
    pub async fn serve_port(
        &self,
        listener: TcpListener,
        port: Port,
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
                Ok((stream, caller)) => self.spawn(stream, caller, port),
                Err(error) => {
                    warn_throttled!(self.inner.logs.accept_failed, %error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        drop(listener);
        self.stop().await;
    }

    /// Serves one connection that was accepted elsewhere, in a task of its own, as `port` would. `caller` is the address that
    /// the device gets to see, unless a PROXY header names another.
    pub fn spawn(&self, stream: TcpStream, caller: SocketAddr, port: Port) {
        let server = self.clone();
        // The task ends with the connection, and all connections end when the server stops.
        self.inner.tasks.spawn(async move {
            server.handle_connection(stream, caller, port).await;
        });
    }

    /// Serves one connection that was accepted elsewhere, to its end; otherwise like [`spawn`](Self::spawn).
    ///
    /// # Cancel safety
    /// Dropping the future ends the connection, and with a device's connection its tunnel.
    pub async fn handle_connection(&self, stream: TcpStream, caller: SocketAddr, port: Port) {
        let inner = &self.inner;
        count(&inner.metrics.counters.connections);
        let Ok(_connection) = Arc::clone(&inner.connections).try_acquire_owned() else {
            count(&inner.metrics.counters.refused_busy);
            tracing::debug!(%caller, "connection closed: too many are open");
            return;
        };
        let Some(in_flight) = inner.begin(caller.ip(), port) else {
            tracing::debug!(%caller, "connection closed: too many are in flight");
            return;
        };
        if let Err(error) = inner.sort_out(stream, caller, port, in_flight).await {
            count(&inner.metrics.counters.refused_unknown);
            tracing::debug!(%caller, %error, "connection failed");
        }
    }

    /// Lets nobody new in, leaves the callers that are being served to finish, for
    /// [`stop_grace`](ServerConfig::stop_grace) at most, then closes all tunnels, saying why, and waits until every task has
    /// ended: a few seconds more (see [`Timeouts::drain`](crate::Timeouts::drain)).
    ///
    /// # Cancel safety
    /// Dropping the future leaves what is still going on to another call of this function, or to its own end.
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
            tracing::info!(
                callers,
                "callers are cut off, they have not finished in time"
            );
        }
        inner.stopping.cancel();
        inner.tasks.wait().await;
    }
}

impl Inner {
    /// A place for a connection that has just begun, if there is one.
    fn begin(&self, address: IpAddr, port: Port) -> Option<InFlight> {
        // All connections of a load balancer have its address: whom they are for is only seen later.
        let of_address = if port.proxy_protocol {
            PerAddress::uncounted(&self.per_address)
        } else {
            self.place_of(address)?
        };
        let Ok(all) = Arc::clone(&self.in_flight).try_acquire_owned() else {
            count(&self.metrics.counters.refused_busy);
            return None;
        };
        Some(InFlight { all, of_address })
    }

    fn place_of(&self, address: IpAddr) -> Option<port::Place> {
        let place = PerAddress::take(&self.per_address, address);
        if place.is_none() {
            count(&self.metrics.counters.refused_address);
        }
        place
    }

    async fn sort_out(
        &self,
        mut stream: TcpStream,
        mut caller: SocketAddr,
        port: Port,
        mut in_flight: InFlight,
    ) -> io::Result<()> {
        // Frames and TLS records are complete when they are written: waiting for more only costs time.
        stream.set_nodelay(true)?;
        let mut first = Vec::with_capacity(FIRST_READ);
        let wait = match port.role {
            PortRole::Any | PortRole::Callers => self.config.first_byte_timeout,
            PortRole::Devices => self.config.token_timeout,
        };
        let until = Instant::now() + wait.min(Timeouts::LONGEST);
        let begin = async {
            let source = if port.proxy_protocol {
                port::read_proxy_header(&mut stream, &mut first).await?
            } else {
                None
            };
            // Two bytes tell what it is.
            while first.len() < 2
                && (&mut stream)
                    .take(FIRST_READ as u64)
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
            let Some(place) = self.place_of(caller.ip()) else {
                tracing::debug!(%caller, "connection closed: too many are open from its address");
                return Ok(());
            };
            in_flight.of_address = place;
        }
        match (first.as_slice(), port.role) {
            ([TLS_HANDSHAKE, ..], PortRole::Any | PortRole::Callers) => {
                match self.public(stream, first, caller.ip(), in_flight).await {
                    Ok(relayed) => tracing::debug!(%caller, ?relayed, "public connection ended"),
                    Err(error) => {
                        self.metrics.rejection(&error);
                        tracing::debug!(%caller, %error, "public connection closed");
                    }
                }
            }
            // Where callers may come as well, a token has to look like one of Fernet.
            ([b'g', b'A', ..], PortRole::Any) | ([0x20..=0x7e, ..], PortRole::Devices) => {
                // A tunnel that is up says goodbye by itself when the server stops.
                if let Err(error) = self.tunnel(stream, first, until, in_flight).await {
                    self.metrics.refusal(&error);
                    info_throttled!(self.logs.refused, %caller, %error, "device refused");
                }
            }
            _ => {
                count(&self.metrics.counters.refused_unknown);
                tracing::debug!(%caller, "connection closed: not what this port is for");
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

/// As many places as a limit says; there is a number beyond which a semaphore cannot count.
fn permits(limit: usize) -> usize {
    limit.min(Semaphore::MAX_PERMITS)
}
