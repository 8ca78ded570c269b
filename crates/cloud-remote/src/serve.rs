//! Serves the public connections that come through the tunnel, each in a task of its own.
//!
//! A connection passes the access rules and the limits, then TLS (unless it is passed through), then reaches the
//! application. What goes wrong in one of them is its own affair: it is logged at debug level, and the others and the
//! tunnel notice nothing.
//!
//! Invariants
//! - Handing a connection over never waits.
//! - Each stage has a time limit: TLS handshake, request header, and for what follows a limit on being idle.
//!
//! Protocol: `docs/protocol.md`, "Remote access".

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use snitun::Channel;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tower::ServiceExt;

use crate::BoxError;
use crate::access::SharedAccess;
use crate::application::{Application, ClientAddr, HttpService};
use crate::forward::{self, page};
use crate::leash::{Holding, Leash, Usage};
use crate::limits::Limits;
use crate::proxy_protocol::ProxyProtocol;
use crate::relay;
use crate::seldom::Seldom;
use crate::slots::{Slots, Slotted};
use crate::tasks::Tasks;
use crate::tls::{self, CurrentCertificate};
use crate::turns::Turns;
use crate::upstream::{Upstream, UpstreamStream};

/// Of one HTTP/2 connection. Browsers rarely use more than a hundred.
const STREAMS: u32 = 100;
/// Of one request, both versions of HTTP: large cookies fit.
const HEADER_SIZE: usize = 64 * 1024;
/// An HTTP/2 connection is asked whether it is alive this often, and given as long to answer. This goes on while nobody uses it,
/// so the answers keep it from being idle on its way; [`Limits::idle`] without a request ends it all the same.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What a caller may send over an HTTP/2 connection, or over one stream of it, that the application has not read: 5 MB/s at
/// 100 ms, and 128 MiB for as many connections as there may be.
const RECEIVE_WINDOW: u32 = 512 * 1024;
/// Of one HTTP/2 stream, waiting for its caller to read. Many streams are open at once; a full tunnel needs no more.
const SEND_BUFFER: usize = 64 * 1024;

/// See the [module](self).
pub(crate) struct Server {
    /// For connections from now on; each that is open keeps what it has begun with.
    serving: RwLock<Arc<Serving>>,
    certificate: Arc<CurrentCertificate>,
    access: SharedAccess,
    limits: Limits,
    slots: Slots,
    tasks: Tasks,
    full_warnings: Seldom,
    failure_warnings: Arc<Seldom>,
}

/// What is known of a public connection; a request extension for whoever passes requests on.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) address: Option<IpAddr>,
    pub(crate) usage: Arc<Usage>,
    pub(crate) turns: Turns,
}

/// The application with all that is made only once for it.
enum Serving {
    Http {
        tls: TlsAcceptor,
        service: HttpService,
        builders: Box<Builders>,
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

impl Serving {
    fn new(
        application: Application,
        certificate: &Arc<CurrentCertificate>,
        limits: &Limits,
        tasks: &Tasks,
    ) -> Result<Self, rustls::Error> {
        let http = |service, websocket_over_http2| {
            let builders = Box::new(Builders::new(limits, tasks, websocket_over_http2));
            let tls = TlsAcceptor::from(tls::server_config(
                Arc::clone(certificate),
                &[b"h2", b"http/1.1"],
            )?);
            Ok::<_, rustls::Error>(Serving::Http {
                tls,
                service,
                builders,
            })
        };
        Ok(match application {
            Application::Service(service) => http(service.0, true)?,
            // The application behind speaks HTTP/1.1, where WebSockets start in another way.
            Application::Forward(upstream) => http(
                forward::service(upstream, tasks.clone(), limits.idle),
                false,
            )?,
            Application::ForwardTcp {
                upstream,
                proxy_protocol,
            } => {
                // Nothing is known of what is spoken inside, so nothing is agreed on.
                let tls = TlsAcceptor::from(tls::server_config(Arc::clone(certificate), &[])?);
                Serving::Tcp {
                    tls,
                    upstream,
                    proxy_protocol,
                }
            }
            Application::Passthrough(upstream) => Serving::Passthrough { upstream },
        })
    }
}

impl Server {
    pub(crate) fn new(
        application: Application,
        certificate: Arc<CurrentCertificate>,
        access: SharedAccess,
        limits: Limits,
        tasks: Tasks,
    ) -> Result<Self, rustls::Error> {
        let limits = limits.sane();
        let serving = Serving::new(application, &certificate, &limits, &tasks)?;
        let slots = Slots::new(limits.connections, limits.connections_per_address);
        Ok(Self {
            serving: RwLock::new(Arc::new(serving)),
            certificate,
            access,
            limits,
            slots,
            tasks,
            full_warnings: Seldom::default(),
            failure_warnings: Arc::default(),
        })
    }

    /// Serves another application to connections from now on.
    pub(crate) fn set_application(&self, application: Application) -> Result<(), rustls::Error> {
        let serving = Serving::new(application, &self.certificate, &self.limits, &self.tasks)?;
        *self.serving.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(serving);
        Ok(())
    }

    fn serving(&self) -> Arc<Serving> {
        Arc::clone(&self.serving.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Where it counts its connections.
    pub(crate) fn slots(&self) -> Slots {
        self.slots.clone()
    }

    /// Takes over a channel of the tunnel. Returns at once.
    pub(crate) fn accept_channel(self: &Arc<Self>, channel: Channel) {
        let address = channel.peer_ip();
        self.accept(channel, address);
    }

    /// Takes over one public connection. Returns at once.
    pub(crate) fn accept<S>(self: &Arc<Self>, stream: S, address: Option<IpAddr>)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // An IPv6 caller shows as 0.0.0.0 where the protocol has no room for its address.
        let address = address
            .map(|address| address.to_canonical())
            .filter(|address| !address.is_unspecified());
        if !self.access.permits(address) {
            tracing::debug!(caller = ?address, "a caller was refused by the access rules");
            return;
        }
        let slot = match self.slots.take(address) {
            Ok(slot) => slot,
            Err(limit) => {
                if self.full_warnings.due() {
                    tracing::warn!(caller = ?address, ?limit, "too many connections: a caller was refused");
                }
                return;
            }
        };
        let turns = slot.turns();
        let stream = Slotted::new(stream, slot, self.tasks.token());
        let usage = Arc::new(Usage::default());
        let (idle, watched) = (self.limits.idle, Arc::clone(&usage));
        let call = Call {
            address,
            usage: Arc::clone(&usage),
            turns,
        };
        let stream = Leash::new(
            stream,
            self.limits.idle,
            Arc::clone(&usage),
            self.tasks.upgraded_cut(),
        );
        let server = Arc::clone(self);
        self.tasks.spawn(async move {
            let served = tokio::select! {
                served = server.serve(stream, call) => served,
                error = watched.idle(idle) => Err(error.into()),
            };
            match served {
                Ok(()) => tracing::trace!(caller = ?address, "a public connection has ended"),
                Err(error) => {
                    tracing::debug!(caller = ?address, %error, "a public connection has ended")
                }
            }
        });
    }

    async fn serve<S>(&self, stream: S, call: Call) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        match &*self.serving() {
            Serving::Http {
                tls,
                service,
                builders,
            } => {
                let stream = self.handshake(tls, stream).await?;
                let builder = if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                    &builders.http2
                } else {
                    &builders.http1
                };
                self.serve_http(stream, builder, service.clone(), call)
                    .await
            }
            Serving::Tcp {
                tls,
                upstream,
                proxy_protocol,
            } => {
                let stream = self.handshake(tls, stream).await?;
                let header = proxy_protocol
                    .map(|version| version.header(call.address))
                    .unwrap_or_default();
                let application = self.connect(upstream).await?;
                Ok(relay::to_application(stream, application, &header).await?)
            }
            Serving::Passthrough { upstream } => {
                let application = self.connect(upstream).await?;
                Ok(relay::to_application(stream, application, &[]).await?)
            }
        }
    }

    async fn connect(&self, upstream: &Upstream) -> io::Result<UpstreamStream> {
        let connected = upstream.connect().await;
        if let Err(error) = &connected
            && self.failure_warnings.due()
        {
            tracing::warn!(%upstream, %error, "the local application cannot be reached: is it running?");
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

    async fn serve_http<S>(
        &self,
        stream: S,
        builder: &auto::Builder<Tasks>,
        service: HttpService,
        call: Call,
    ) -> Result<(), BoxError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let warnings = Arc::clone(&self.failure_warnings);
        let usage = Arc::clone(&call.usage);
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ClientAddr(call.address));
            request.extensions_mut().insert(call.clone());
            let (service, warnings) = (service.clone(), Arc::clone(&warnings));
            let exchange = call.usage.begin(&request);
            async move {
                let response = service.oneshot(request).await.unwrap_or_else(|error| {
                    if warnings.due() {
                        tracing::warn!(%error, "the application failed to answer a request");
                    }
                    page(
                        StatusCode::INTERNAL_SERVER_ERROR,
                        "The application on this device has failed.",
                    )
                });
                Ok::<_, Infallible>(response.map(|body| Holding::new(body, exchange)))
            }
        });
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = connection.as_mut() => {
                usage.upgraded();
                return ended;
            }
            () = self.tasks.draining() => {}
            () = usage.unused(self.limits.idle) => {}
        }
        connection.as_mut().graceful_shutdown();
        let ended = connection.await;
        usage.upgraded();
        ended
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

/// One for each version of HTTP.
struct Builders {
    http1: auto::Builder<Tasks>,
    http2: auto::Builder<Tasks>,
}

impl Builders {
    /// Which version of HTTP is spoken is settled by ALPN, so neither builder has to guess (which has no time limit).
    fn new(limits: &Limits, tasks: &Tasks, websocket_over_http2: bool) -> Self {
        let mut http1 = auto::Builder::new(tasks.clone()).http1_only();
        http1
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request_header)
            .max_buf_size(HEADER_SIZE);
        let mut http2 = auto::Builder::new(tasks.clone()).http2_only();
        let mut settings = http2.http2();
        settings
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .initial_connection_window_size(RECEIVE_WINDOW)
            .initial_stream_window_size(RECEIVE_WINDOW)
            .max_header_list_size(u32::try_from(HEADER_SIZE).unwrap_or(u32::MAX))
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_send_buf_size(SEND_BUFFER);
        if websocket_over_http2 {
            settings.enable_connect_protocol();
        }
        Self { http1, http2 }
    }
}

#[cfg(test)]
mod tests;
