//! Which requests the control API accepts: none that a web page makes a browser send, none for
//! another host's name, and none of another user of this machine without the token.
//!
//! Listening on loopback keeps other machines out. It does not keep out the pages that this
//! machine's browsers show: they can post across sites, and reach 127.0.0.1 under a name of their
//! own (DNS rebinding). Nor does it keep out the other users of this machine. So the `Host` has to
//! be a loopback name or address, there must be no foreign `Origin`, a body has to be declared as
//! JSON, which a page can do only after a preflight that fails, and a connection of another user
//! has to present a bearer token that is in a file of the simulator's owner.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use cloud_net::{LogThrottle, info_throttled};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::local_peer::LocalPeer;

/// Bytes of randomness in a token: nobody guesses 256 bits.
const TOKEN_BYTES: usize = 32;

/// The default port of `http`, which a `Host` need not name.
const HTTP_PORT: u16 = 80;

/// The secret that a request to the control API has to carry. `Debug` does not show it.
#[derive(Clone)]
pub(crate) struct ControlToken(String);

impl ControlToken {
    pub(crate) fn random() -> Self {
        let bytes: [u8; TOKEN_BYTES] = rand::random();
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Compares digests, so that the time it takes says nothing about the token.
    fn matches(&self, other: &str) -> bool {
        Sha256::digest(&self.0) == Sha256::digest(other)
    }
}

impl fmt::Debug for ControlToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ControlToken([redacted])")
    }
}

/// What a request needs to be accepted.
#[derive(Debug)]
pub(crate) struct RequestGuard {
    /// The port that the `Host` has to name.
    port: u16,
    token: ControlToken,
    refusals: LogThrottle,
}

impl RequestGuard {
    /// For the control API on this port.
    pub(crate) fn new(port: u16, token: ControlToken) -> Self {
        Self {
            port,
            token,
            refusals: LogThrottle::new(),
        }
    }

    /// Puts itself before every route.
    pub(crate) fn protect(self, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(Arc::new(self), check))
    }

    fn refusal(&self, request: &Request) -> Option<Refusal> {
        let headers = request.headers();
        let Some(host) = host(request).filter(|host| self.is_own(host)) else {
            return Some(Refusal::Host);
        };
        let origin = headers.get(header::ORIGIN);
        if origin.is_some_and(|origin| !is_origin_of(origin, &host)) {
            return Some(Refusal::Origin);
        }
        let is_authorized = match bearer(headers) {
            Some(given) => self.token.matches(given),
            None => !headers.contains_key(header::AUTHORIZATION) && is_own_user(request),
        };
        if !is_authorized {
            return Some(Refusal::Token);
        }
        if has_body(request) && !is_json(headers) {
            return Some(Refusal::ContentType);
        }
        None
    }

    fn is_own(&self, host: &Authority) -> bool {
        let name = host.host().trim_matches(['[', ']']);
        let is_loopback = name.eq_ignore_ascii_case("localhost")
            || name
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback());
        let port = host.port_u16().unwrap_or(HTTP_PORT);
        is_loopback && !host.as_str().contains('@') && port == self.port
    }
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Host,
    Origin,
    Token,
    ContentType,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, reason) = match self {
            Self::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "the Host is not this API's: use the URL that the simulator prints when it is ready",
            ),
            Self::Origin => (
                StatusCode::FORBIDDEN,
                "the Origin is not this API's: it takes no requests from web pages",
            ),
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                "the simulator belongs to another user: send the header `Authorization: Bearer TOKEN`; the token is in the file \
                 that `control_token_file` names in the line that the simulator prints when it is ready",
            ),
            Self::ContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send the body with the header `Content-Type: application/json`",
            ),
        };
        let mut response = (status, Json(json!({ "error": reason }))).into_response();
        if self == Self::Token {
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

async fn check(State(guard): State<Arc<RequestGuard>>, request: Request, next: Next) -> Response {
    match guard.refusal(&request) {
        None => next.run(request).await,
        Some(refusal) => {
            info_throttled!(guard.refusals, ?refusal, "refused an HTTP request");
            refusal.into_response()
        }
    }
}

/// Whom the request is for: the one `Host`, which the request line must not contradict.
fn host(request: &Request) -> Option<Authority> {
    let mut hosts = request.headers().get_all(header::HOST).into_iter();
    let host = Authority::try_from(hosts.next()?.as_bytes()).ok()?;
    let named = request.uri().authority();
    (hosts.next().is_none() && named.is_none_or(|named| *named == host)).then_some(host)
}

/// Whether the connection comes from the user that the simulator runs as.
fn is_own_user(request: &Request) -> bool {
    let peer = request.extensions().get::<Option<LocalPeer>>();
    peer.copied().flatten().is_some_and(LocalPeer::is_own_user)
}

fn is_origin_of(origin: &HeaderValue, host: &Authority) -> bool {
    let origin = origin
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("http://"));
    origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host.as_str()))
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Whether there is a body to declare.
fn has_body(request: &Request) -> bool {
    let headers = request.headers();
    let length = headers.get(header::CONTENT_LENGTH);
    let is_empty = length.is_none_or(|length| length == "0");
    !matches!(*request.method(), Method::GET | Method::HEAD)
        && (!is_empty || headers.contains_key(header::TRANSFER_ENCODING))
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    const PORT: u16 = 4711;

    fn guard() -> (RequestGuard, String) {
        let token = ControlToken::random();
        let bearer = format!("Bearer {}", token.as_str());
        (RequestGuard::new(PORT, token), bearer)
    }

    fn request(method: Method, headers: &[(&str, &str)]) -> Request {
        let mut request = Request::builder().method(method).uri("/devices/SN1/rotate");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(Body::empty()).unwrap()
    }

    #[test]
    fn control_host_other_than_own_is_refused() {
        let (guard, bearer) = guard();
        let refusal = |host: &str| {
            guard.refusal(&request(
                Method::POST,
                &[("host", host), ("authorization", &bearer)],
            ))
        };
        for own in [
            "127.0.0.1:4711",
            "localhost:4711",
            "LOCALHOST:4711",
            "[::1]:4711",
            "127.0.0.2:4711",
        ] {
            assert_eq!(refusal(own), None, "{own}");
        }
        for foreign in [
            "evil.example:4711",
            "127.0.0.1",
            "127.0.0.1:4712",
            "localhost.evil.example:4711",
            "127.0.0.1.evil.example:4711",
            "localhost@evil.example:4711",
            "evil.example@127.0.0.1:4711",
            "10.0.0.1:4711",
            "",
        ] {
            assert_eq!(refusal(foreign), Some(Refusal::Host), "{foreign:?}");
        }
        let none = request(Method::POST, &[("authorization", &bearer)]);
        assert_eq!(guard.refusal(&none), Some(Refusal::Host));
        let two = [
            ("host", "127.0.0.1:4711"),
            ("host", "evil.example:4711"),
            ("authorization", &bearer),
        ];
        assert_eq!(
            guard.refusal(&request(Method::POST, &two)),
            Some(Refusal::Host)
        );
    }

    #[test]
    fn control_foreign_origin_is_refused() {
        let (guard, bearer) = guard();
        let refusal = |origin: &str| {
            guard.refusal(&request(
                Method::POST,
                &[
                    ("host", "127.0.0.1:4711"),
                    ("authorization", &bearer),
                    ("origin", origin),
                ],
            ))
        };
        assert_eq!(refusal("http://127.0.0.1:4711"), None);
        for foreign in [
            "null",
            "http://127.0.0.1",
            "http://127.0.0.1:8080",
            "https://127.0.0.1:4711",
            "http://localhost:4711",
            "https://evil.example",
        ] {
            assert_eq!(refusal(foreign), Some(Refusal::Origin), "{foreign}");
        }
    }

    #[test]
    fn control_without_its_token_is_refused() {
        let (guard, bearer) = guard();
        let other = format!("Bearer {}", ControlToken::random().as_str());
        let token = bearer.trim_start_matches("Bearer ").to_owned();
        for method in [Method::GET, Method::POST, Method::DELETE, Method::OPTIONS] {
            let refusal = |authorization: Option<&str>| {
                let mut headers = vec![("host", "127.0.0.1:4711")];
                headers.extend(authorization.map(|value| ("authorization", value)));
                guard.refusal(&request(method.clone(), &headers))
            };
            assert_eq!(refusal(Some(&bearer)), None, "{method}");
            assert_eq!(refusal(Some(&format!("bearer  {token}"))), None);
            for wrong in [
                None,
                Some(""),
                Some("Bearer "),
                Some(&*other),
                Some(&*token),
            ] {
                assert_eq!(refusal(wrong), Some(Refusal::Token), "{method}");
            }
        }
        assert!(!format!("{guard:?}").contains(&token));
    }

    #[test]
    fn body_that_is_not_json_is_refused() {
        let (guard, bearer) = guard();
        let refusal = |more: &[(&str, &str)]| {
            let headers = [("host", "127.0.0.1:4711"), ("authorization", &*bearer)];
            guard.refusal(&request(Method::POST, &[&headers[..], more].concat()))
        };
        assert_eq!(refusal(&[]), None);
        assert_eq!(refusal(&[("content-length", "0")]), None);
        for length in [("content-length", "2"), ("transfer-encoding", "chunked")] {
            for good in ["application/json", "Application/JSON; charset=utf-8"] {
                assert_eq!(refusal(&[length, ("content-type", good)]), None, "{good}");
            }
            for bad in ["text/plain", "application/x-www-form-urlencoded", "json"] {
                let refused = refusal(&[length, ("content-type", bad)]);
                assert_eq!(refused, Some(Refusal::ContentType), "{bad}");
            }
            assert_eq!(refusal(&[length]), Some(Refusal::ContentType));
        }
    }
}
