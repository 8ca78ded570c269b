//! A reverse proxy: forwards requests to a local web server over HTTP/1.1, with a connection pool.
//!
//! Hop-by-hop headers are removed in both directions, and forwarded headers name the client. A
//! WebSocket is forwarded as bytes; other upgrades are not supported. Nothing is rewritten: the
//! application sees the public host name, so its redirects and cookies work.
//!
//! Specification: RFC 9110 §7.6 (intermediaries), §7.8 (upgrades).

mod early_response;
mod failure;
mod forwarded_headers;
mod tracked_body;

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cloud_net::{LogThrottle, warn_throttled};
use http::header::{self, HeaderValue};
use http::uri::{Authority, Scheme, Uri};
use http::{Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioIo, TokioTimer};
use tower::util::{BoxCloneSyncService, service_fn};

use self::early_response::EarlyResponseStream;
use self::failure::{Failure, RecordedStream};
use self::forwarded_headers::{
    join_cookies, normalize_length, remove_hop_by_hop, requested_upgrade, set_forwarded_headers,
};
use self::tracked_body::TrackedBody;
use crate::application::{HttpService, ResponseBody};
use crate::limits::idle_timeout::ActivityTimer;
use crate::server::error_page::{self, error_page};
use crate::server::request::{RequestBody, RequestContext};
use crate::task_group::TaskGroup;
use crate::upstream::health::{HealthRecorder, UpstreamFailure};
use crate::upstream::{Upstream, UpstreamStream, copy};

/// The idle timeout of pooled connections: shorter than that of common servers (gunicorn 2 s,
/// Node.js and uvicorn 5 s), because a request on a connection that is being closed is lost.
const POOL_IDLE_TIMEOUT: Duration = Duration::from_millis(1_500);
/// Pooled idle connections: enough for a page.
const MAX_IDLE_CONNECTIONS: usize = 8;

/// Read buffer of a response that the caller does not read: the same size as HTTP/2 buffers.
const RESPONSE_BUFFER: usize = 64 * 1024;

type Pool = Client<UpstreamConnector, TrackedBody<RequestBody>>;

/// Connects to the application. Ignores the request's URI.
#[derive(Debug, Clone)]
struct UpstreamConnector(Upstream);

impl tower::Service<Uri> for UpstreamConnector {
    type Response = TokioIo<RecordedStream<EarlyResponseStream<UpstreamStream>>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let upstream = self.0.clone();
        Box::pin(async move {
            let stream = upstream.connect().await?;
            let stream = EarlyResponseStream::new(stream);
            Ok(TokioIo::new(RecordedStream::new(stream)))
        })
    }
}

/// Returns the reverse proxy as a service. `response_timeout` counts from the end of a request to
/// the start of the application's response.
pub(crate) fn service(
    upstream: Upstream,
    tasks: TaskGroup,
    response_timeout: Duration,
    health: HealthRecorder,
) -> HttpService {
    let pool = Client::builder(tasks.clone())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE_TIMEOUT)
        .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        .http1_max_buf_size(RESPONSE_BUFFER)
        .build(UpstreamConnector(upstream.clone()));
    let proxy = ReverseProxy {
        upstream,
        pool,
        tasks,
        response_timeout,
        health,
        log: Arc::default(),
    };
    BoxCloneSyncService::new(service_fn(move |request: Request<RequestBody>| {
        let proxy = proxy.clone();
        async move { Ok(proxy.forward(request).await) }
    }))
}

/// The state that requests share.
#[derive(Clone)]
struct ReverseProxy {
    upstream: Upstream,
    pool: Pool,
    tasks: TaskGroup,
    response_timeout: Duration,
    health: HealthRecorder,
    log: Arc<LogThrottle>,
}

impl ReverseProxy {
    async fn forward(self, mut request: Request<RequestBody>) -> Response<ResponseBody> {
        let Some(context) = request.extensions().get::<RequestContext>().cloned() else {
            return error_page(
                StatusCode::INTERNAL_SERVER_ERROR,
                "The request came over no connection.",
            );
        };
        let upgrade = requested_upgrade(request.headers());
        let upgraded = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let Some(request) = outgoing(request, &self.upstream, context.address, upgrade) else {
            return error_page(
                StatusCode::BAD_REQUEST,
                "The request's path makes no sense.",
            );
        };
        let timer = ActivityTimer::default();
        let request = request.map(|body| TrackedBody::new(body, timer.clone()));
        let response = tokio::select! {
            response = self.pool.request(request) => response,
            () = timer.idle_for(self.response_timeout) => {
                let seconds = self.response_timeout.as_secs();
                self.health.failed(UpstreamFailure::Silent);
                self.warn(&format!(
                    "it did not respond within {seconds} s (the limit is the option --response-timeout)"
                ));
                return error_page(StatusCode::GATEWAY_TIMEOUT, error_page::NO_ANSWER);
            }
        };
        match response {
            Ok(response) => {
                self.health.answered();
                self.forward_response(response, upgraded, context)
            }
            Err(error) => {
                match Failure::of(&error) {
                    Some(failure) => {
                        self.health.failed(failure.kind());
                        self.warn(&failure.to_string());
                    }
                    None => tracing::debug!(%error, "the caller ended its request"),
                }
                let text = if error.is_connect() {
                    error_page::NOT_RUNNING
                } else {
                    error_page::UNUSABLE_ANSWER
                };
                error_page(StatusCode::BAD_GATEWAY, text)
            }
        }
    }

    fn forward_response(
        &self,
        mut response: Response<Incoming>,
        upgraded: Option<OnUpgrade>,
        context: RequestContext,
    ) -> Response<ResponseBody> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return incoming(response, false);
        }
        let Some(caller_side) = upgraded else {
            self.health.failed(UpstreamFailure::Unusable);
            self.warn("it upgrades a connection without a request");
            return error_page(StatusCode::BAD_GATEWAY, error_page::UNUSABLE_ANSWER);
        };
        let application_side = hyper::upgrade::on(&mut response);
        self.tasks.spawn(async move {
            if let (Ok(caller), Ok(application)) = tokio::join!(caller_side, application_side) {
                let ended = tokio::select! {
                    ended = copy::copy_bidirectional(TokioIo::new(caller), TokioIo::new(application)) => ended,
                    reason = context.activity.ended() => Err(reason.into()),
                };
                drop(context.permit);
                tracing::debug!(?ended, "an upgraded connection has ended");
            }
        });
        incoming(response, true)
    }

    fn warn(&self, what: &str) {
        warn_throttled!(self.log, upstream = %self.upstream, what, "the local application fails");
    }
}

/// Returns the request, which has passed the [policy](crate::request_policy), in the form for the
/// application. `None` if HTTP/1.1 cannot express it.
fn outgoing(
    request: Request<RequestBody>,
    upstream: &Upstream,
    caller: Option<IpAddr>,
    upgrade: Option<HeaderValue>,
) -> Option<Request<RequestBody>> {
    let (mut parts, body) = request.into_parts();
    let host = parts.headers.get(header::HOST).cloned()?;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(upstream.authority().parse::<Authority>().ok()?);
    uri.path_and_query = Some(parts.uri.path_and_query().cloned()?);
    parts.uri = Uri::from_parts(uri).ok()?;
    parts.version = Version::HTTP_11;
    // Extensions may hold the caller's connection.
    parts.extensions.clear();

    let headers = &mut parts.headers;
    remove_hop_by_hop(headers);
    // The server answers it as soon as the body is read.
    headers.remove(header::EXPECT);
    join_cookies(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, upgrade);
    }
    set_forwarded_headers(headers, caller, &host);
    headers.insert(header::HOST, host);
    Some(Request::from_parts(parts, body))
}

/// Returns the response in the form for the caller.
fn incoming(response: Response<Incoming>, switched: bool) -> Response<ResponseBody> {
    let (mut parts, body) = response.into_parts();
    let upgrade = parts
        .headers
        .get(header::UPGRADE)
        .cloned()
        .filter(|_| switched);
    normalize_length(&mut parts.headers);
    remove_hop_by_hop(&mut parts.headers);
    if let Some(upgrade) = upgrade {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(header::UPGRADE, upgrade);
    }
    parts.version = Version::HTTP_11;
    parts.extensions.clear();
    let body = body.map_err(Into::into).boxed_unsync();
    Response::from_parts(parts, body)
}
