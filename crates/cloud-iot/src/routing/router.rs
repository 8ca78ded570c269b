//! Routes: dispatching received messages to handlers by topic filter.
//!
//! A handler is a [`tower::Service`] of [`Message`]. Each route has a bounded queue and its own
//! task, so that a slow handler delays neither keep-alive nor other routes. An error, panic or
//! timeout of a handler is reported as an event.

use std::sync::Arc;
use std::time::Duration;

use cloud_net::{LogThrottle, Malformed, UntrustedText, warn_throttled};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio::task::{JoinError, JoinSet};
use tower::util::BoxCloneService;
use tower::{BoxError, Service, ServiceExt};

use crate::mqtt::message::Message;
use crate::mqtt::topic::{TopicError, TopicFilter};
use crate::routing::ack_guard::AckGuard;
use crate::routing::bounded_queue::{Delivery, Receiver, Sender, TrySendError, bounded};
use crate::routing::json::{Json, json_handler};
use crate::routing::topic_scheduler::TopicScheduler;
use crate::session::event::SessionEvent;
use crate::session::setters::setters;

/// Options of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteOptions {
    /// Messages handled concurrently, at least 1. Default: 1, which keeps the order of all
    /// messages. With more, messages of one topic are still handled one after the other, in order.
    pub concurrency: usize,
    /// Queued messages, at least 1. Default: 64. When the queue is full, the newest message is
    /// dropped. With a concurrency above 1, as many again may wait for an earlier message of their
    /// topic.
    pub queue_messages: usize,
    /// Their total cost in bytes. Default: 1 MiB. Messages that wait for their topic do not count.
    pub queue_bytes: usize,
    /// Timeout for handling one message. Default: 30 s.
    pub timeout: Duration,
}

impl Default for RouteOptions {
    fn default() -> Self {
        Self {
            concurrency: 1,
            queue_messages: 64,
            queue_bytes: 1 << 20,
            timeout: Duration::from_secs(30),
        }
    }
}

impl RouteOptions {
    /// Returns the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        concurrency: usize,
        queue_messages: usize,
        queue_bytes: usize,
        timeout: Duration,
    }
}

type Handler = BoxCloneService<Message, (), BoxError>;

struct Route {
    filter: TopicFilter,
    options: RouteOptions,
    handler: Handler,
}

/// The handlers of a session. A message is passed to every route whose filter matches, unless it is
/// the response to a [request](crate::Session::request).
///
/// ```
/// use cloud_iot::{Message, Router};
/// use tower::{BoxError, service_fn};
///
/// let router = Router::new().route(
///     "c/platform",
///     service_fn(|message: Message| async move {
///         println!("{} bytes for all", message.payload.len());
///         Ok::<(), BoxError>(())
///     }),
/// )?;
/// # Ok::<(), cloud_iot::TopicError>(())
/// ```
#[derive(Default)]
pub struct Router {
    routes: Vec<Route>,
}

impl std::fmt::Debug for Router {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.routes.iter().map(|route| &route.filter))
            .finish()
    }
}

impl Router {
    /// Creates a router without routes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler with the default [`RouteOptions`].
    ///
    /// # Errors
    ///
    /// [`TopicError`] if the filter is not valid.
    pub fn route<S>(self, filter: impl Into<String>, handler: S) -> Result<Self, TopicError>
    where
        S: Service<Message, Response = ()> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        self.route_with(filter, RouteOptions::default(), handler)
    }

    /// Adds a handler with its own options. Zero counts as one.
    ///
    /// # Errors
    ///
    /// [`TopicError`] if the filter is not valid.
    pub fn route_with<S>(
        mut self,
        filter: impl Into<String>,
        options: RouteOptions,
        handler: S,
    ) -> Result<Self, TopicError>
    where
        S: Service<Message, Response = ()> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        let handler = BoxCloneService::new(handler.map_err(Into::into));
        self.routes.push(Route {
            filter: TopicFilter::new(filter)?,
            options,
            handler,
        });
        Ok(self)
    }

    /// Adds a handler of parsed JSON payloads, with the default [`RouteOptions`]. A payload that
    /// cannot be parsed as a `T` does not reach it; see [`SessionEvent::RouteMalformed`].
    ///
    /// ```
    /// use cloud_iot::{BoxError, Json, Router};
    /// use serde::Deserialize;
    /// use tower::service_fn;
    ///
    /// #[derive(Deserialize)]
    /// struct Reboot {
    ///     delay_s: u32,
    /// }
    ///
    /// let router = Router::new().json(
    ///     "c/d/7/reboot/res",
    ///     service_fn(|Json { topic, value }: Json<Reboot>| async move {
    ///         println!("{topic}: in {} s", value.delay_s);
    ///         Ok::<(), BoxError>(())
    ///     }),
    /// )?;
    /// # Ok::<(), cloud_iot::TopicError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`TopicError`] if the filter is not valid.
    pub fn json<T, S>(self, filter: impl Into<String>, handler: S) -> Result<Self, TopicError>
    where
        T: DeserializeOwned + Send + 'static,
        S: Service<Json<T>, Response = ()> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        self.json_with(filter, RouteOptions::default(), handler)
    }

    /// Adds a handler of parsed JSON payloads, with its own options.
    ///
    /// # Errors
    ///
    /// [`TopicError`] if the filter is not valid.
    pub fn json_with<T, S>(
        self,
        filter: impl Into<String>,
        options: RouteOptions,
        handler: S,
    ) -> Result<Self, TopicError>
    where
        T: DeserializeOwned + Send + 'static,
        S: Service<Json<T>, Response = ()> + Clone + Send + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        self.route_with(filter, options, json_handler(handler))
    }

    /// Starts a task for each route.
    pub(crate) fn start(self, events: &broadcast::Sender<SessionEvent>) -> Routes {
        let mut routes = Routes {
            senders: Vec::new(),
            workers: JoinSet::new(),
            events: events.clone(),
        };
        for Route {
            filter,
            options,
            handler,
        } in self.routes
        {
            let (sender, receiver) = bounded(options.queue_messages, options.queue_bytes);
            routes.senders.push(RunningRoute {
                filter: filter.clone(),
                sender,
                dropped: 0,
                overflowing: false,
                overflow_log: LogThrottle::new(),
            });
            let worker = Worker {
                filter,
                options,
                handler,
                events: events.clone(),
                malformed: 0,
                malformed_log: LogThrottle::new(),
                failed_log: LogThrottle::new(),
            };
            routes.workers.spawn(worker.run(receiver));
        }
        routes
    }
}

struct RunningRoute {
    filter: TopicFilter,
    sender: Sender,
    dropped: u64,
    overflowing: bool,
    overflow_log: LogThrottle,
}

/// The running routes. Dropping them ends their tasks.
pub(crate) struct Routes {
    senders: Vec<RunningRoute>,
    workers: JoinSet<()>,
    events: broadcast::Sender<SessionEvent>,
}

impl Routes {
    /// Queues the message on each route whose filter matches; returns whether there is one. Each
    /// route holds `ack_guard` until the handler has ended.
    pub(crate) fn deliver(&mut self, message: &Message, ack_guard: Option<&Arc<AckGuard>>) -> bool {
        let mut taken = false;
        for route in &mut self.senders {
            if !route.filter.matches(&message.topic) {
                continue;
            }
            taken = true;
            let delivery = Delivery {
                message: message.clone(),
                ack_guard: ack_guard.cloned(),
            };
            if route.sender.try_send(delivery) != Err(TrySendError::Full) {
                route.overflowing = false;
                continue;
            }
            route.dropped += 1;
            if !std::mem::replace(&mut route.overflowing, true) {
                let (filter, dropped) = (route.filter.clone(), route.dropped);
                let log = &route.overflow_log;
                warn_throttled!(log, %filter, dropped, "a handler is too slow; messages are dropped");
                // An error means that no receiver exists.
                let _ = self
                    .events
                    .send(SessionEvent::RouteOverflow { filter, dropped });
            }
        }
        taken
    }

    /// Waits until the handlers have finished the queued messages.
    pub(crate) async fn finish(mut self) {
        self.senders.clear();
        while self.workers.join_next().await.is_some() {}
    }
}

struct Worker {
    filter: TopicFilter,
    options: RouteOptions,
    handler: Handler,
    events: broadcast::Sender<SessionEvent>,
    malformed: u64,
    malformed_log: LogThrottle,
    failed_log: LogThrottle,
}

impl Worker {
    async fn run(mut self, mut queue: Receiver) {
        // Each message has its own task, which catches panics; dropping the set aborts them.
        let mut running = JoinSet::new();
        let mut scheduler =
            TopicScheduler::new(self.options.concurrency, self.options.queue_messages);
        let mut open = true;
        while open || !scheduler.is_idle() {
            while let Some(delivery) = scheduler.next() {
                let topic = delivery.message.topic.clone();
                let (handler, limit) = (self.handler.clone(), self.options.timeout);
                let task = running.spawn(handle(handler, delivery, limit));
                scheduler.started(task.id(), topic);
            }
            tokio::select! {
                delivery = queue.recv(), if open && scheduler.has_room() => match delivery {
                    Some(delivery) => scheduler.add(delivery),
                    None => open = false,
                },
                Some(ended) = running.join_next_with_id() => {
                    let (id, outcome) = match ended {
                        Ok((id, outcome)) => (id, outcome),
                        Err(error) => (error.id(), Err(join_error(&error))),
                    };
                    scheduler.finished(&id);
                    if let Err(error) = outcome {
                        self.report(&error);
                    }
                }
            }
        }
    }

    fn report(&mut self, error: &BoxError) {
        let filter = self.filter.clone();
        let event = if let Some(malformed) = error.downcast_ref::<Malformed>() {
            self.malformed += 1;
            let (error, count) = (*malformed, self.malformed);
            let log = &self.malformed_log;
            warn_throttled!(log, %filter, %error, count, "a message has an invalid payload");
            SessionEvent::RouteMalformed {
                filter,
                error,
                count,
            }
        } else {
            let error = UntrustedText::of(error);
            warn_throttled!(self.failed_log, %filter, %error, "a handler failed");
            SessionEvent::RouteFailed { filter, error }
        };
        // An error means that no receiver exists.
        let _ = self.events.send(event);
    }
}

/// Handlers are aborted only together with their worker.
fn join_error(error: &JoinError) -> BoxError {
    if error.is_panic() {
        "the handler panicked".into()
    } else {
        "the handler was aborted".into()
    }
}

async fn handle(handler: Handler, delivery: Delivery, limit: Duration) -> Result<(), BoxError> {
    // Dropped at the end, and by a panic.
    let Delivery {
        message,
        ack_guard: _ack_guard,
    } = delivery;
    match tokio::time::timeout(limit, handler.oneshot(message)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("the handler took longer than {limit:?}").into()),
    }
}
