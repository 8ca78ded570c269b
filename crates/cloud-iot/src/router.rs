//! From a received message's topic to its handler.
//!
//! A handler is a [`tower::Service`] of [`Message`]. Each route has a bounded queue and runs in a
//! task of its own, so that a slow handler delays neither keep-alive nor another route, and a
//! failing one harms nobody: its error, panic or time-out is told as an event.

use std::sync::Arc;
use std::time::Duration;

use cloud_net::{LogThrottle, UntrustedText, warn_throttled};
use serde::de::DeserializeOwned;
use tokio::sync::broadcast;
use tokio::task::{JoinError, JoinSet};
use tower::util::BoxCloneService;
use tower::{BoxError, Service, ServiceExt};

use crate::event::SessionEvent;
use crate::handled::Handled;
use crate::inbox::{Letter, NotDelivered, Receiver, Sender, inbox};
use crate::json::{Json, Malformed, extracting};
use crate::message::Message;
use crate::topic::{TopicError, TopicFilter};
use crate::turns::Turns;

/// How one route treats its handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteOptions {
    /// Messages handled at the same time, at least 1. Default: 1, which keeps the order of all. With
    /// more, those of one topic are still handled one after the other, in order.
    pub concurrency: usize,
    /// Messages that wait, at least 1. Default: 64. When it is full the newest are dropped. With a
    /// concurrency above 1 as many again may wait for another one of their topic to end.
    pub queue_messages: usize,
    /// What these count together, in bytes. Default: 1 MiB. What waits for its topic is not counted.
    pub queue_bytes: usize,
    /// How long one message may take. Default: 30 s.
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

type Handler = BoxCloneService<Message, (), BoxError>;

struct Route {
    filter: TopicFilter,
    options: RouteOptions,
    handler: Handler,
}

/// The handlers of a session. A message goes to every route whose filter it falls under, except
/// when it is the answer to a [request](crate::SessionHandle::request).
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
    /// A router without routes.
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

    /// Adds a handler with options of its own. Zeros in them count as one.
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

    /// Adds a handler of what is inside the messages, with the default [`RouteOptions`]. A payload that
    /// cannot be read as a `T` does not reach it; see [`SessionEvent::RouteMalformed`].
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

    /// The same with options of its own.
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
        self.route_with(filter, options, extracting(handler))
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
            let (sender, receiver) = inbox(options.queue_messages, options.queue_bytes);
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
    /// Queues the message on each route whose filter it falls under; tells whether there is one.
    /// Each holds `handled` until it is done.
    pub(crate) fn deliver(&mut self, message: &Message, handled: Option<&Arc<Handled>>) -> bool {
        let mut taken = false;
        for route in &mut self.senders {
            if !route.filter.matches(&message.topic) {
                continue;
            }
            taken = true;
            let letter = Letter {
                message: message.clone(),
                handled: handled.cloned(),
            };
            if route.sender.send(letter) != Err(NotDelivered::Full) {
                route.overflowing = false;
                continue;
            }
            route.dropped += 1;
            if !std::mem::replace(&mut route.overflowing, true) {
                let (filter, dropped) = (route.filter.clone(), route.dropped);
                let log = &route.overflow_log;
                warn_throttled!(log, %filter, dropped, "a handler is too slow; messages are dropped");
                // Nobody needs to listen.
                let _ = self
                    .events
                    .send(SessionEvent::RouteOverflow { filter, dropped });
            }
        }
        taken
    }

    /// Lets the handlers finish what is queued.
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
        // Each message in a task of its own, which catches panics; dropping the set aborts them.
        let mut running = JoinSet::new();
        let mut turns = Turns::new(self.options.concurrency, self.options.queue_messages);
        let mut open = true;
        while open || !turns.is_idle() {
            while let Some(letter) = turns.next() {
                let topic = letter.message.topic.clone();
                let (handler, limit) = (self.handler.clone(), self.options.timeout);
                let task = running.spawn(handle(handler, letter, limit));
                turns.begun(task.id(), topic);
            }
            tokio::select! {
                letter = queue.recv(), if open && turns.has_room() => match letter {
                    Some(letter) => turns.add(letter),
                    None => open = false,
                },
                Some(ended) = running.join_next_with_id() => {
                    let (id, outcome) = match ended {
                        Ok((id, outcome)) => (id, outcome),
                        Err(error) => (error.id(), Err(fault(&error))),
                    };
                    turns.ended(&id);
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
            warn_throttled!(log, %filter, %error, count, "a message was not understood");
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
        // Nobody needs to listen.
        let _ = self.events.send(event);
    }
}

/// Handlers are not aborted before their worker is.
fn fault(error: &JoinError) -> BoxError {
    if error.is_panic() {
        "the handler panicked".into()
    } else {
        "the handler was aborted".into()
    }
}

async fn handle(handler: Handler, letter: Letter, limit: Duration) -> Result<(), BoxError> {
    // Dropped at the end, and by a panic.
    let Letter {
        message,
        handled: _handled,
    } = letter;
    match tokio::time::timeout(limit, handler.oneshot(message)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("the handler took longer than {limit:?}").into()),
    }
}
