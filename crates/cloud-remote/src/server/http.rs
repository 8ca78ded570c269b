//! HTTP over a public connection: the version that ALPN selected, and the handling of each request.
//!
//! A request is admitted or refused while its connection is being polled, so that a refused request
//! leaves nothing in memory.
//!
//! Specification: RFC 9112 (HTTP/1.1), RFC 9113 (HTTP/2), RFC 6585 §5 (431).

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use cloud_net::{LogThrottle, UntrustedText, warn_throttled};
use http::header;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;

use crate::BoxError;
use crate::access_record::{Observer, Refusal};
use crate::application::{ClientAddr, HttpService, ResponseBody};
use crate::auth::AuthLayer;
use crate::limits::Limits;
use crate::limits::connection_activity::ConnectionActivity;
use crate::limits::connection_limit::ConnectionLimiter;
use crate::limits::exchange::Exchange;
use crate::limits::fair_share::{KnownCallers, LimitReached};
use crate::limits::receive_window::ReceiveBudget;
use crate::limits::request_limit::{Admission, RequestLimiter, RequestPermit, header_size};
use crate::request_policy::RequestPolicy;
use crate::server::error_page::{self, ErrorFormat, ResetEventStream, error_page};
use crate::server::public_connection::ConnectionInfo;
use crate::server::request::{GuardedBody, RequestBody};
use crate::server::request_context::RequestContext;
use crate::server::request_monitor::{RequestMonitor, RequestMonitorGuard};
use crate::server::websocket_keep_alive::WebSocketKeepAlive;
use crate::shared_setting::SharedSetting;
use crate::task_group::TaskGroup;

/// Maximum concurrent streams of an HTTP/2 connection. Browsers rarely use more than a hundred.
const MAX_STREAMS: u32 = 100;
/// Maximum size of an HTTP/1.1 request's header: large cookies fit.
const MAX_HEADER_SIZE: usize = 64 * 1024;
/// Maximum size of an HTTP/2 request's header, where each field counts 32 bytes more than its text
/// (RFC 9113 §6.5.2), and a connection may send a hundred headers at once.
const MAX_HEADER_LIST_SIZE: u32 = 32 * 1024;
/// The interval and timeout of HTTP/2 pings. The responses keep an unused connection from being
/// idle on its path; [`Limits::idle`] without a request ends it all the same.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// The send buffer of an HTTP/2 stream. Many streams are open at once; a full tunnel needs no more.
const SEND_BUFFER: usize = 64 * 1024;
/// The send buffer while many connections are open: a TLS record.
const MIN_SEND_BUFFER: usize = 16 * 1024;
/// More connections than this count as many: a household with several browsers has fewer.
const MANY_CONNECTIONS: usize = 32;

/// The maximum time that a request waits for its place: callers have little patience.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);
/// The interval of the checks for slow callers.
const SLOW_CHECK_INTERVAL: Duration = Duration::from_secs(5);
/// The time for closing a connection without requests.
pub(crate) const CLOSE_GRACE: Duration = Duration::from_secs(1);

/// Serves HTTP connections.
#[derive(Debug)]
pub(super) struct HttpServer {
    limits: SharedSetting<Limits>,
    policy: SharedSetting<Arc<RequestPolicy>>,
    auth: AuthLayer,
    connections: ConnectionLimiter,
    requests: RequestLimiter,
    receive_budget: ReceiveBudget,
    known: KnownCallers,
    tasks: TaskGroup,
    observer: Option<Observer>,
    /// Whether a task checks for slow callers.
    watching: AtomicBool,
    busy_log: LogThrottle,
    failure_log: LogThrottle,
}

impl HttpServer {
    pub(super) fn new(
        limits: SharedSetting<Limits>,
        policy: RequestPolicy,
        auth: AuthLayer,
        connections: ConnectionLimiter,
        known: KnownCallers,
        tasks: TaskGroup,
        observer: Option<Observer>,
    ) -> Self {
        let current = limits.get();
        let (all, per_caller) = (current.connections, current.requests_per_address);
        Self {
            limits,
            policy: SharedSetting::new(Arc::new(policy)),
            auth,
            connections,
            requests: RequestLimiter::new(all, per_caller, known.clone()),
            receive_budget: ReceiveBudget::default(),
            known,
            tasks,
            observer,
            watching: AtomicBool::new(false),
            busy_log: LogThrottle::new(),
            failure_log: LogThrottle::new(),
        }
    }

    /// Applies changed numbers of requests.
    pub(super) fn limits_changed(&self) {
        let limits = self.limits.get();
        let (all, per_caller) = (limits.connections, limits.requests_per_address);
        self.requests.set_limits(all, per_caller);
    }

    pub(super) fn set_policy(&self, policy: RequestPolicy) {
        self.policy.set(Arc::new(policy));
    }

    pub(super) fn serve_http1<S>(
        self: &Arc<Self>,
        stream: S,
        service: HttpService,
        connection: ConnectionInfo,
    ) -> impl Future<Output = Result<(), BoxError>> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let activity = Arc::clone(&connection.activity);
        let stream = WebSocketKeepAlive::new(stream, Arc::clone(&activity));
        let server = Arc::clone(self);
        let service = service_fn(move |request| {
            let activity = Arc::clone(&connection.activity);
            let exchange = Arc::new(Exchange::new(false, activity));
            server.handle(request, exchange, service.clone(), connection.clone())
        });
        let limits = self.limits.get();
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(limits.request_header)
            .max_buf_size(MAX_HEADER_SIZE)
            .max_header_size(MAX_HEADER_SIZE);
        if let Some(fields) = limits.header_table() {
            builder.max_headers(fields);
        }
        let http = builder.serve_connection(TokioIo::new(stream), service);
        let http = Box::pin(http.with_upgrades());
        let server = Arc::clone(self);
        async move {
            let ended = server.drive(http, &activity).await;
            // The rest of the connection, if any, is not HTTP.
            activity.set_opaque();
            ended
        }
    }

    pub(super) fn serve_http2<S>(
        self: &Arc<Self>,
        stream: S,
        service: HttpService,
        connection: ConnectionInfo,
        websocket: bool,
    ) -> impl Future<Output = Result<(), BoxError>> + Send + use<S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let activity = Arc::clone(&connection.activity);
        let executor = StreamExecutor::new(self.tasks.clone());
        let streams = executor.clone();
        let server = Arc::clone(self);
        let service = service_fn(move |request| {
            let activity = Arc::clone(&connection.activity);
            let exchange = Arc::new(Exchange::new(true, activity));
            streams.expect(Arc::clone(&exchange));
            server.handle(request, exchange, service.clone(), connection.clone())
        });
        let window = self.receive_budget.take();
        let buffer = if self.connections.in_use() > MANY_CONNECTIONS {
            MIN_SEND_BUFFER
        } else {
            SEND_BUFFER
        };
        let mut builder = http2::Builder::new(executor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .initial_connection_window_size(window.connection())
            .initial_stream_window_size(window.stream())
            .max_header_list_size(MAX_HEADER_LIST_SIZE)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_INTERVAL)
            .max_send_buf_size(buffer);
        if websocket {
            builder.enable_connect_protocol();
        }
        let http = Box::pin(builder.serve_connection(TokioIo::new(stream), service));
        let server = Arc::clone(self);
        async move {
            let ended = server.drive(http, &activity).await;
            drop(window);
            ended
        }
    }

    /// Serves a connection until it ends. Shuts it down when it is unused and when remote access
    /// stops. It is boxed, because the futures around it would each have room for it.
    async fn drive(
        &self,
        mut connection: Pin<Box<impl HttpConnection>>,
        activity: &ConnectionActivity,
    ) -> Result<(), BoxError> {
        let limits = self.limits.get();
        tokio::select! {
            ended = connection.as_mut() => return Ok(ended?),
            () = self.tasks.draining() => {}
            () = activity.unused(limits.request_header, limits.idle) => {}
        }
        connection.as_mut().shut_down();
        tokio::select! {
            ended = connection => Ok(ended?),
            () = activity.done(CLOSE_GRACE) => Ok(()),
        }
    }

    /// Admits or refuses a request at once, and returns the future of its response.
    fn handle(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        exchange: Arc<Exchange>,
        service: HttpService,
        connection: ConnectionInfo,
    ) -> impl Future<Output = Result<Response<GuardedBody<ResponseBody>>, ResetEventStream>> + Send + use<>
    {
        let guard = connection.activity.start_request();
        let monitor = self
            .observer
            .as_ref()
            .map(|observer| RequestMonitor::start(observer, &request, connection.address));
        let format = ErrorFormat::of(&request);
        let admission = if request.headers().len() > self.limits.get().header_fields {
            let text = error_page::TOO_MANY_FIELDS;
            let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
            Err((error_page(status, text), Refusal::Malformed))
        } else if let Err(refusal) = self.policy.get().apply(&mut request) {
            Err((refusal.response(), refusal.kind()))
        } else {
            let size = header_size(request.headers());
            match self.requests.admit(connection.caller, &exchange, size) {
                Admission::Refused(limit) => Err((self.busy_response(limit), Refusal::Requests)),
                admission => Ok(admission),
            }
        };
        // A refused request is dropped here, before anything else is read from the connection.
        let admitted = admission.map(|admission| {
            request
                .extensions_mut()
                .insert(ClientAddr(connection.address));
            self.watch_slow_callers();
            (admission, request)
        });
        let server = Arc::clone(self);
        // Boxed, because hyper keeps room for it in each idle connection.
        Box::pin(async move {
            let activity = Arc::clone(&connection.activity);
            let (response, permit) = match admitted {
                Ok((admission, request)) => {
                    let monitor = monitor.as_ref();
                    server
                        .respond(request, admission, &exchange, service, connection, monitor)
                        .await
                }
                Err((response, reason)) => {
                    refused(monitor.as_ref(), reason);
                    (response, None)
                }
            };
            exchange.start_response();
            if let Some(monitor) = &monitor {
                monitor.set_response(&response);
            }
            let response = format.apply(response)?;
            let monitor = match monitor {
                Some(monitor) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
                    monitor.report_on_close(&activity);
                    None
                }
                monitor => monitor,
            };
            Ok(response.map(|body| GuardedBody::new(body, exchange, permit, guard, monitor)))
        })
    }

    async fn respond(
        &self,
        mut request: Request<Incoming>,
        admission: Admission,
        exchange: &Arc<Exchange>,
        service: HttpService,
        connection: ConnectionInfo,
        monitor: Option<&RequestMonitorGuard>,
    ) -> (Response<ResponseBody>, Option<Arc<RequestPermit>>) {
        let permit = match admission {
            Admission::Admitted(permit) => Ok(permit),
            Admission::Queued(queued) => {
                let limit = queued.limit();
                let permit = timeout(QUEUE_TIMEOUT, queued.permit()).await.ok().flatten();
                permit.ok_or(limit)
            }
            Admission::Refused(limit) => Err(limit),
        };
        let permit = match permit {
            Ok(permit) => Arc::new(permit),
            Err(limit) => {
                refused(monitor, Refusal::Requests);
                return (self.busy_response(limit), None);
            }
        };
        request
            .extensions_mut()
            .insert(Arc::clone(&connection.identity));
        let monitor_of_body = monitor.map(RequestMonitorGuard::monitor);
        request.extensions_mut().insert(RequestContext {
            address: connection.address,
            activity: Arc::clone(&connection.activity),
            private: Arc::clone(&connection.private),
            permit: Arc::clone(&permit),
            monitor: monitor_of_body.clone(),
        });
        let connect = request.method() == Method::CONNECT;
        let request =
            request.map(|body| RequestBody::new(body, Arc::clone(exchange), monitor_of_body));
        let respond = async {
            match self.auth.authorize(request).await {
                Ok(request) => {
                    if let Some(monitor) = monitor {
                        monitor.set_user(request.headers());
                    }
                    service.oneshot(request).await
                }
                Err(refusal) => {
                    refused(monitor, Refusal::Authentication);
                    Ok(refusal)
                }
            }
        };
        let response = tokio::select! {
            biased;
            () = poll_fn(|context| exchange.poll_refused(context)) => {
                refused(monitor, Refusal::Slow);
                return (error_page::slow_request(), Some(permit));
            }
            response = respond => response,
        };
        let response = response.unwrap_or_else(|error| {
            let error = UntrustedText::of(&error);
            warn_throttled!(self.failure_log, %error, "the application returned an error for a request");
            error_page(StatusCode::INTERNAL_SERVER_ERROR, error_page::FAILED)
        });
        if response.status() < StatusCode::BAD_REQUEST {
            self.known.served(connection.caller);
        }
        if is_websocket(&response) {
            connection.activity.set_websocket();
        }
        if connect && response.status().is_success() {
            // The application owns the stream now (RFC 8441).
            connection.activity.set_opaque();
        }
        (response, Some(permit))
    }

    /// Returns the number of requests that hold a place.
    #[cfg(test)]
    pub(super) fn requests_in_use(&self) -> usize {
        self.requests.in_use()
    }

    fn busy_response(&self, limit: LimitReached) -> Response<ResponseBody> {
        let limits = self.limits.get();
        let (setting, maximum) = match limit {
            LimitReached::PerCaller => {
                ("Limits::requests_per_address", limits.requests_per_address)
            }
            LimitReached::Total | LimitReached::Unknown => {
                ("Limits::connections", limits.connections)
            }
        };
        warn_throttled!(
            self.busy_log,
            setting,
            maximum,
            "too many concurrent requests: some are answered with 503 without reaching the application"
        );
        error_page(StatusCode::SERVICE_UNAVAILABLE, error_page::BUSY)
    }

    /// Starts a task that ends exchanges with slow callers, and admits waiting requests of callers
    /// whose other requests have become long-lived streams, until no request is in progress.
    fn watch_slow_callers(self: &Arc<Self>) {
        if self.watching.swap(true, Ordering::Relaxed) {
            return;
        }
        let server = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = sleep(SLOW_CHECK_INTERVAL) => {}
                    () = server.tasks.draining() => return,
                }
                let rate = server.limits.get().min_data_rate;
                let (slow, all) = server.requests.end_slow(rate);
                if slow > 0 {
                    tracing::debug!(slow, "ended requests of slow callers");
                }
                if all > 0 {
                    continue;
                }
                server.watching.store(false, Ordering::Relaxed);
                // A request admitted since the check found a task and started none.
                if server.requests.in_use() == 0 || server.watching.swap(true, Ordering::Relaxed) {
                    return;
                }
            }
        });
    }
}

fn refused(monitor: Option<&RequestMonitorGuard>, reason: Refusal) {
    if let Some(monitor) = monitor {
        monitor.set_refused(reason);
    }
}

/// Returns whether a response upgrades an HTTP/1.1 connection to a WebSocket.
fn is_websocket(response: &Response<ResponseBody>) -> bool {
    let upgrade = response.headers().get(header::UPGRADE);
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        && upgrade.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Runs the streams of one HTTP/2 connection, each of which can be reset.
///
/// hyper calls the service and then spawns the task that sends the response; so the exchange of the
/// call belongs to the next task. Dropping the task resets the stream.
#[derive(Debug, Clone)]
struct StreamExecutor {
    tasks: TaskGroup,
    next: Arc<Mutex<Option<Arc<Exchange>>>>,
}

impl StreamExecutor {
    fn new(tasks: TaskGroup) -> Self {
        Self {
            tasks,
            next: Arc::default(),
        }
    }

    /// Assigns the next task to this exchange.
    fn expect(&self, exchange: Arc<Exchange>) {
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(exchange);
    }
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let next = self
            .next
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let Some(exchange) = next else {
            drop(self.tasks.spawn(task));
            return;
        };
        drop(self.tasks.spawn(UntilCut { task, exchange }));
    }
}

pin_project! {
    /// The task of a stream, until its exchange is cut.
    struct UntilCut<F> {
        #[pin]
        task: F,
        exchange: Arc<Exchange>,
    }
}

impl<F: Future> Future for UntilCut<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        if this.task.poll(context).is_ready() {
            return Poll::Ready(());
        }
        this.exchange.poll_cut(context)
    }
}

/// An HTTP/1.1 or HTTP/2 connection.
trait HttpConnection: Future<Output = hyper::Result<()>> {
    /// Accepts no more requests, and ends when those in progress have ended.
    fn shut_down(self: Pin<&mut Self>);
}

impl<I, S, B> HttpConnection for http1::UpgradeableConnection<I, S>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, S, B, E> HttpConnection for http2::Connection<I, S, E>
where
    S: hyper::service::HttpService<Incoming, ResBody = B>,
    S::Error: Into<BoxError>,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    B: http_body::Body + 'static,
    B::Error: Into<BoxError>,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
{
    fn shut_down(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
