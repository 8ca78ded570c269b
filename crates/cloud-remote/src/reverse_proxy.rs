//! A reverse proxy: forwards requests to a local web server, over HTTP/1.1 or HTTP/2, with a
//! connection pool.
//!
//! Hop-by-hop headers are removed in both directions, and forwarded headers name the client. A
//! WebSocket is forwarded as bytes; other upgrades are not supported. The application sees the
//! public host name, so its redirects and cookies work; a redirect to its own address is rewritten.
//!
//! A request whose connection ends before the response starts is sent once more if that does no
//! harm: because nothing of it was sent, or because it is idempotent and has no body.
//!
//! Specification: RFC 9110 §7.6 (intermediaries), §7.8 (upgrades), §9.2.2 (idempotent methods).

mod connection;
mod connection_auth;
mod connector;
mod early_response;
mod failure;
mod forwarded_headers;
mod location;
pub(crate) mod options;
pub(crate) mod pool;
mod request_body;
mod sized_body;

use std::net::IpAddr;
use std::sync::Arc;

use cloud_net::{LogThrottle, warn_throttled};
use http::header::{self, HeaderValue};
use http::uri::Uri;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tower::util::{BoxCloneSyncService, service_fn};

use self::connector::Connector;
use self::failure::Failure;
use self::forwarded_headers::{
    Framing, accepts_trailers, join_cookies, normalize_length, remove_hop_by_hop,
    requested_upgrade, set_forwarded_headers, set_request_framing,
};
use self::location::public_location;
use self::options::ForwardOptions;
use self::pool::{Need, Pool, PrivateConnections};
use self::request_body::{OutgoingBody, TrackedBody, UploadProgress};
use self::sized_body::SizedBody;
use crate::application::{HttpService, ResponseBody};
use crate::limits::Limits;
use crate::server::error_page::{self, error_page};
use crate::server::request::RequestBody;
use crate::server::request_context::RequestContext;
use crate::shared_setting::SharedSetting;
use crate::task_group::TaskGroup;
use crate::upstream::health::{HealthRecorder, UpstreamFailure};
use crate::upstream::{Upstream, copy};

/// Returns the reverse proxy as a service. [`Limits::response`] counts from the end of a request to
/// the start of the application's response.
pub(crate) fn service(
    upstream: Upstream,
    options: ForwardOptions,
    tasks: TaskGroup,
    limits: SharedSetting<Limits>,
    health: HealthRecorder,
) -> HttpService {
    let protocol = options.protocol.clone();
    let host_header = options.host_header.clone();
    let has_forwarded_headers = options.forwarded_headers;
    let connector = Connector::new(upstream.clone(), options, tasks.clone(), limits.clone());
    let proxy = Arc::new(ReverseProxy {
        pool: Pool::new(connector, tasks.clone(), protocol.may_be_http2()),
        upstream,
        is_tls: protocol.is_tls(),
        has_upgrades: protocol.may_be_http1(),
        host_header,
        has_forwarded_headers,
        tasks,
        limits,
        health,
        log: LogThrottle::new(),
    });
    BoxCloneSyncService::new(service_fn(move |request: Request<RequestBody>| {
        let proxy = Arc::clone(&proxy);
        async move { Ok(proxy.forward(request).await) }
    }))
}

/// The state that requests share.
struct ReverseProxy {
    upstream: Upstream,
    pool: Arc<Pool>,
    is_tls: bool,
    has_upgrades: bool,
    /// The host to send instead of the request's.
    host_header: Option<HeaderValue>,
    has_forwarded_headers: bool,
    tasks: TaskGroup,
    limits: SharedSetting<Limits>,
    health: HealthRecorder,
    log: LogThrottle,
}

impl ReverseProxy {
    async fn forward(&self, mut request: Request<RequestBody>) -> Response<ResponseBody> {
        let Some(context) = request.extensions().get::<RequestContext>().cloned() else {
            return error_page(StatusCode::INTERNAL_SERVER_ERROR, error_page::NO_CONNECTION);
        };
        if let Some(monitor) = &context.monitor {
            monitor.set_upstream(self.upstream.to_string());
        }
        let upgrade = requested_upgrade(request.headers()).filter(|_| self.has_upgrades);
        let upgraded = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let host = request.headers().get(header::HOST).cloned();
        let progress = UploadProgress::default();
        let request = self.outgoing(request, context.address, upgrade, progress.clone());
        let (Some(request), Some(host)) = (request, host) else {
            return error_page(StatusCode::BAD_REQUEST, error_page::NO_PATH);
        };
        let is_upgrade = upgraded.is_some();
        match self
            .exchange(request, &context.private, is_upgrade, &progress)
            .await
        {
            Ok(response) => {
                self.health.answered();
                self.forward_response(response, upgraded, context, &host)
            }
            Err(NoResponse::CallerStalled) => {
                tracing::debug!(upstream = %self.upstream, "the caller stopped its upload");
                error_page::slow_request()
            }
            Err(NoResponse::CallerFailed) => {
                tracing::debug!(upstream = %self.upstream, "the caller ended its request");
                error_page(StatusCode::BAD_REQUEST, error_page::INCOMPLETE)
            }
            Err(NoResponse::Failure(failure)) => self.failed(&failure),
        }
    }

    /// Records and answers a request without a response.
    fn failed(&self, failure: &Failure) -> Response<ResponseBody> {
        let kind = failure.kind();
        self.health.failed(kind);
        self.warn(&failure.to_string());
        let (status, text) = match kind {
            UpstreamFailure::Unreachable => (StatusCode::BAD_GATEWAY, error_page::NOT_RUNNING),
            UpstreamFailure::Silent => (StatusCode::GATEWAY_TIMEOUT, error_page::NO_ANSWER),
            UpstreamFailure::Unusable => (StatusCode::BAD_GATEWAY, error_page::UNUSABLE_ANSWER),
        };
        error_page(status, text)
    }

    /// Sends the request, and once more if it may be and its connection ends without a response.
    async fn exchange(
        &self,
        request: Request<OutgoingBody>,
        private: &PrivateConnections,
        upgrade: bool,
        progress: &UploadProgress,
    ) -> Result<Response<Incoming>, NoResponse> {
        let challenged = connection_auth::is_requested(request.headers());
        if challenged {
            private.activate();
        }
        let (parts, body) = request.into_parts();
        let has_body = !body.is_end_stream();
        let mut again = (parts.method.is_idempotent() && !has_body)
            .then(|| Request::from_parts(parts.clone(), OutgoingBody::Empty));
        let mut request = Request::from_parts(parts, body);
        let mut need = Need {
            fresh: false,
            upgrade,
            challenged,
        };
        loop {
            let connection = self.pool.connection(private, need).await;
            let mut connection = connection.map_err(|error| Failure::of_connect(&error))?;
            if !need.fresh {
                // Connecting has timeouts of its own.
                progress.touch();
            }
            let response_timeout = self.limits.get().response;
            let sent = tokio::select! {
                sent = connection.send(request) => sent,
                () = progress.idle_for(response_timeout) => {
                    return Err(if progress.awaits_caller() {
                        NoResponse::CallerStalled
                    } else {
                        Failure::Silent(response_timeout).into()
                    });
                }
            };
            let mut error = match sent {
                Ok(response) => {
                    if connection_auth::is_offered(response.headers()) {
                        private.activate();
                    }
                    // An application that leaves a body unread takes it for the next request; its
                    // answer must not reach another caller.
                    let is_reusable = !has_body || private.is_active();
                    if is_reusable && response.status() != StatusCode::SWITCHING_PROTOCOLS {
                        let challenged = response.status() == StatusCode::UNAUTHORIZED;
                        self.pool.keep(connection, private, challenged);
                    }
                    return Ok(response);
                }
                Err(error) => error,
            };
            // Without an idle connection, nothing but the application itself can have ended it.
            let unsent = error.take_message().filter(|_| !need.fresh);
            let error = error.into_error();
            let repeated = unsent.or_else(|| {
                again
                    .take()
                    .filter(|_| connection::may_help_to_repeat(&error))
            });
            request = match repeated {
                Some(request) => request,
                None if error.is_user() || progress.has_failed() => {
                    return Err(NoResponse::CallerFailed);
                }
                None => return Err(Failure::of_exchange(&error, connection.record()).into()),
            };
            need.fresh = true;
        }
    }

    fn forward_response(
        &self,
        mut response: Response<Incoming>,
        upgraded: Option<OnUpgrade>,
        context: RequestContext,
        host: &HeaderValue,
    ) -> Response<ResponseBody> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return self.incoming(response, host);
        }
        let Some(caller_side) = upgraded else {
            return self.failed(&Failure::UnexpectedUpgrade);
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
        self.incoming(response, host)
    }

    /// Returns the response in the form for the caller.
    fn incoming(&self, response: Response<Incoming>, host: &HeaderValue) -> Response<ResponseBody> {
        let (mut parts, body) = response.into_parts();
        let framing = normalize_length(&mut parts.headers, parts.status);
        if framing == Framing::UnknownCoding {
            return self.failed(&Failure::UnknownCoding);
        }
        let headers = &mut parts.headers;
        let upgrade = headers
            .get(header::UPGRADE)
            .cloned()
            .filter(|_| parts.status == StatusCode::SWITCHING_PROTOCOLS);
        remove_hop_by_hop(headers);
        if let Some(upgrade) = upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, upgrade);
        }
        // It names ports of the application, which callers cannot reach.
        headers.remove(header::ALT_SVC);
        if let Some(location) = headers.get(header::LOCATION).and_then(|location| {
            let sent_host = self.host_header.as_ref();
            public_location(location, &self.upstream, self.is_tls, host, sent_host)
        }) {
            headers.insert(header::LOCATION, location);
        }
        parts.version = Version::HTTP_11;
        // Extensions may hold the application's connection.
        let reason = parts.extensions.remove::<hyper::ext::ReasonPhrase>();
        parts.extensions.clear();
        if let Some(reason) = reason {
            parts.extensions.insert(reason);
        }
        let body = match framing {
            Framing::Length(length) if !body.is_end_stream() => {
                SizedBody::new(body, length).boxed_unsync()
            }
            _ => body.map_err(Into::into).boxed_unsync(),
        };
        Response::from_parts(parts, body)
    }

    /// Returns the request, which has passed the [policy](crate::request_policy), in the form for
    /// the application. `None` if HTTP/1.1 cannot express it.
    fn outgoing(
        &self,
        request: Request<RequestBody>,
        caller: Option<IpAddr>,
        upgrade: Option<HeaderValue>,
        progress: UploadProgress,
    ) -> Option<Request<OutgoingBody>> {
        let (mut parts, body) = request.into_parts();
        let host = parts.headers.get(header::HOST).cloned()?;
        parts.uri = Uri::from(parts.uri.path_and_query().cloned()?);
        parts.version = Version::HTTP_11;
        // Extensions may hold the caller's connection.
        parts.extensions.clear();

        let headers = &mut parts.headers;
        let trailers = accepts_trailers(headers);
        remove_hop_by_hop(headers);
        headers.remove(header::TRAILER);
        // The server answers it as soon as the body is read.
        headers.remove(header::EXPECT);
        join_cookies(headers);
        if let Some(upgrade) = upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, upgrade);
        } else if trailers {
            headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if self.has_forwarded_headers {
            set_forwarded_headers(headers, caller, &host);
        }
        headers.insert(header::HOST, self.host_header.clone().unwrap_or(host));
        let body = if body.is_end_stream() {
            OutgoingBody::Empty
        } else {
            OutgoingBody::Caller(TrackedBody::new(body, progress))
        };
        set_request_framing(headers, &parts.method, body.size_hint().exact());
        Some(Request::from_parts(parts, body))
    }

    fn warn(&self, what: &str) {
        warn_throttled!(self.log, upstream = %self.upstream, what, "the local application fails");
    }
}

/// Why a request has no response.
enum NoResponse {
    Failure(Failure),
    /// The caller does not send the rest of its request.
    CallerStalled,
    /// The rest of the request is malformed, or does not come.
    CallerFailed,
}

impl From<Failure> for NoResponse {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}
