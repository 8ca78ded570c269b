//! A connection to the application on which requests can be sent.

use std::io;

use http::header;
use http::uri::{Authority, Parts, Scheme, Uri};
use http::{Request, Response, Version};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};

use super::failure::ResponseRecord;
use super::request_body::OutgoingBody;

/// See the [module](self).
#[derive(Debug)]
pub(super) enum Connection {
    /// Carries one request at a time.
    Http1(http1::SendRequest<OutgoingBody>, ResponseRecord),
    Http2(http2::SendRequest<OutgoingBody>),
}

impl Connection {
    /// Returns whether a request can be sent at once.
    pub(super) fn is_ready(&self) -> bool {
        match self {
            Self::Http1(sender, _) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready(),
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender, _) => sender.is_closed(),
            Self::Http2(sender) => sender.is_closed(),
        }
    }

    /// Returns what the application has sent, unless it speaks HTTP/2.
    pub(super) fn record(&self) -> Option<&ResponseRecord> {
        match self {
            Self::Http1(_, record) => Some(record),
            Self::Http2(_) => None,
        }
    }

    /// Waits until a request can be sent. Fails if the connection ends first.
    pub(super) async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Http1(sender, _) => sender.ready().await,
            Self::Http2(sender) => sender.ready().await,
        }
    }

    /// Returns another handle of the connection, if it can carry several requests at once.
    pub(super) fn shared(&self) -> Option<Self> {
        match self {
            Self::Http1(..) => None,
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
        }
    }

    /// Sends a request in the form of HTTP/1.1.
    pub(super) async fn send(
        &mut self,
        request: Request<OutgoingBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<OutgoingBody>>> {
        match self {
            Self::Http1(sender, _) => sender.try_send_request(request).await,
            Self::Http2(sender) => sender.try_send_request(in_http2(request)).await,
        }
    }
}

/// Returns the request in the form of HTTP/2 (RFC 9113 §8.3.1), which names the host in the URI.
fn in_http2<B>(mut request: Request<B>) -> Request<B> {
    let headers = request.headers_mut();
    for name in [
        header::CONNECTION,
        header::UPGRADE,
        header::TRANSFER_ENCODING,
    ] {
        headers.remove(name);
    }
    let host = headers.remove(header::HOST);
    let authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    let mut parts = Parts::default();
    if authority.is_some() {
        parts.scheme = Some(Scheme::HTTPS);
        parts.authority = authority;
        parts.path_and_query = request.uri().path_and_query().cloned();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
    *request.version_mut() = Version::HTTP_2;
    request
}

/// Returns whether the application may have closed the connection without an answer, so that
/// another connection can have success. Not if it has answered with something else than HTTP, or if
/// the caller's body has failed.
pub(super) fn may_help_to_repeat(error: &hyper::Error) -> bool {
    !(error.is_parse() || error.is_user() || error.is_timeout())
}

/// Returns the error of a handshake as an error of the connection.
pub(super) fn handshake_error(error: hyper::Error) -> io::Error {
    io::Error::other(error)
}
