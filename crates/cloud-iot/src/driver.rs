//! The session's task: carries out what the [core](crate::core) decides, and tells it what happened.
//!
//! It waits for one thing at a time (a call, an event of the connection, a hook's end, a deadline)
//! and nothing that it does blocks. The connection lives in it; the tasks of the hooks and of the
//! routes are its children. When it ends, none is left.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use cloud_net::{UntrustedText, error_throttled, info_throttled, warn_throttled};
use rustls::ClientConfig;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::cause::Cause;
use crate::clock::Clocks;
use crate::config::SessionConfig;
use crate::connection::{Connection, EVENTS, NotTaken};
use crate::core::{Action, Core, Port, StopReport};
use crate::event::{SessionEvent, SessionState};
use crate::handled::Handled;
use crate::hooks::Hooks;
use crate::inbound::DeliveryId;
use crate::keeper::Keeper;
use crate::link::LinkEvent;
use crate::log_throttles::LogThrottles;
use crate::message::Message;
use crate::router::Routes;
use crate::stream::Streams;

/// What the driver shares with the handles.
pub(crate) struct Shared {
    pub(crate) config: Arc<SessionConfig>,
    pub(crate) state: watch::Sender<SessionState>,
    pub(crate) events: broadcast::Sender<SessionEvent>,
    core: Mutex<Core>,
    streams: Mutex<Streams>,
    stop_by: Mutex<Option<Instant>>,
    /// For connections from now on. The configuration beside it has no key, which would stay in memory after its
    /// replacement.
    tls: Mutex<Option<Arc<ClientConfig>>>,
    wake: Notify,
}

impl Shared {
    pub(crate) fn new(
        config: Arc<SessionConfig>,
        tls: Arc<ClientConfig>,
        core: Core,
        events: broadcast::Sender<SessionEvent>,
    ) -> Self {
        Self {
            config,
            state: watch::Sender::new(SessionState::Connecting { attempt: 1 }),
            events,
            core: Mutex::new(core),
            streams: Mutex::default(),
            stop_by: Mutex::default(),
            tls: Mutex::new(Some(tls)),
            wake: Notify::new(),
        }
    }

    /// The port of the connection that there is, or of the next one.
    pub(crate) fn port(&self) -> u16 {
        lock(&self.core).port()
    }

    /// Does something with the core and lets the driver carry out what comes of it.
    pub(crate) fn with_core<T>(&self, f: impl FnOnce(&mut Core) -> T) -> T {
        let outcome = f(&mut lock(&self.core));
        self.wake.notify_one();
        outcome
    }

    pub(crate) fn streams(&self) -> MutexGuard<'_, Streams> {
        lock(&self.streams)
    }

    /// Tells the session to end by `deadline`. A second call may only shorten the time.
    pub(crate) fn stop(&self, deadline: Instant) {
        let deadline = {
            let mut stop_by = lock(&self.stop_by);
            let deadline = stop_by.map_or(deadline, |earlier| earlier.min(deadline));
            *stop_by = Some(deadline);
            deadline
        };
        self.with_core(|core| core.stop(deadline, Instant::now()));
    }

    /// Makes connections with other TLS settings from now on, beginning with the next quiet moment.
    pub(crate) fn reconnect_with(&self, tls: Arc<ClientConfig>) {
        *lock(&self.tls) = Some(tls);
        self.with_core(|core| core.renew(Instant::now()));
    }

    /// Whether the connection that there is was made with the settings of the last [`reconnect_with`](Self::reconnect_with).
    pub(crate) fn has_newest_tls(&self) -> bool {
        // They are taken when a connection is opened, of which the state tells before.
        lock(&self.tls).is_none() && matches!(*self.state.borrow(), SessionState::Online { .. })
    }

    pub(crate) fn report(&self) -> StopReport {
        lock(&self.core).report()
    }
}

/// A panic while a lock was held cannot leave half a change behind that matters more than going on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) struct Driver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) hooks: Hooks,
    pub(crate) routes: Routes,
    pub(crate) keeper: Keeper,
}

/// Ends the session for its handles however the driver ends, even by a panic or with the runtime.
struct LastWord(Arc<Shared>);

impl Drop for LastWord {
    fn drop(&mut self) {
        lock(&self.0.core).abandon();
        self.0.streams().end();
        self.0.state.send_replace(SessionState::Stopped);
    }
}

impl Driver {
    pub(crate) async fn run(self) {
        let Self {
            shared,
            hooks,
            routes,
            keeper,
        } = self;
        let last_word = LastWord(Arc::clone(&shared));
        let mut running = Running {
            config: Arc::clone(&shared.config),
            shared,
            hooks,
            routes,
            keeper,
            connection: None,
            hooking: JoinSet::new(),
            throttles: Arc::default(),
        };
        running.serve().await;
        running.finish().await;
        drop(last_word);
    }
}

struct Running {
    shared: Arc<Shared>,
    /// The configuration that connections are made by.
    config: Arc<SessionConfig>,
    hooks: Hooks,
    routes: Routes,
    keeper: Keeper,
    connection: Option<Connection>,
    /// Hooks that run, and aborted ones that are still ending.
    hooking: JoinSet<()>,
    throttles: Arc<LogThrottles>,
}

impl Running {
    async fn serve(&mut self) {
        let keep_alive = self.shared.config.keep_alive;
        let mut clocks = Clocks::new(Instant::now(), SystemTime::now());
        while !self.carry_out() {
            let deadline = {
                let mut core = lock(&self.shared.core);
                core.measure(Instant::now());
                // A connection wakes us for every ping; without one we have to look by ourselves.
                let look = core.is_waiting().then(|| Instant::now() + keep_alive);
                core.next_deadline().into_iter().chain(look).min()
            };
            tokio::select! {
                () = self.shared.wake.notified() => {}
                event = next_event(&mut self.connection) => self.link_events(event),
                Some(ended) = self.hooking.join_next() => {
                    if let Err(error) = ended && error.is_panic() {
                        warn_throttled!(self.throttles.hook, "a hook panicked");
                    }
                    if self.hooking.is_empty() {
                        lock(&self.shared.core).hooks_finished(Instant::now());
                    }
                }
                outcome = self.keeper.written() => {
                    lock(&self.shared.core).stored(outcome, Instant::now());
                }
                () = until(deadline) => lock(&self.shared.core).handle_timeout(Instant::now()),
            }
            let now = Instant::now();
            if let Some(gain) = clocks.jump(now, SystemTime::now(), keep_alive) {
                tracing::info!(?gain, "the clock jumped ahead");
                lock(&self.shared.core).clock_jumped(gain, now);
            }
        }
    }

    /// Takes the event and those that have come already, so that a burst costs one wake-up.
    fn link_events(&mut self, first: LinkEvent) {
        let now = Instant::now();
        let mut core = lock(&self.shared.core);
        core.link_event(first, now);
        for event in queued(&mut self.connection) {
            core.link_event(event, now);
        }
    }

    /// Tells the core what had still come before the connection stopped taking packets, which is
    /// most likely the true cause of its end.
    fn not_taken(&mut self) {
        let now = Instant::now();
        let mut core = lock(&self.shared.core);
        for event in queued(&mut self.connection) {
            core.link_event(event, now);
        }
        // Without effect if the connection is known to be lost by now.
        let cause = Cause::Internal("the connection took no packet".into());
        core.link_event(LinkEvent::Lost(cause), now);
    }

    /// Does what the core wants done; true when that was all.
    fn carry_out(&mut self) -> bool {
        loop {
            let action = lock(&self.shared.core).poll_action();
            let done = match action {
                None => return false,
                Some(Action::End) => return true,
                Some(action) => self.perform(action),
            };
            if let Err(NotTaken) = done {
                self.not_taken();
            }
        }
    }

    fn perform(&mut self, action: Action) -> Result<(), NotTaken> {
        let limit = self.shared.config.timeouts.hook;
        match action {
            Action::Open(way) => {
                if let Port::Fallback(port) = way.port {
                    info_throttled!(
                        self.throttles.fallback_port,
                        port,
                        "the main port cannot be reached; trying the other one"
                    );
                }
                if let Some(tls) = lock(&self.shared.tls).take() {
                    Arc::make_mut(&mut self.config).tls = tls;
                }
                self.connection = Some(Connection::open(
                    &self.config,
                    way,
                    Arc::clone(&self.throttles),
                ));
            }
            Action::Subscribe(packet_id, subscriptions) => {
                return self.send(|link| link.subscribe(packet_id, &subscriptions));
            }
            Action::Ping => return self.send(Connection::ping),
            Action::Publish(message) => return self.send(|link| link.publish(message)),
            Action::Disconnect => return self.send(Connection::disconnect),
            Action::Close => {
                self.connection = None;
                self.hooking.abort_all();
            }
            Action::ConnectHooks => {
                self.hooks
                    .run_connect(&mut self.hooking, limit, &self.throttles);
                self.hooks_started();
            }
            Action::DisconnectHooks(cause) => {
                self.hooks
                    .run_disconnect(cause, &mut self.hooking, limit, &self.throttles);
                self.hooks_started();
            }
            Action::Store(batch) => self.keeper.write(batch),
            Action::Acknowledge(packet_id) => return self.send(|link| link.acknowledge(packet_id)),
            Action::Deliver {
                message,
                answered,
                delivery,
            } => self.deliver(&message, answered, delivery),
            Action::State(state) => {
                self.shared.state.send_replace(state);
            }
            Action::Event(event) => {
                tell(&event, &self.throttles);
                // Nobody needs to listen.
                let _ = self.shared.events.send(event);
            }
            Action::Note(note) => note.log(&self.throttles),
            Action::End => {}
        }
        Ok(())
    }

    /// After `Close` what is left to send belongs to no connection any more.
    fn send(
        &mut self,
        f: impl FnOnce(&mut Connection) -> Result<(), NotTaken>,
    ) -> Result<(), NotTaken> {
        self.connection.as_mut().map_or(Ok(()), f)
    }

    fn hooks_started(&self) {
        if self.hooking.is_empty() {
            lock(&self.shared.core).hooks_finished(Instant::now());
        }
    }

    fn deliver(&mut self, message: &Message, answered: bool, delivery: Option<DeliveryId>) {
        let handled = delivery.map(|id| Arc::new(Handled::new(Arc::downgrade(&self.shared), id)));
        let streamed = self
            .shared
            .streams()
            .deliver(message, &self.throttles.slow_stream);
        let routed = !answered && self.routes.deliver(message, handled.as_ref());
        if !(streamed || routed || answered) {
            let topic = UntrustedText::new(&message.topic);
            tracing::debug!(%topic, "no route, stream or request takes this message");
        }
    }

    async fn finish(mut self) {
        self.connection = None;
        self.hooking.shutdown().await;
        let deadline = lock(&self.shared.stop_by).unwrap_or_else(Instant::now);
        let Self {
            shared,
            mut keeper,
            routes,
            ..
        } = self;
        let (stored, handled) = tokio::join!(
            timeout_at(deadline, store_rest(&shared, &mut keeper)),
            timeout_at(deadline, routes.finish()),
        );
        if stored.is_err() {
            tracing::warn!("the outbox's store did not finish before the session ended");
        }
        if handled.is_err() {
            tracing::warn!("handlers were still running when the session ended and were given up");
        }
    }
}

/// Writes what is left to the store.
async fn store_rest(shared: &Shared, keeper: &mut Keeper) {
    loop {
        if !keeper.is_writing() {
            let Some(batch) = lock(&shared.core).last_batch() else {
                return;
            };
            keeper.write(batch);
        }
        let outcome = keeper.written().await;
        let failed = outcome.as_ref().err().cloned();
        lock(&shared.core).stored(outcome, Instant::now());
        if let Some(error) = failed {
            tracing::error!(%error, "the end of the outbox was not stored");
            return;
        }
    }
}

fn tell(event: &SessionEvent, throttles: &LogThrottles) {
    match event {
        SessionEvent::Connected => info_throttled!(throttles.online, "online"),
        SessionEvent::Disconnected { reason, retry_in } if reason.is_session_taken_over() => {
            error_throttled!(throttles.takeover, %reason, ?retry_in, "offline; another client uses the same client id");
        }
        SessionEvent::Disconnected { reason, retry_in } => {
            warn_throttled!(throttles.offline, %reason, ?retry_in, "offline");
        }
        SessionEvent::SubscriptionDowngraded { filter } => {
            warn_throttled!(throttles.downgraded, %filter, "granted at QoS 0 only: messages under it may be lost with a connection; have the server grant QoS 1");
        }
        SessionEvent::StoreFailed { error } => {
            error_throttled!(throttles.store_failed, %error, "accepted messages are held in memory only");
        }
        SessionEvent::Stopped => tracing::info!("stopped"),
        _ => {}
    }
}

/// The events that have come already; no more than come at once, so that what comes of them is carried out in between.
fn queued(connection: &mut Option<Connection>) -> impl Iterator<Item = LinkEvent> {
    std::iter::from_fn(|| connection.as_mut().and_then(Connection::try_event)).take(EVENTS)
}

async fn next_event(connection: &mut Option<Connection>) -> LinkEvent {
    match connection {
        Some(connection) => connection.event().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
