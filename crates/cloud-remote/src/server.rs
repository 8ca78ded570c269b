//! Serves the public connections that arrive through the tunnel, each in its own task.
//!
//! A connection passes the access rules and limits, then TLS (unless it is passed through), then
//! reaches the application. Errors of a connection are logged at debug level and affect neither the
//! others nor the tunnel.
//!
//! Invariants:
//! - Accepting a connection never waits.
//! - Each stage has a timeout: TLS handshake, request header, and idle timeout.

pub(crate) mod access;
pub(crate) mod error_page;
mod http;
mod public_connection;
pub(crate) mod request;
pub(crate) mod tls;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use cloud_net::{LogThrottle, warn_throttled};
use snitun::Channel;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::access::SharedAccess;
use self::http::{ConnectionInfo, HttpServer};
use self::public_connection::PublicConnection;
use self::tls::CurrentCertificate;
use crate::BoxError;
use crate::application::{Application, HttpService};
use crate::limits::Limits;
use crate::limits::connection_activity::ConnectionActivity;
use crate::limits::connection_limit::ConnectionLimiter;
use crate::limits::fair_share::KnownCallers;
use crate::request_policy::RequestPolicy;
use crate::reverse_proxy;
use crate::task_group::TaskGroup;
use crate::upstream::copy;
use crate::upstream::proxy_protocol::ProxyProtocol;
use crate::upstream::{Upstream, UpstreamStream};

/// See the [module](self).
pub(crate) struct Server {
    /// The backend of new connections; an open connection keeps its own.
    backend: RwLock<Arc<Backend>>,
    certificate: Arc<CurrentCertificate>,
    access: SharedAccess,
    limits: Limits,
    connections: ConnectionLimiter,
    http: Arc<HttpServer>,
    tasks: TaskGroup,
    full_log: LogThrottle,
    unreachable_log: LogThrottle,
}

/// The application with its TLS configuration and service.
enum Backend {
    Http {
        tls: TlsAcceptor,
        service: HttpService,
        /// Whether WebSockets may start over HTTP/2 (RFC 8441).
        websocket_over_http2: bool,
    },
    Tcp {
        tls: TlsAcceptor,
        upstream: Upstream,
        proxy_protocol: Option<ProxyProtocol>,
    },
    Passthrough {
        upstream: Upstream,
    },
}

impl Backend {
    fn new(
        application: Application,
        certificate: &Arc<CurrentCertificate>,
        limits: &Limits,
        tasks: &TaskGroup,
    ) -> Result<Self, rustls::Error> {
        let http = |service, websocket_over_http2| {
            let tls = TlsAcceptor::from(tls::server_config(
                Arc::clone(certificate),
                &[b"h2", b"http/1.1"],
            )?);
            Ok::<_, rustls::Error>(Backend::Http {
                tls,
                service,
                websocket_over_http2,
            })
        };
        Ok(match application {
            Application::Service(service) => http(service.0, true)?,
            // The local application uses HTTP/1.1, which starts WebSockets in another way.
            Application::Forward(upstream) => http(
                reverse_proxy::service(upstream, tasks.clone(), limits.idle),
                false,
            )?,
            Application::ForwardTcp {
                upstream,
                proxy_protocol,
            } => {
                // The inner protocol is unknown, so ALPN selects none.
                let tls = TlsAcceptor::from(tls::server_config(Arc::clone(certificate), &[])?);
                Backend::Tcp {
                    tls,
                    upstream,
                    proxy_protocol,
                }
            }
            Application::Passthrough(upstream) => Backend::Passthrough { upstream },
        })
    }
}

impl Server {
    pub(crate) fn new(
        application: Application,
        certificate: Arc<CurrentCertificate>,
        access: SharedAccess,
        policy: RequestPolicy,
        limits: Limits,
        tasks: TaskGroup,
    ) -> Result<Self, rustls::Error> {
        let limits = limits.clamped();
        let backend = Backend::new(application, &certificate, &limits, &tasks)?;
        let known = KnownCallers::default();
        let (all, per_caller) = (limits.connections, limits.connections_per_address);
        let connections = ConnectionLimiter::new(all, per_caller, known.clone());
        let http = HttpServer::new(limits, policy, connections.clone(), known, tasks.clone());
        Ok(Self {
            backend: RwLock::new(Arc::new(backend)),
            certificate,
            access,
            limits,
            connections,
            http: Arc::new(http),
            tasks,
            full_log: LogThrottle::new(),
            unreachable_log: LogThrottle::new(),
        })
    }

    /// Serves another application to new connections.
    pub(crate) fn set_application(&self, application: Application) -> Result<(), rustls::Error> {
        let backend = Backend::new(application, &self.certificate, &self.limits, &self.tasks)?;
        *self.backend.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(backend);
        Ok(())
    }

    fn backend(&self) -> Arc<Backend> {
        Arc::clone(&self.backend.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the limiter of its connections.
    pub(crate) fn connections(&self) -> ConnectionLimiter {
        self.connections.clone()
    }

    /// Accepts a channel of the tunnel. Returns at once.
    pub(crate) fn accept_channel(self: &Arc<Self>, channel: Channel) {
        let address = channel.peer_ip();
        self.accept(channel, address);
    }

    /// Accepts a public connection. Returns at once.
    pub(crate) fn accept<S>(self: &Arc<Self>, stream: S, address: Option<IpAddr>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let address = access::known(address);
        if !self.access.permits(address) {
            tracing::debug!(caller = ?address, "a caller was refused by the access rules");
            return;
        }
        let activity = Arc::<ConnectionActivity>::default();
        let permit = match self.connections.take(address, Arc::clone(&activity)) {
            Ok(permit) => permit,
            Err(limit) => {
                warn_throttled!(self.full_log, caller = ?address, ?limit, "too many connections: a caller was refused");
                return;
            }
        };
        let connection = ConnectionInfo {
            address,
            caller: permit.caller(),
            activity: Arc::clone(&activity),
        };
        let idle = self.limits.idle;
        let stream = PublicConnection::new(
            stream,
            idle,
            Arc::clone(&activity),
            self.tasks.upgraded_cut(),
            permit,
            self.tasks.token(),
        );
        let server = Arc::clone(self);
        self.tasks.spawn(async move {
            let served = tokio::select! {
                served = server.serve(stream, connection) => served,
                error = activity.idle(idle) => Err(error.into()),
                () = activity.evicted().cancelled() => Err("the connection was evicted for another caller".into()),
            };
            match served {
                Ok(()) => tracing::trace!(caller = ?address, "a public connection has ended"),
                Err(error) => {
                    tracing::debug!(caller = ?address, %error, "a public connection has ended")
                }
            }
        });
    }

    async fn serve<S>(&self, stream: S, connection: ConnectionInfo) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        match &*self.backend() {
            Backend::Http {
                tls,
                service,
                websocket_over_http2,
            } => {
                let stream = self.handshake(tls, stream).await?;
                let service = service.clone();
                if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    let websocket = *websocket_over_http2;
                    self.http
                        .serve_http2(stream, service, connection, websocket)
                        .await
                } else {
                    self.http.serve_http1(stream, service, connection).await
                }
            }
            Backend::Tcp {
                tls,
                upstream,
                proxy_protocol,
            } => {
                let stream = self.handshake(tls, stream).await?;
                connection.activity.set_opaque();
                let header = proxy_protocol
                    .map(|version| version.header(connection.address))
                    .unwrap_or_default();
                let application = self.connect(upstream).await?;
                Ok(copy::copy_to_upstream(stream, application, &header).await?)
            }
            Backend::Passthrough { upstream } => {
                connection.activity.set_opaque();
                let application = self.connect(upstream).await?;
                Ok(copy::copy_to_upstream(stream, application, &[]).await?)
            }
        }
    }

    async fn connect(&self, upstream: &Upstream) -> io::Result<UpstreamStream> {
        let connected = upstream.connect().await;
        if let Err(error) = &connected {
            warn_throttled!(self.unreachable_log, %upstream, %error, "the local application cannot be reached: is it running?");
        }
        connected
    }

    async fn handshake<S>(&self, tls: &TlsAcceptor, stream: S) -> Result<TlsStream<S>, BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        match timeout(self.limits.tls_handshake, tls.accept(stream)).await {
            Ok(stream) => Ok(stream?),
            Err(_) => Err("the TLS handshake took too long".into()),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Server")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
