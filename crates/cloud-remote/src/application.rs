//! What callers reach: the device's own application, in process or at a local address.

use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use crate::BoxError;
use crate::server::request::RequestBody;
use crate::upstream::Upstream;
use crate::upstream::proxy_protocol::ProxyProtocol;

/// The body of an answer, whatever the application makes it of.
pub(crate) type ResponseBody = UnsyncBoxBody<Bytes, BoxError>;

/// The application as a service of one type.
pub(crate) type HttpService =
    BoxCloneSyncService<Request<RequestBody>, Response<ResponseBody>, BoxError>;

/// Who makes a request: a request extension of type `ClientAddr` tells the application.
///
/// `None` if the relay does not tell (before version 2 the tunnel's protocol carries no IPv6 addresses).
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

/// What callers reach through the tunnel.
#[derive(Clone)]
#[non_exhaustive]
pub enum Application {
    /// A service in this process: HTTP/1.1, HTTP/2, WebSockets over both. See [`Application::service`].
    Service(WebService),
    /// A reverse proxy: HTTP and WebSockets are passed on, as HTTP/1.1, to a local web server. It learns the caller's
    /// address and the public host name from the headers `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded`; what
    /// the caller wrote into these and others like them is removed, see [`HttpOptions`](crate::HttpOptions). Of a caller over IPv6 no address is known before version 2 of the tunnel's
    /// protocol: then there is no `X-Forwarded-For`, and `Forwarded` says `for=unknown`. So the server must not trust
    /// a request for coming from this device. It gets no more requests at once than there may be connections
    /// ([`Limits`](crate::Limits)); others wait.
    Forward(Upstream),
    /// TLS ends here, and what is inside is passed on as it is.
    ForwardTcp {
        /// Where to.
        upstream: Upstream,
        /// Whether and how the application is told the caller's address. Only for an application that expects it.
        proxy_protocol: Option<ProxyProtocol>,
    },
    /// Everything is passed on as it is: TLS ends at the local application, which has a certificate of its own.
    Passthrough(Upstream),
}

impl Application {
    /// A service in this process, such as an `axum::Router`.
    ///
    /// It is cloned for each request. An error that it returns becomes an answer with status 500. Requests carry the
    /// extension [`ClientAddr`]. It gets requests for the hosts, and with the headers, that
    /// [`HttpOptions`](crate::HttpOptions) allow; `Host` is always there, over HTTP/2 too.
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

    /// A reverse proxy to a local web server.
    pub fn forward(upstream: impl Into<Upstream>) -> Self {
        Self::Forward(upstream.into())
    }

    /// The plain bytes inside of TLS to a local application.
    pub fn forward_tcp(
        upstream: impl Into<Upstream>,
        proxy_protocol: Option<ProxyProtocol>,
    ) -> Self {
        Self::ForwardTcp {
            upstream: upstream.into(),
            proxy_protocol,
        }
    }

    /// The public connection, TLS and all, to a local application.
    pub fn passthrough(upstream: impl Into<Upstream>) -> Self {
        Self::Passthrough(upstream.into())
    }
}

impl fmt::Debug for Application {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(_) => formatter.write_str("Service"),
            Self::Forward(upstream) => write!(formatter, "Forward({upstream})"),
            Self::ForwardTcp {
                upstream,
                proxy_protocol,
            } => {
                write!(formatter, "ForwardTcp({upstream}, {proxy_protocol:?})")
            }
            Self::Passthrough(upstream) => write!(formatter, "Passthrough({upstream})"),
        }
    }
}

/// The service of [`Application::Service`]; made by [`Application::service`].
#[derive(Clone)]
pub struct WebService(pub(crate) HttpService);

impl fmt::Debug for WebService {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WebService")
    }
}
