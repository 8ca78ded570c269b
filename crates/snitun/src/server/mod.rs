//! The public end: lets devices in by their tokens and connects callers to them by the host name in their ClientHello.
//!
//! One port serves both: a connection that begins with a TLS handshake record is a caller, one that begins like a Fernet
//! token is a device, anything else is closed. A [`Port`] may also be for one of them alone. TLS is never ended here: the
//! server sees the ClientHello and then bytes that it cannot read (docs/protocol.md, "SniTun").

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
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::close::CloseReason;
use crate::limits::{Limits, Timeouts};

pub use metrics::ServerMetrics;
use metrics::{Metrics, count};
use port::PerAddress;
pub use port::{Port, PortRole};
use registry::Registry;
pub use registry::ServerEvent;
use spent::SpentKeys;
use token::DynAuthenticator;
pub use token::{Authenticator, FernetKeys, TokenContent, TokenError};

/// Read at first, to see what a connection is.
const FIRST_READ: usize = 2048;
/// How a TLS connection begins: the type of a record with a ClientHello.
const TLS_HANDSHAKE: u8 = 0x16;
/// After accepting failed (most likely no file descriptors are left), how long to wait before trying again.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Bounds on what each tunnel holds.
    pub limits: Limits,
    /// Bounds on waiting, for each tunnel.
    pub timeouts: Timeouts,
    /// Messages of 8 KiB or more sent to a device in a second at most; `None`, the default, for no limit.
    pub throttling: Option<NonZeroU32>,
    /// How long a connection may take until it has shown what it is, and a device until its whole token is there.
    /// Default 10 s.
    pub first_byte_timeout: Duration,
    /// The same where only devices connect ([`PortRole::Devices`]). Default 2 s.
    pub token_timeout: Duration,
    /// How long a caller may take from there to a complete ClientHello. Default 2 s.
    pub hello_timeout: Duration,
    /// Size of the receive buffer of a device's connection, in bytes. Default `None`: the system decides. See
    /// [`prepare_tcp`](crate::prepare_tcp) for what a bound is good for, and what it costs.
    pub receive_buffer: Option<usize>,
    /// How long a public connection may be idle. Default 105 s, in the middle of what the reference does.
    pub public_idle: Duration,
    /// How often a running tunnel's token is looked at. Default 14,400 s.
    pub expiry_check: Duration,
    /// Connections that have not yet shown what they want. Beyond it, new ones are closed at once. Default 512.
    pub max_in_flight: usize,
    /// Such connections from one address. Beyond it, new ones are closed at once. Default 128: a whole office behind one
    /// address, or a load balancer that does not say for whom it speaks, gets by; nobody fills all places alone.
    pub max_in_flight_per_address: usize,
    /// Connections in all. Beyond it, new ones are closed at once. Default 16,384.
    pub max_connections: usize,
    /// `aes-gcm` keys that are remembered until their tokens have run out, so that none is taken twice. Beyond it, devices
    /// that want `aes-gcm` are refused. Default 65,536, at 40 bytes each: 60 new tokens a minute, each good for a day, fit
    /// well; no others are remembered.
    pub max_spent_keys: usize,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            throttling: None,
            first_byte_timeout: Duration::from_secs(10),
            token_timeout: Duration::from_secs(2),
            hello_timeout: Duration::from_secs(2),
            receive_buffer: None,
            public_idle: Duration::from_secs(105),
            expiry_check: Duration::from_secs(14_400),
            max_in_flight: 512,
            max_in_flight_per_address: 128,
            max_connections: 16_384,
            max_spent_keys: 65_536,
        }
    }
}

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
    connections: Arc<Semaphore>,
    spent: SpentKeys,
    metrics: Arc<Metrics>,
    tasks: TaskTracker,
    stopping: CancellationToken,
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
                in_flight: Arc::new(Semaphore::new(config.max_in_flight)),
                per_address: Arc::new(PerAddress::new(config.max_in_flight_per_address)),
                connections: Arc::new(Semaphore::new(config.max_connections)),
                spent: SpentKeys::new(config.max_spent_keys),
                metrics: Arc::default(),
                tasks: TaskTracker::new(),
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
                () = self.inner.stopping.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, caller)) => self.spawn(stream, caller, port),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
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

    /// Closes all tunnels, saying why, and all connections, and waits until every task has ended: at most a few seconds
    /// (see [`Timeouts::drain`]). The server lets nobody in afterwards.
    pub async fn stop(&self) {
        self.inner.stopping.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
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
        let until = Instant::now()
            + match port.role {
                PortRole::Any | PortRole::Callers => self.config.first_byte_timeout,
                PortRole::Devices => self.config.token_timeout,
            };
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
            () = self.stopping.cancelled() => return Ok(()),
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
                let public = self.public(stream, first, caller.ip(), in_flight);
                tokio::select! {
                    () = self.stopping.cancelled() => {}
                    ended = public => match ended {
                        Ok(relayed) => tracing::debug!(%caller, ?relayed, "public connection ended"),
                        Err(error) => {
                            self.metrics.rejection(&error);
                            tracing::debug!(%caller, %error, "public connection closed");
                        }
                    },
                }
            }
            // Where callers may come as well, a token has to look like one of Fernet.
            ([b'g', b'A', ..], PortRole::Any) | ([0x20..=0x7e, ..], PortRole::Devices) => {
                // A tunnel that is up says goodbye by itself when the server stops.
                if let Err(error) = self.tunnel(stream, first, until, in_flight).await {
                    self.metrics.refusal(&error);
                    tracing::info!(%caller, %error, "device refused");
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

/// A server, seen from outside. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    registry: Arc<Registry>,
    metrics: Arc<Metrics>,
}

impl ServerHandle {
    /// Whether a device is connected under this host name or alias.
    pub fn is_connected(&self, hostname: &str) -> bool {
        self.registry.find(hostname).is_some()
    }

    /// The host names of all connected devices, in lower case and in order.
    pub fn hostnames(&self) -> Vec<String> {
        self.registry.hostnames()
    }

    /// Closes the tunnel of the device under this host name or alias; returns whether there was one.
    pub fn disconnect(&self, hostname: &str) -> bool {
        let peer = self.registry.find(hostname);
        if let Some(peer) = &peer {
            peer.tunnel.close_because(CloseReason::Local);
        }
        peer.is_some()
    }

    /// What the server has done so far: connections, refusals by their reason, and what the tunnels have carried. Looks at
    /// each tunnel in turn, so it is for every few seconds rather than for every request.
    pub fn metrics(&self) -> ServerMetrics {
        self.metrics.snapshot()
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<ServerEvent> {
        self.registry.subscribe()
    }
}
