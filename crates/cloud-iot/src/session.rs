//! The session API: building and starting a session, and its handle.

pub(crate) mod active_subscription;
pub(crate) mod config;
pub(crate) mod event;
pub(crate) mod hooks;
pub(crate) mod limits;
pub(crate) mod receipt;
pub(crate) mod request;
pub(crate) mod setters;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cloud_net::Proxy;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, timeout_at};
use tower::BoxError;
use tracing::Instrument;

use crate::core::Core;
use crate::driver::Driver;
use crate::driver::shared::Shared;
use crate::error::cause::Cause;
use crate::error::{ConfigError, PublishError, RequestError, StreamError, SubscribeError};
use crate::mqtt::message::{Message, PublishOptions, Subscription};
use crate::mqtt::topic::TopicFilter;
use crate::outbox::store::OutboxStore;
use crate::outbox::store_writer::StoreWriter;
use crate::routing::held_messages::HeldMessages;
use crate::routing::router::Router;
use crate::routing::stream::{MessageStream, require_subscription};
use crate::session::active_subscription::ActiveSubscription;
use crate::session::config::SessionConfig;
use crate::session::event::{SessionEvent, SessionState, StopReport};
use crate::session::hooks::Hooks;
use crate::session::receipt::Receipt;
use crate::session::request::Request;
use crate::transport::tls::without_identity;

/// Events buffered for a slow receiver. A receiver that falls further behind gets the number of
/// lost events.
const EVENTS: usize = 256;

/// Time beyond the deadline of a stop for ending the session's own tasks.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Maximum time for a stop: practically unlimited, and short enough to be added to a clock.
const MAX_STOP: Duration = Duration::from_secs(365 * 86_400);

/// Builds a session; see [`Session::builder`].
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
    /// Sets the handlers of received messages.
    pub fn router(mut self, router: Router) -> Self {
        self.router = router;
        self
    }

    /// Adds a hook that runs on each connection, after the subscriptions are granted and before the
    /// birth message. All hooks run concurrently, each within
    /// [`Timeouts::hook`](crate::Timeouts::hook).
    ///
    /// Messages that a hook publishes are sent after the birth message, so a hook that waits for
    /// their receipts times out.
    pub fn on_connect<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.hooks.add_connect(hook);
        self
    }

    /// Adds a hook that runs when a connection with on-connect hooks has ended. Its argument is the
    /// cause, or `None` if the session is stopping.
    pub fn on_disconnect<F, Fut>(mut self, hook: F) -> Self
    where
        F: Fn(Option<Arc<Cause>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        self.hooks.add_disconnect(hook);
        self
    }

    /// Stores accepted QoS 1 messages in `store`, so that they survive the process, `kill -9` and
    /// power loss, and the next session with the same store sends them. Messages from the store are
    /// sent before all others, in their original order. Requests are not stored, because their
    /// callers do not survive.
    ///
    /// To reduce flash wear, messages within [`SessionConfig::store_delay`] are written together,
    /// and messages that are acknowledged within that time are not written. So a message is safe
    /// not when [`publish`](Session::publish) returns but when [`Receipt::stored`] or
    /// [`publish_stored`](Session::publish_stored) does. Delivered messages are removed some
    /// seconds later; after a crash in between they are resent, as QoS 1 allows.
    ///
    /// A store belongs to one client ID: its messages are sent to the server of the session.
    pub fn outbox_store(mut self, store: impl OutboxStore) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Starts the session, which connects and stays connected until it is stopped.
    ///
    /// # Errors
    ///
    /// [`ConfigError`] if the configuration is not valid, or if called outside a Tokio runtime.
    pub fn start(self) -> Result<Session, ConfigError> {
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
        let mut store_writer = StoreWriter::new(store);
        if let Some(restored) = store_writer.restore(now, SystemTime::now()) {
            core.restore(restored);
        }
        let routes = span.in_scope(|| router.start(&events));
        let shared = Arc::new(Shared::new(config, tls, core, events));
        let driver = Driver {
            shared: Arc::clone(&shared),
            hooks,
            routes,
            store_writer,
        };
        runtime.spawn(driver.run().instrument(span));
        Ok(Session {
            guard: Arc::new(HandleGuard(shared)),
        })
    }
}

/// A handle to a running MQTT session. Clones share the session; when the last one is dropped, the
/// session stops within [`Timeouts::drop`](crate::Timeouts::drop).
#[derive(Clone)]
pub struct Session {
    guard: Arc<HandleGuard>,
}

/// Held by handles only, so that its drop means that no handle is left.
struct HandleGuard(Arc<Shared>);

impl Drop for HandleGuard {
    fn drop(&mut self) {
        let time = self.0.config.timeouts.drop;
        if !self.0.with_core(|core| core.is_stopping()) {
            self.0.stop(Instant::now() + time);
        }
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("state", &*self.shared().state.borrow())
            .finish()
    }
}

impl Session {
    /// Creates a builder with this configuration. The session starts with
    /// [`start`](SessionBuilder::start).
    pub fn builder(config: SessionConfig) -> SessionBuilder {
        SessionBuilder {
            config,
            router: Router::new(),
            hooks: Hooks::default(),
            store: None,
        }
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.guard.0
    }

    /// Accepts a message for delivery, online or not. Messages are sent in the order of acceptance;
    /// the receipt reports the result.
    ///
    /// # Errors
    ///
    /// [`PublishError`] if the topic or size is not allowed, the outbox is full, or the session is
    /// stopping. Then no part of the message is kept.
    pub fn publish(&self, message: Message) -> Result<Receipt, PublishError> {
        self.publish_with(message, PublishOptions::new())
    }

    /// Accepts a message with options, such as an expiry.
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

    /// Accepts a QoS 1 message and waits until it is [stored](SessionBuilder::outbox_store), or
    /// delivered before that. The message of a returned receipt is delivered even if the process is
    /// killed now.
    ///
    /// Messages are sent in the order in which the futures are first polled. To store many messages
    /// together, poll the futures together, or [`publish`](Self::publish) the messages and await
    /// [`Receipt::stored`] of each.
    ///
    /// # Errors
    ///
    /// [`PublishError`]: as with [`publish`](Self::publish), and [`PublishError::NotStored`] if the
    /// disk is full or fails, the message is not at QoS 1, or the session has no store. The message
    /// is then withdrawn; if it was already sent, it may arrive.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after its first poll leaves the message accepted, as by
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

    /// Opens a stream of the messages that match `filter`, from now on. The stream is a view of the
    /// session's subscriptions; it does not subscribe.
    ///
    /// # Errors
    ///
    /// [`StreamError`] if the filter is not valid, no subscription of the session overlaps it, too
    /// many streams are open, or the session has stopped.
    pub fn messages(&self, filter: impl Into<String>) -> Result<MessageStream, StreamError> {
        let filter = TopicFilter::new(filter)?;
        let shared = self.shared();
        let subscriptions = shared.with_core(|core| core.subscriptions().to_vec());
        shared
            .streams()
            .open(filter, &subscriptions, &shared.config.limits)
    }

    /// Opens a reader of the QoS 1 messages that match `filter`, which acknowledges each of them.
    /// It begins with messages that wait for one: those that no route or stream took, and those
    /// that an earlier reader dropped. Like a stream, it does not subscribe.
    ///
    /// It needs [`SessionConfig::hold`] and
    /// [`Acknowledge::AfterHandlers`](crate::Acknowledge::AfterHandlers).
    ///
    /// # Errors
    ///
    /// [`StreamError`], as [`messages`](Self::messages), or if the session holds no messages.
    pub fn held_messages(&self, filter: impl Into<String>) -> Result<HeldMessages, StreamError> {
        let filter = TopicFilter::new(filter)?;
        let shared = self.shared();
        let subscriptions = shared.with_core(|core| core.subscriptions().to_vec());
        require_subscription(&filter, &subscriptions)?;
        shared.held.read(filter, shared.config.limits.streams)
    }

    /// Subscribes to a filter while the session runs, online or not. The subscription lasts until
    /// the returned value is dropped; [`messages`](Self::messages) receives its messages.
    /// [`Subscription::required`] has no effect.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] if there are too many subscriptions, or the session is stopping.
    pub fn subscribe(
        &self,
        subscription: Subscription,
    ) -> Result<ActiveSubscription, SubscribeError> {
        ActiveSubscription::add(self.shared(), subscription)
    }

    /// Publishes a request and waits for the response: the next message on the reply topic. Streams
    /// receive the response, routes do not. A response that arrives too late is treated like any
    /// message.
    ///
    /// # Errors
    ///
    /// [`RequestError`] if the request is not accepted or not delivered, another request waits on
    /// the same reply topic, no response arrives in time, or the session stops.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future cancels the request. A queued request is never sent, and a sent one is
    /// not resent on another connection.
    pub async fn request(&self, request: Request) -> Result<Message, RequestError> {
        request.exchange(self.shared()).await
    }

    /// Uses other TLS settings for new connections, for example a new client certificate. The
    /// session reconnects as soon as the connection is idle (no message, request or handler), and
    /// after a minute in any case; it sends the goodbye message, and skips the back-off. Messages
    /// stay in the outbox meanwhile.
    ///
    /// The new settings are not verified first. If the server refuses them, the session retries
    /// with them until it receives others.
    pub fn reconnect_with(&self, tls: Arc<rustls::ClientConfig>) {
        self.shared().reconnect_with(tls);
    }

    /// Returns whether the session is online with the TLS settings of the last
    /// [`reconnect_with`](Self::reconnect_with).
    #[must_use]
    pub fn uses_latest_tls(&self) -> bool {
        self.shared().uses_latest_tls()
    }

    /// Uses another proxy for later connections. A connection in use stays; without one, the
    /// back-off ends as after [`network_changed`](Self::network_changed).
    pub fn set_proxy(&self, proxy: Option<Proxy>) {
        self.shared().set_proxy(proxy);
    }

    /// Returns the proxy for the next connection.
    #[must_use]
    pub fn proxy(&self) -> Option<Proxy> {
        self.shared().proxy()
    }

    /// Reports a change of the device's network: an interface came up or went down, or has another
    /// address. Intended for hosts that monitor the network; otherwise only
    /// [keep-alive](SessionConfig::keep_alive) detects a dead connection.
    ///
    /// The session probes the connection at once, and drops it if nothing is received within 5 s
    /// (or half the keep-alive interval, if shorter). A running attempt has the same limit. A
    /// back-off ends, unless the server refused the session, with at least one second between
    /// attempts. Unnecessary calls are harmless.
    pub fn network_changed(&self) {
        self.shared()
            .with_core(|core| core.handle_network_change(Instant::now()));
    }

    /// Returns the subscriptions that the server has refused on the current connection; see
    /// [`SessionEvent::SubscriptionRefused`].
    #[must_use]
    pub fn refused_subscriptions(&self) -> Vec<TopicFilter> {
        self.shared().with_core(Core::refused_subscriptions)
    }

    /// Returns the port of the current connection, or of the next attempt. Keep the value for
    /// [`SessionConfig::preferred_port`] when the session is [online](SessionEvent::Connected).
    #[must_use]
    pub fn port(&self) -> u16 {
        self.shared().port()
    }

    /// Returns a receiver of the session state.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<SessionState> {
        self.shared().state.subscribe()
    }

    /// Returns a receiver of the events from now on. A receiver that falls behind by more than 256
    /// events gets the number of lost events; the session never waits for it.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<SessionEvent> {
        self.shared().events.subscribe()
    }

    /// Stops the session. If it is connected, it flushes the outbox, waits for handlers of messages
    /// to acknowledge ([`Acknowledge::AfterHandlers`](crate::Acknowledge)), and sends the goodbye
    /// message and DISCONNECT; then the on-disconnect hooks run. Work that does not complete within
    /// `limit` is aborted, and the receipts of undelivered messages report it. No task is left
    /// afterwards.
    ///
    /// Another call waits for the same stop; the shorter limit applies.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future does not cancel the stop.
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
