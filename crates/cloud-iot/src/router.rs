//! From a received message's topic to its handler.
//!
//! A handler is a [`tower::Service`] of [`Message`]. Each route has a bounded queue and runs in a
//! task of its own, so that a slow handler delays neither keep-alive nor another route, and a
//! failing one harms nobody: its error, panic or time-out is told as an event.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::task::{JoinError, JoinSet};
use tower::util::BoxCloneService;
use tower::{BoxError, Service, ServiceExt};

use crate::event::SessionEvent;
use crate::handled::Handled;
use crate::inbox::{Letter, NotDelivered, Receiver, Sender, inbox};
use crate::message::Message;
use crate::topic::{TopicError, TopicFilter};

/// How one route treats its handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteOptions {
    /// Messages handled at the same time, at least 1. Default: 1, which keeps their order.
    pub concurrency: usize,
    /// Messages that wait, at least 1. Default: 64. When it is full the newest are dropped.
    pub queue_messages: usize,
    /// What these count together, in bytes. Default: 1 MiB.
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
            let (sender, receiver) = inbox(options.queue_messages.max(1), options.queue_bytes);
            routes.senders.push(RunningRoute {
                filter: filter.clone(),
                sender,
                dropped: 0,
                overflowing: false,
            });
            let worker = Worker {
                filter,
                options,
                handler,
                events: events.clone(),
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
                tracing::warn!(%filter, dropped, "a handler is too slow; messages are dropped");
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
}

impl Worker {
    async fn run(self, mut queue: Receiver) {
        // Each message in a task of its own, which catches panics; dropping the set aborts them.
        let mut running = JoinSet::new();
        loop {
            while running.len() >= self.options.concurrency.max(1) {
                if let Some(ended) = running.join_next().await {
                    self.report(ended);
                }
            }
            tokio::select! {
                letter = queue.recv() => {
                    let Some(letter) = letter else { break };
                    let (handler, limit) = (self.handler.clone(), self.options.timeout);
                    running.spawn(handle(handler, letter, limit));
                }
                Some(ended) = running.join_next() => self.report(ended),
            }
        }
        while let Some(ended) = running.join_next().await {
            self.report(ended);
        }
    }

    fn report(&self, ended: Result<Result<(), BoxError>, JoinError>) {
        let error: Arc<str> = match ended {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string().into(),
            Err(error) if error.is_panic() => "the handler panicked".into(),
            Err(_) => return,
        };
        tracing::warn!(filter = %self.filter, %error, "a handler failed");
        let _ = self.events.send(SessionEvent::RouteFailed {
            filter: self.filter.clone(),
            error,
        });
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
