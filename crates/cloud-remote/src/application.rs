//! The application that callers reach: in process, or at a local address.

pub(crate) mod routes;

use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use self::routes::Routes;
use crate::BoxError;
use crate::reverse_proxy::options::ForwardOptions;
use crate::server::request::RequestBody;
use crate::upstream::Upstream;
use crate::upstream::proxy_protocol::ProxyProtocol;

/// The body of a response, boxed.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// The application as a boxed service.
pub(crate) type HttpService =
    BoxCloneSyncService<Request<RequestBody>, Response<ResponseBody>, BoxError>;

/// The client's address, as a request extension.
///
/// `None` if the relay does not send it (before version 2, the tunnel's protocol carries no IPv6
/// addresses).
///
/// ```
/// use cloud_remote::ClientAddr;
///
/// fn caller<B>(request: &http::Request<B>) -> String {
///     match request.extensions().get::<ClientAddr>() {
///         Some(ClientAddr(Some(address))) => address.to_string(),
///         _ => "someone".to_owned(),
///     }
/// }
/// # assert_eq!(caller(&http::Request::new(())), "someone");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub Option<IpAddr>);

/// The application that callers reach through the tunnel.
#[derive(Clone)]
#[non_exhaustive]
pub enum Application {
    /// A service in this process: HTTP/1.1, HTTP/2, WebSockets over both. See
    /// [`Application::service`].
    Service(WebService),
    /// A reverse proxy: HTTP and WebSockets are forwarded to a local web server, as HTTP/1.1 unless
    /// the options say otherwise. It
    /// receives the client's address and the public host name in the headers `X-Forwarded-For`,
    /// `-Proto`, `-Host` and `Forwarded`; values that the client sent in these and similar headers
    /// are removed, see [`HttpOptions`](crate::HttpOptions). Before version 2 of the tunnel's
    /// protocol, the address of an IPv6 client is unknown: there is no `X-Forwarded-For` then, and
    /// `Forwarded` contains `for=unknown`. The server must not trust a request because it comes
    /// from this device. Concurrent requests are limited to the number of connections
    /// ([`Limits`](crate::Limits)); others wait.
    Forward {
        /// The local address.
        upstream: Upstream,
        /// How to talk to the web server.
        options: ForwardOptions,
    },
    /// Several applications that take HTTP, by host and path. See [`Application::routes`].
    Routes(Routes),
    /// TLS terminates here, and the plain bytes are forwarded.
    ForwardTcp {
        /// The local address.
        upstream: Upstream,
        /// The version of the PROXY protocol that sends the client's address, if the application
        /// expects it.
        proxy_protocol: Option<ProxyProtocol>,
        /// The protocols to offer by ALPN, in order of preference. Without any, none is negotiated.
        alpn: Vec<String>,
    },
    /// The connection is forwarded unchanged: TLS terminates at the local application, which has a
    /// certificate of its own.
    Passthrough(Upstream),
}

impl Application {
    /// Serves from a service in this process, such as an `axum::Router`.
    ///
    /// The service is cloned for each request. An error that it returns becomes a response with
    /// status 500. Requests carry the extension [`ClientAddr`]. Only requests for the hosts, and
    /// with the headers, that [`HttpOptions`](crate::HttpOptions) allow reach it; `Host` is always
    /// set, over HTTP/2 too.
    pub fn service<S, B>(service: S) -> Self
    where
        S: Service<Request<RequestBody>, Response = Response<B>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let service = service
            .map_response(|response: Response<B>| {
                response.map(|body| body.map_err(Into::into).boxed_unsync())
            })
            .map_err(Into::into);
        Self::Service(WebService(BoxCloneSyncService::new(service)))
    }

    /// Forwards HTTP to a local web server as a reverse proxy.
    pub fn forward(upstream: impl Into<Upstream>) -> Self {
        Self::forward_with(upstream, ForwardOptions::new())
    }

    /// Forwards HTTP to a local web server as a reverse proxy with options.
    pub fn forward_with(upstream: impl Into<Upstream>, options: ForwardOptions) -> Self {
        Self::Forward {
            upstream: upstream.into(),
            options,
        }
    }

    /// Distributes requests among several applications, by host and path.
    pub fn routes(routes: Routes) -> Self {
        Self::Routes(routes)
    }

    /// Terminates TLS and forwards the plain bytes to a local application.
    pub fn forward_tcp(
        upstream: impl Into<Upstream>,
        proxy_protocol: Option<ProxyProtocol>,
    ) -> Self {
        Self::ForwardTcp {
            upstream: upstream.into(),
            proxy_protocol,
            alpn: Vec::new(),
        }
    }

    /// Sets the protocols that plain TCP offers by ALPN, such as `h2` for an application that
    /// speaks HTTP/2 without TLS. No effect on other applications.
    #[must_use]
    pub fn alpn(mut self, protocols: impl IntoIterator<Item = String>) -> Self {
        if let Self::ForwardTcp { alpn, .. } = &mut self {
            *alpn = protocols.into_iter().collect();
        }
        self
    }

    /// Forwards the public connection, including TLS, to a local application.
    pub fn passthrough(upstream: impl Into<Upstream>) -> Self {
        Self::Passthrough(upstream.into())
    }
}

impl Application {
    /// Returns the local addresses that it forwards to.
    pub(crate) fn upstreams(&self) -> Vec<Upstream> {
        match self {
            Self::Service(_) => Vec::new(),
            Self::Forward { upstream, .. }
            | Self::ForwardTcp { upstream, .. }
            | Self::Passthrough(upstream) => vec![upstream.clone()],
            Self::Routes(routes) => routes.upstreams(),
        }
    }
}

impl fmt::Debug for Application {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(_) => formatter.write_str("Service"),
            Self::Routes(routes) => routes.fmt(formatter),
            Self::Forward { upstream, .. } => write!(formatter, "Forward({upstream})"),
            Self::ForwardTcp {
                upstream,
                proxy_protocol,
                ..
            } => {
                write!(formatter, "ForwardTcp({upstream}, {proxy_protocol:?})")
            }
            Self::Passthrough(upstream) => write!(formatter, "Passthrough({upstream})"),
        }
    }
}

/// The service of [`Application::Service`]; see [`Application::service`].
#[derive(Clone)]
pub struct WebService(pub(crate) HttpService);

impl fmt::Debug for WebService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WebService")
    }
}
