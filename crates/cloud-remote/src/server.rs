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
mod half_close;
pub(crate) mod http;
pub(crate) mod public_connection;
pub(crate) mod request;
pub(crate) mod request_context;
pub(crate) mod request_monitor;
pub(crate) mod tls;
mod websocket_keep_alive;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use cloud_net::{LogThrottle, warn_throttled};
use snitun::Channel;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use self::access::SharedAccess;
use self::half_close::HalfCloseStream;
use self::http::HttpServer;
use self::public_connection::{ConnectionInfo, PublicConnection};
use self::request_monitor::ConnectionMonitor;
use self::tls::{CurrentCertificate, TlsEndpoint};
use crate::BoxError;
use crate::access_record::{Observer, Refusal};
use crate::application::{Application, HttpService};
use crate::auth::{AuthLayer, ClientCertificates, ConnectionIdentity};
use crate::limits::Limits;
use crate::limits::connection_activity::EndReason;
use crate::limits::connection_limit::ConnectionLimiter;
use crate::limits::fair_share::{KnownCallers, LimitReached};
use crate::request_policy::RequestPolicy;
use crate::reverse_proxy;
use crate::shared_setting::SharedSetting;
use crate::task_group::TaskGroup;
use crate::upstream::copy;
use crate::upstream::health::{HealthRecords, UpstreamFailure};
use crate::upstream::proxy_protocol::ProxyProtocol;
use crate::upstream::{Upstream, UpstreamStream};

/// See the [module](self).
pub(crate) struct Server {
    /// The backend of new connections; an open connection keeps its own.
    backend: RwLock<Arc<Backend>>,
    certificate: Arc<CurrentCertificate>,
    access: SharedAccess,
    auth: AuthLayer,
    limits: SharedSetting<Limits>,
    connections: ConnectionLimiter,
    http: Arc<HttpServer>,
    tasks: TaskGroup,
    upstream_health: HealthRecords,
    unguarded_log: LogThrottle,
    observer: Option<Observer>,
    full_log: LogThrottle,
    idle_log: LogThrottle,
    unreachable_log: LogThrottle,
}

/// The application with its TLS configuration and service.
enum Backend {
    Http {
        tls: TlsEndpoint,
        service: HttpService,
        /// Whether WebSockets may start over HTTP/2 (RFC 8441).
        websocket_over_http2: bool,
    },
    Tcp {
        tls: TlsEndpoint,
        upstream: Upstream,
        proxy_protocol: Option<ProxyProtocol>,
    },
    Passthrough {
        upstream: Upstream,
    },
}

/// What the backends of a server share.
struct BackendContext<'a> {
    certificate: &'a Arc<CurrentCertificate>,
    auth: &'a AuthLayer,
    limits: &'a SharedSetting<Limits>,
    tasks: &'a TaskGroup,
    health: &'a HealthRecords,
}

impl BackendContext<'_> {
    /// Returns the service of an application that takes HTTP, and whether WebSockets may start over
    /// HTTP/2; `None` for others.
    fn http_service(&self, application: Application) -> Option<(HttpService, bool)> {
        match application {
            Application::Service(service) => Some((service.0, true)),
            // The local application uses HTTP/1.1, which starts WebSockets in another way.
            Application::Forward { upstream, options } => {
                let health = self.health.of(&upstream);
                let (tasks, limits) = (self.tasks.clone(), self.limits.clone());
                let service = reverse_proxy::service(upstream, options, tasks, limits, health);
                Some((service, false))
            }
            Application::Routes(routes) => {
                let mut websocket_over_http2 = true;
                let service = routes.into_service(|application| {
                    let (service, websocket) = self.http_service(application).ok_or(())?;
                    websocket_over_http2 &= websocket;
                    Ok::<_, ()>(service)
                });
                Some((service.ok()?, websocket_over_http2))
            }
            Application::ForwardTcp { .. } | Application::Passthrough(_) => None,
        }
    }

    fn tls(
        &self,
        protocols: Vec<Vec<u8>>,
        clients: ClientCertificates,
    ) -> Result<TlsEndpoint, rustls::Error> {
        let certificate = Arc::clone(self.certificate);
        TlsEndpoint::new(certificate, protocols, clients, self.auth.clone())
    }

    fn backend(&self, application: Application) -> Result<Backend, rustls::Error> {
        self.health.retain(&application.upstreams());
        Ok(match application {
            Application::ForwardTcp {
                upstream,
                proxy_protocol,
                alpn,
            } => {
                // The inner protocol is unknown, so ALPN selects none unless it is given.
                let protocols = alpn.into_iter().map(String::into_bytes).collect();
                Backend::Tcp {
                    tls: self.tls(protocols, ClientCertificates::Required)?,
                    upstream,
                    proxy_protocol,
                }
            }
            Application::Passthrough(upstream) => Backend::Passthrough { upstream },
            application => {
                let service = self.http_service(application);
                let (service, websocket_over_http2) = service.ok_or_else(|| {
                    rustls::Error::General("an application takes no HTTP".to_owned())
                })?;
                let protocols = ["h2", "http/1.1", "http/1.0"].map(Into::into).to_vec();
                Backend::Http {
                    // The guard answers a request without a certificate, so that people see a page.
                    tls: self.tls(protocols, ClientCertificates::Optional)?,
                    service,
                    websocket_over_http2,
                }
            }
        })
    }
}

impl Backend {
    /// Returns whether the current rules can be enforced for this kind of application.
    fn can_be_guarded(&self, auth: &AuthLayer) -> bool {
        match self {
            Backend::Http { .. } => true,
            Backend::Tcp { .. } => auth.rules().is_for_connections(),
            Backend::Passthrough { .. } => auth.rules().is_empty(),
        }
    }
}

/// Which callers and requests a server admits, and who learns of them.
pub(crate) struct ServerSettings {
    pub(crate) access: SharedAccess,
    pub(crate) auth: AuthLayer,
    pub(crate) policy: RequestPolicy,
    pub(crate) limits: Limits,
    pub(crate) observer: Option<Observer>,
}

impl Server {
    pub(crate) fn new(
        application: Application,
        certificate: Arc<CurrentCertificate>,
        settings: ServerSettings,
        tasks: TaskGroup,
    ) -> Result<Self, rustls::Error> {
        let ServerSettings {
            access,
            auth,
            policy,
            limits,
            observer,
        } = settings;
        let limits = limits.clamped();
        let (all, per_caller) = (limits.connections, limits.connections_per_address);
        let limits = SharedSetting::new(limits);
        let upstream_health = HealthRecords::default();
        let context = BackendContext {
            certificate: &certificate,
            auth: &auth,
            limits: &limits,
            tasks: &tasks,
            health: &upstream_health,
        };
        let backend = context.backend(application)?;
        let known = KnownCallers::default();
        let connections = ConnectionLimiter::new(all, per_caller, known.clone());
        let http = HttpServer::new(
            limits.clone(),
            policy,
            auth.clone(),
            connections.clone(),
            known,
            tasks.clone(),
            observer.clone(),
        );
        Ok(Self {
            backend: RwLock::new(Arc::new(backend)),
            certificate,
            access,
            auth,
            limits,
            connections,
            http: Arc::new(http),
            tasks,
            upstream_health,
            unguarded_log: LogThrottle::new(),
            observer,
            full_log: LogThrottle::new(),
            idle_log: LogThrottle::new(),
            unreachable_log: LogThrottle::new(),
        })
    }

    /// Serves another application to new connections.
    pub(crate) fn set_application(&self, application: Application) -> Result<(), rustls::Error> {
        let context = BackendContext {
            certificate: &self.certificate,
            auth: &self.auth,
            limits: &self.limits,
            tasks: &self.tasks,
            health: &self.upstream_health,
        };
        let backend = context.backend(application)?;
        *self.backend.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(backend);
        Ok(())
    }

    /// Changes the limits: those of durations for new connections and requests, those of numbers at
    /// once. Open connections stay.
    pub(crate) fn set_limits(&self, limits: Limits) {
        let limits = limits.clamped();
        let (all, per_caller) = (limits.connections, limits.connections_per_address);
        self.limits.set(limits);
        self.connections.set_limits(all, per_caller);
        self.http.limits_changed();
    }

    /// Replaces the request policy for later requests, also on open connections.
    pub(crate) fn set_policy(&self, policy: RequestPolicy) {
        self.http.set_policy(policy);
    }

    fn backend(&self) -> Arc<Backend> {
        Arc::clone(&self.backend.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns the records of the local applications' failures.
    pub(crate) fn upstream_health(&self) -> &HealthRecords {
        &self.upstream_health
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
            self.observe_refusal(address, Refusal::AccessRules);
            return;
        }
        let connection =
            match PublicConnection::admit(stream, address, &self.connections, &self.tasks) {
                Ok(connection) => connection,
                Err(limit) => return self.log_refused(address, limit),
            };
        let activity = connection.info().activity;
        let idle = self.limits.get().idle;
        let watch = connection.watch(idle);
        let server = Arc::clone(self);
        self.tasks.spawn(async move {
            // Boxed, as its parts are: `select!` and each `async` block have room of their own for
            // what they are given, and most connections are idle.
            let serve = Box::pin(async {
                match server.serve(connection).await {
                    Ok(()) => tracing::trace!(caller = ?address, "a public connection has ended"),
                    Err(error) => {
                        tracing::debug!(caller = ?address, %error, "a public connection has ended");
                    }
                }
                // An upgraded connection belongs to the application now, and is watched until it
                // is dropped.
                std::future::pending::<()>().await;
            });
            // Asked before the requests are dropped.
            let watch = async { (watch.await, activity.is_in_use()) };
            let (ended, was_in_use) = tokio::select! {
                ended = watch => ended,
                () = serve => (None, false),
            };
            match ended {
                Some(EndReason::Idle) if was_in_use => warn_throttled!(
                    server.idle_log,
                    caller = ?address,
                    setting = "Limits::idle",
                    seconds = idle.as_secs(),
                    "a connection in use was closed because it was idle"
                ),
                Some(reason) => {
                    tracing::debug!(caller = ?address, ?reason, "a public connection was ended");
                }
                None => {}
            }
        });
    }

    fn log_refused(&self, address: Option<IpAddr>, limit: LimitReached) {
        self.observe_refusal(
            address,
            match limit {
                LimitReached::PerCaller => Refusal::ConnectionsPerCaller,
                LimitReached::Total | LimitReached::Unknown => Refusal::Connections,
            },
        );
        let limits = self.limits.get();
        let (setting, maximum) = match limit {
            LimitReached::PerCaller => (
                "Limits::connections_per_address",
                limits.connections_per_address,
            ),
            LimitReached::Total | LimitReached::Unknown => {
                ("Limits::connections", limits.connections)
            }
        };
        warn_throttled!(
            self.full_log,
            caller = ?address,
            ?limit,
            setting,
            maximum,
            "too many connections: a caller was refused"
        );
    }

    async fn serve<S>(&self, connection: PublicConnection<S>) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut info = connection.info();
        let backend = self.backend();
        if !backend.can_be_guarded(&self.auth) {
            warn_throttled!(
                self.unguarded_log,
                "callers are refused: the rules for passwords or certificates cannot be enforced for this kind of \
                 application"
            );
            self.observe_refusal(info.address, Refusal::Authentication);
            return Ok(());
        }
        match &*backend {
            Backend::Http {
                tls,
                service,
                websocket_over_http2,
            } => {
                let stream = Box::pin(self.handshake(connection, tls)).await?;
                let session = stream.get_ref().1;
                info.identity = Arc::new(ConnectionIdentity::new(session.peer_certificates()));
                let http2 = session.alpn_protocol() == Some(b"h2");
                let stream = HalfCloseStream::new(stream, Arc::clone(&info.activity));
                let service = service.clone();
                if http2 {
                    let websocket = *websocket_over_http2;
                    let serve = self.http.serve_http2(stream, service, info, websocket);
                    serve.await
                } else {
                    self.http.serve_http1(stream, service, info).await
                }
            }
            Backend::Tcp {
                tls,
                upstream,
                proxy_protocol,
            } => {
                let stream = Box::pin(self.handshake(connection, tls)).await?;
                let identity = ConnectionIdentity::new(stream.get_ref().1.peer_certificates());
                // A resumed session may be older than the rules.
                if !self.auth.permits_connection(&identity) {
                    self.observe_refusal(info.address, Refusal::Authentication);
                    return Err("the client certificate of the session is not accepted".into());
                }
                info.activity.set_opaque();
                let header = proxy_protocol
                    .map(|version| version.header(info.address))
                    .unwrap_or_default();
                Box::pin(self.pass_on(stream, upstream, &header, &info)).await
            }
            Backend::Passthrough { upstream } => {
                info.activity.set_opaque();
                Box::pin(self.pass_on(connection, upstream, &[], &info)).await
            }
        }
    }

    async fn handshake<S>(
        &self,
        connection: PublicConnection<S>,
        tls: &TlsEndpoint,
    ) -> Result<Box<TlsStream<PublicConnection<S>>>, BoxError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let address = connection.info().address;
        let (acceptor, limit) = (tls.acceptor()?, self.limits.get().tls_handshake);
        let handshake = connection.handshake(&acceptor, limit).await;
        if handshake.is_err() {
            self.observe_refusal(address, Refusal::TlsHandshake);
        }
        // Boxed, because each future that it passes through has room of its own for it.
        Ok(Box::new(handshake?))
    }

    /// Passes bytes on between a caller and the local application.
    async fn pass_on<S>(
        &self,
        stream: S,
        upstream: &Upstream,
        header: &[u8],
        info: &ConnectionInfo,
    ) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let mut monitor = self.observer.as_ref().map(|observer| {
            let activity = Arc::clone(&info.activity);
            ConnectionMonitor::start(observer, activity, upstream.to_string())
        });
        let application = self.connect(upstream).await?;
        copy::copy_to_upstream(stream, application, header).await?;
        if let Some(monitor) = &mut monitor {
            monitor.set_complete();
        }
        Ok(())
    }

    fn observe_refusal(&self, address: Option<IpAddr>, reason: Refusal) {
        if let Some(observer) = &self.observer {
            observer.refused(address, reason);
        }
    }

    async fn connect(&self, upstream: &Upstream) -> io::Result<UpstreamStream> {
        let connected = upstream.connect().await;
        if let Err(error) = &connected {
            let health = self.upstream_health.of(upstream);
            health.failed(UpstreamFailure::Unreachable);
            warn_throttled!(self.unreachable_log, %upstream, %error, "the local application cannot be reached: is it running?");
        } else {
            self.upstream_health.of(upstream).answered();
        }
        connected
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
