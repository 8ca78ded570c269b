//! A reverse proxy: requests go to a local web server as HTTP/1.1, connections to which are kept and used again.
//!
//! Headers that concern one connection only are removed both ways. The application is told who the caller is, and
//! whatever the caller wrote into those headers is removed. An upgraded connection (WebSocket) is passed on as bytes.
//! Nothing is rewritten: the application sees the public host name, and its redirects and cookies work as they are.
//!
//! Specification: RFC 9110 §7.6 (what an intermediary removes), RFC 7239 (`Forwarded`), RFC 9113 §8.2.3 (cookies).

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, Scheme, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower::util::{BoxCloneSyncService, service_fn};

use crate::application::{ClientAddr, HttpService, ResponseBody};
use crate::relay;
use crate::tasks::Tasks;
use crate::upstream::Upstream;

/// How long the application may take until its answer begins: the relay drops a connection that is idle for 90 s or so
/// anyway.
const ANSWER_LIMIT: Duration = Duration::from_secs(120);
/// Connections to the application that nobody uses are kept this long: shorter than common servers keep them.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// Kept idle connections: a page's worth.
const IDLE_CONNECTIONS: usize = 8;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Headers by which applications let themselves be told who calls. Only we may do that.
const TOLD_BY_PROXIES: [HeaderName; 8] = [
    header::FORWARDED,
    X_FORWARDED_FOR,
    X_FORWARDED_HOST,
    X_FORWARDED_PROTO,
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-prefix"),
    HeaderName::from_static("x-forwarded-server"),
    HeaderName::from_static("x-real-ip"),
];

/// Headers that concern one connection only, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

type Error = hyper_util::client::legacy::Error;
type Pool = Client<Dial, Incoming>;

/// Connects to the application, whatever the request's address.
#[derive(Debug, Clone)]
struct Dial(Upstream);

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let upstream = self.0;
        Box::pin(async move { upstream.connect().await.map(TokioIo::new) })
    }
}

/// The reverse proxy as a service.
pub(crate) fn service(upstream: Upstream, tasks: Tasks) -> HttpService {
    let pool: Pool = Client::builder(tasks.clone())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_LIMIT)
        .pool_max_idle_per_host(IDLE_CONNECTIONS)
        .build(Dial(upstream));
    BoxCloneSyncService::new(service_fn(move |request: Request<Incoming>| {
        let (pool, tasks) = (pool.clone(), tasks.clone());
        async move { Ok(forward(request, pool, upstream, tasks).await) }
    }))
}

async fn forward(
    mut request: Request<Incoming>,
    pool: Pool,
    upstream: Upstream,
    tasks: Tasks,
) -> Response<ResponseBody> {
    if request.method() == Method::CONNECT {
        return page(
            StatusCode::METHOD_NOT_ALLOWED,
            "This device is not a proxy.",
        );
    }
    let caller = request
        .extensions()
        .get::<ClientAddr>()
        .and_then(|address| address.0);
    let upgrade = requested_upgrade(request.headers());
    let upgraded = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
    let Some(request) = outgoing(request, upstream, caller, upgrade) else {
        return page(
            StatusCode::BAD_REQUEST,
            "The request's address makes no sense.",
        );
    };
    let mut response = match timeout(ANSWER_LIMIT, pool.request(request)).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => return unreachable_page(upstream, &error),
        Err(_) => {
            tracing::warn!(%upstream, limit = ?ANSWER_LIMIT, "the local application does not answer");
            return page(
                StatusCode::GATEWAY_TIMEOUT,
                "The application on this device does not answer.",
            );
        }
    };
    let switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
    if switched {
        let Some(caller_side) = upgraded else {
            tracing::warn!(%upstream, "the local application upgrades a connection that nobody asked to");
            return page(
                StatusCode::BAD_GATEWAY,
                "The application on this device gave an unusable answer.",
            );
        };
        let application_side = hyper::upgrade::on(&mut response);
        tasks.spawn(async move {
            if let (Ok(caller), Ok(application)) = tokio::join!(caller_side, application_side) {
                let ended = relay::between(TokioIo::new(caller), TokioIo::new(application)).await;
                tracing::debug!(?ended, "an upgraded connection has ended");
            }
        });
    }
    incoming(response, switched)
}

/// The request as the application gets it. `None` if it cannot be put into HTTP/1.1.
fn outgoing(
    request: Request<Incoming>,
    upstream: Upstream,
    caller: Option<IpAddr>,
    upgrade: Option<HeaderValue>,
) -> Option<Request<Incoming>> {
    let (mut parts, body) = request.into_parts();
    let host = match parts.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => parts.headers.get(header::HOST).cloned(),
    };
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(upstream.to_string().parse::<Authority>().ok()?);
    uri.path_and_query = Some(parts.uri.path_and_query().cloned()?);
    parts.uri = Uri::from_parts(uri).ok()?;
    parts.version = Version::HTTP_11;
    // Extensions may hold on to the caller's connection.
    parts.extensions.clear();

    let headers = &mut parts.headers;
    remove_hop_by_hop(headers);
    for name in &TOLD_BY_PROXIES {
        headers.remove(name);
    }
    // Answered on the caller's side, as soon as the body is read.
    headers.remove(header::EXPECT);
    join_cookies(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    tell_caller(headers, caller, host.as_ref());
    if let Some(host) = host {
        headers.insert(header::HOST, host);
    }
    Some(Request::from_parts(parts, body))
}

/// The answer as the caller gets it.
fn incoming(response: Response<Incoming>, switched: bool) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    let upgrade = parts
        .headers
        .get(header::UPGRADE)
        .cloned()
        .filter(|_| switched);
    remove_hop_by_hop(&mut parts.headers);
    if let Some(upgrade) = upgrade {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, upgrade);
    }
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    Response::from_parts(parts, body.map_err(Into::into).boxed_unsync())
}

/// The protocol that the caller wants to change to, if it says so properly.
fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(header::UPGRADE)?;
    connection_options(headers)
        .any(|option| option.eq_ignore_ascii_case("upgrade"))
        .then(|| wanted.clone())
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_options(headers)
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// HTTP/2 may split cookies over several fields, HTTP/1.1 may not.
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

fn tell_caller(headers: &mut HeaderMap, caller: Option<IpAddr>, host: Option<&HeaderValue>) {
    let mut forwarded = match caller {
        Some(IpAddr::V4(address)) => format!("for={address}"),
        Some(IpAddr::V6(address)) => format!("for=\"[{address}]\""),
        None => "for=unknown".to_owned(),
    };
    if let Some(address) = caller
        && let Ok(value) = HeaderValue::from_str(&address.to_string())
    {
        headers.insert(X_FORWARDED_FOR, value);
    }
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host.clone());
        // A host name that needs escaping is none.
        if let Some(host) = host
            .to_str()
            .ok()
            .filter(|host| !host.contains(['"', '\\']))
        {
            forwarded.push_str(";host=\"");
            forwarded.push_str(host);
            forwarded.push('"');
        }
    }
    forwarded.push_str(";proto=https");
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    if let Ok(forwarded) = HeaderValue::from_str(&forwarded) {
        headers.insert(header::FORWARDED, forwarded);
    }
}

fn unreachable_page(upstream: Upstream, error: &Error) -> Response<ResponseBody> {
    if error.is_connect() {
        tracing::warn!(%upstream, "the local application cannot be reached: is it running?");
        return page(
            StatusCode::BAD_GATEWAY,
            "The application on this device is not running.",
        );
    }
    // Most often the caller went away in the middle of its request.
    tracing::debug!(%upstream, %error, "a request could not be passed on");
    page(
        StatusCode::BAD_GATEWAY,
        "The application on this device gave no usable answer.",
    )
}

/// An answer of our own.
pub(crate) fn page(status: StatusCode, text: &'static str) -> Response<ResponseBody> {
    let html = format!(
        "<!doctype html><meta charset=utf-8><title>{status}</title><h1>{status}</h1><p>{text}\n"
    );
    let body = Full::new(Bytes::from(html))
        .map_err(|never| match never {})
        .boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn what_concerns_one_connection_is_removed_with_what_it_names() {
        let mut map = headers(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("accept", "text/html"),
        ]);
        remove_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("accept", "text/html")]));
    }

    #[test]
    fn an_upgrade_counts_only_if_connection_names_it() {
        let good = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(requested_upgrade(&good).unwrap(), "websocket");
        assert_eq!(
            requested_upgrade(&headers(&[("upgrade", "websocket")])),
            None
        );
        assert_eq!(
            requested_upgrade(&headers(&[("connection", "upgrade")])),
            None
        );
    }

    #[test]
    fn split_cookies_become_one_field() {
        let mut map = HeaderMap::new();
        map.append(header::COOKIE, HeaderValue::from_static("a=1"));
        map.append(header::COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut map);
        let cookies: Vec<_> = map.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn the_caller_is_told_in_both_ways() {
        let mut map = HeaderMap::new();
        let host = HeaderValue::from_static("sn.example.com");
        tell_caller(&mut map, Some("2001:db8::7".parse().unwrap()), Some(&host));
        assert_eq!(map[X_FORWARDED_FOR], "2001:db8::7");
        assert_eq!(map[X_FORWARDED_HOST], "sn.example.com");
        assert_eq!(map[X_FORWARDED_PROTO], "https");
        assert_eq!(
            map[header::FORWARDED],
            "for=\"[2001:db8::7]\";host=\"sn.example.com\";proto=https"
        );
        let mut map = HeaderMap::new();
        tell_caller(&mut map, None, None);
        assert_eq!(map[header::FORWARDED], "for=unknown;proto=https");
        assert!(!map.contains_key(X_FORWARDED_FOR));
    }
}
