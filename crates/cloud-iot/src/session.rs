//! Starting a session, and the handle to it.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};
use tower::BoxError;
use tracing::Instrument;

use crate::cause::Cause;
use crate::config::SessionConfig;
use crate::core::{Core, StopReport};
use crate::driver::{Driver, Shared};
use crate::error::{ConfigError, PublishError, RequestError, StreamError};
use crate::event::{SessionEvent, SessionState};
use crate::hooks::Hooks;
use crate::keeper::Keeper;
use crate::message::{Message, PublishOptions};
use crate::receipt::Receipt;
use crate::request::Request;
use crate::router::Router;
use crate::store::OutboxStore;
use crate::stream::MessageStream;
use crate::tls::without_identity;
use crate::topic::TopicFilter;

/// Events kept for a slow reader; beyond them it is told how many it missed.
const EVENTS: usize = 256;

/// What a stop is given beyond its deadline to take down its own tasks.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// The longest time for a stop: for ever, as far as anybody can tell, and short enough to be added to a clock.
const MAX_STOP: Duration = Duration::from_secs(365 * 86_400);

/// An MQTT session; see [`Session::builder`].
#[derive(Debug, Clone, Copy)]
pub struct Session;

impl Session {
    /// Begins a session with this configuration. Nothing happens before
    /// [`start`](SessionBuilder::start).
    pub fn builder(config: SessionConfig) -> SessionBuilder {
        SessionBuilder {
            config,
            router: Router::new(),
            hooks: Hooks::default(),
            store: None,
        }
    }
}

/// Puts a session together.
#[must_use]
pub struct SessionBuilder {
    config: SessionConfig,
    router: Router,
    hooks: Hooks,
    store: Option<Box<dyn OutboxStore>>,
}

impl std::fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("config", &self.config)
            .field("router", &self.router)
            .finish_non_exhaustive()
    }
}

impl SessionBuilder {
    /// The handlers of received messages.
    pub fn router(mut self, router: Router) -> Self {
        self.router = router;
        self
    }

    /// Adds something to be done on each connection, after the subscriptions are granted and
    /// before the birth message. May be called several times; all hooks run together, each within
    /// [`Timeouts::hook`](crate::Timeouts::hook).
    ///
    /// What a hook publishes goes out after the birth message; to wait for its receipt inside the
    /// hook is to wait for the hook's own time limit.
    pub fn on_connect<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.hooks.add_connect(hook);
        self
    }

    /// Adds something to be done whenever a connection has ended on which the on-connect hooks
    /// were run; it is told why, or `None` if the session is being stopped.
    pub fn on_disconnect<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Option<Arc<Cause>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.hooks.add_disconnect(hook);
        self
    }

    /// Keeps what is accepted at QoS 1 in `store`, so that it survives the end of the process,
    /// `kill -9` and the loss of power, and is sent by the next session with the same store. What the
    /// store holds already is sent before everything else, in its old order. Requests are not stored:
    /// nobody would be left to take their answers.
    ///
    /// The flash below is spared: what comes within [`SessionConfig::store_delay`] is written
    /// together, and what is acknowledged within that time not at all. So a message is safe not when
    /// [`publish`](SessionHandle::publish) returns but when [`Receipt::stored`] does, or
    /// [`publish_stored`](SessionHandle::publish_stored). Delivered messages leave the store some
    /// seconds later; after a crash in between they are sent once more, as QoS 1 allows.
    ///
    /// A store belongs to one client id: its messages go to whatever server the session talks to.
    pub fn outbox_store(mut self, store: impl OutboxStore) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Starts the session: it connects, and stays connected until it is stopped.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the configuration is not valid, or if called outside a Tokio runtime.
    pub fn start(self) -> Result<SessionHandle, ConfigError> {
        let Self {
            mut config,
            router,
            hooks,
            store,
        } = self;
        config.validate()?;
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ConfigError::NoRuntime)?;
        let keyless = without_identity(&config.tls);
        let tls = std::mem::replace(&mut config.tls, keyless);
        let config = Arc::new(config);
        let span = tracing::info_span!(
            "session", host = %config.host, port = config.port, client_id = %config.client_id
        );
        let (events, _) = broadcast::channel(EVENTS);
        let now = Instant::now();
        let mut core = Core::new(Arc::clone(&config), Box::new(rand::random::<f64>), now);
        let mut keeper = Keeper::new(store);
        if let Some(former) = keeper.restore(now, SystemTime::now()) {
            core.restore(former);
        }
        let routes = span.in_scope(|| router.start(&events));
        let shared = Arc::new(Shared::new(config, tls, core, events));
        let driver = Driver {
            shared: Arc::clone(&shared),
            hooks,
            routes,
            keeper,
        };
        runtime.spawn(driver.run().instrument(span));
        Ok(SessionHandle {
            owner: Arc::new(Owner(shared)),
        })
    }
}

/// A running session. Clones are cheap and all the same session; when the last one is dropped the
/// session stops by itself, within [`Timeouts::drop`](crate::Timeouts::drop).
#[derive(Clone)]
pub struct SessionHandle {
    owner: Arc<Owner>,
}

/// Held by handles only, so that its drop tells that none is left.
struct Owner(Arc<Shared>);

impl Drop for Owner {
    fn drop(&mut self) {
        let time = self.0.config.timeouts.drop;
        if !self.0.with_core(|core| core.is_stopping()) {
            self.0.stop(Instant::now() + time);
        }
    }
}

impl std::fmt::Debug for SessionHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionHandle")
            .field("state", &*self.shared().state.borrow())
            .finish()
    }
}

impl SessionHandle {
    fn shared(&self) -> &Arc<Shared> {
        &self.owner.0
    }

    /// Accepts a message for delivery, online or not. Messages leave in the order in which they
    /// were accepted; the receipt tells what became of this one.
    ///
    /// # Errors
    ///
    /// [`PublishError`] if the topic or size is not allowed, the outbox is full, or the session is
    /// stopping. Then nothing of the message was kept.
    pub fn publish(&self, message: Message) -> Result<Receipt, PublishError> {
        self.publish_with(message, PublishOptions::new())
    }

    /// The same with options: a time after which the message is given up.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub fn publish_with(
        &self,
        message: Message,
        options: PublishOptions,
    ) -> Result<Receipt, PublishError> {
        let now = Instant::now();
        self.shared()
            .with_core(|core| core.publish(message, options, now))
    }

    /// Accepts a message at QoS 1 and waits until it is [stored](SessionBuilder::outbox_store), or was
    /// delivered before that was needed: what this returns a receipt for is delivered even if the
    /// process is killed now.
    ///
    /// Messages leave in the order in which this was first polled. To have many stored together, poll
    /// them together, or [`publish`](Self::publish) them and await [`Receipt::stored`] of each.
    ///
    /// # Errors
    ///
    /// [`PublishError`]: as with [`publish`](Self::publish), and [`PublishError::NotStored`] if the
    /// disk is full or fails, the message is not at QoS 1, or the session has no store. The message
    /// is then given up; if it had left by that time it may arrive all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after it was polled leaves the message accepted, as by
    /// [`publish`](Self::publish).
    pub async fn publish_stored(
        &self,
        message: Message,
        options: PublishOptions,
    ) -> Result<Receipt, PublishError> {
        let shared = self.shared();
        let (id, mut receipt) =
            shared.with_core(|core| core.publish_stored(message, options, Instant::now()))?;
        match receipt.stored().await {
            Ok(()) => Ok(receipt),
            Err(error) => {
                shared.with_core(|core| core.withdraw(id, Instant::now()));
                Err(PublishError::NotStored(error))
            }
        }
    }

    /// Opens a stream of the received messages that fall under `filter`, from now on. It is a view
    /// of what the session's subscriptions bring; it subscribes to nothing by itself.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if the filter is not valid, none of the session's subscriptions can bring
    /// anything under it, too many streams are open, or the session has stopped.
    pub fn messages(&self, filter: impl Into<String>) -> Result<MessageStream, StreamError> {
        let filter = TopicFilter::new(filter)?;
        let config = &self.shared().config;
        self.shared()
            .streams()
            .open(filter, &config.subscriptions, &config.limits)
    }

    /// Publishes a request and waits for its answer: the next message on the reply topic. Routes do
    /// not see the answer, streams do. An answer that comes too late is a message like any other.
    ///
    /// # Errors
    ///
    /// [`RequestError`] if the request is not accepted or not delivered, if another one waits on
    /// the same reply topic, if no answer comes in time, or if the session stops.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future gives the answer up. A request that has not been handed over to the connection never leaves, and
    /// none is sent again on another one.
    pub async fn request(&self, request: Request) -> Result<Message, RequestError> {
        request.exchange(self.shared()).await
    }

    /// Makes connections with other TLS settings from now on: those of a new client certificate. The
    /// connection that is there is left for a new one as soon as nothing is under way on it (no
    /// message, request or handler), and after a minute in any case; with the goodbye, and without
    /// the wait that a failure has. Messages stay in the outbox meanwhile.
    ///
    /// Whether the server takes the new settings is not tried first. If it does not, the session
    /// goes on trying with them, until there are others.
    pub fn reconnect_with(&self, tls: Arc<rustls::ClientConfig>) {
        self.shared().reconnect_with(tls);
    }

    /// Whether the session is online with the TLS settings that it was [last given](Self::reconnect_with).
    #[must_use]
    pub fn has_newest_tls(&self) -> bool {
        self.shared().has_newest_tls()
    }

    /// Tells the session that the device's network has changed: an interface came up or went, or has
    /// another address. For a host that watches its network; without it a dead connection is noticed
    /// by [keep-alive](SessionConfig::keep_alive) alone.
    ///
    /// The connection that there is is probed at once, and given up if it shows no life within 5 s
    /// (or half the keep-alive interval, if that is shorter). An attempt that is under way gets no more
    /// than that either. A wait ends, unless it was the server that refused, though there are never two
    /// attempts within a second. Calling it too often, or for nothing, does no harm.
    pub fn network_changed(&self) {
        self.shared()
            .with_core(|core| core.network_changed(Instant::now()));
    }

    /// The port of the connection that there is, or where the next attempt goes. One that is read when
    /// the session comes [online](SessionEvent::Connected) is worth being kept for
    /// [`SessionConfig::last_port`].
    #[must_use]
    pub fn port(&self) -> u16 {
        self.shared().port()
    }

    /// Where the session stands, now and whenever it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.shared().state.subscribe()
    }

    /// What happens from now on. A reader that falls behind by more than 256 events is told how
    /// many it missed; the session never waits for it.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<SessionEvent> {
        self.shared().events.subscribe()
    }

    /// Stops the session: what is queued is sent, handlers finish what waits for its acknowledgement
    /// ([`Acknowledge::AfterHandlers`](crate::Acknowledge)), the goodbye is sent, if there is a connection, then
    /// DISCONNECT, then the on-disconnect hooks run. All within `limit`; what is not done by then
    /// is given up, and the receipts of undelivered messages say so. No task is left afterwards.
    ///
    /// Calling it again waits for the same end; the shorter limit counts.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not take the stop back.
    pub async fn stop(&self, limit: Duration) -> StopReport {
        let deadline = Instant::now() + limit.min(MAX_STOP);
        self.shared().stop(deadline);
        let mut state = self.state();
        let stopped = state.wait_for(|state| *state == SessionState::Stopped);
        if timeout_at(deadline + STOP_GRACE, stopped).await.is_err() {
            tracing::error!("the session did not stop in time");
        }
        self.shared().report()
    }
}
