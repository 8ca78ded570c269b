//! The session task: performs the actions of the [core](crate::core), and reports events to it.
//!
//! The task waits for a call, an event of the connection, the end of a hook, or a deadline, and
//! never blocks. It owns the connection and the tasks of the hooks and routes, so none of them
//! outlives it.

pub(crate) mod shared;
mod suspend_detection;

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use cloud_net::{UntrustedText, error_throttled, info_throttled, warn_throttled};
use tokio::task::{JoinError, JoinSet, yield_now};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::shared::{Shared, lock};
use self::suspend_detection::SuspendDetector;
use crate::core::Action;
use crate::core::acknowledgement_order::DeliveryId;
use crate::core::connection_event::ConnectionEvent;
use crate::core::endpoint::Port;
use crate::error::cause::{Cause, refused_subscription};
use crate::log_throttles::LogThrottles;
use crate::mqtt::message::Message;
use crate::outbox::store::StoreError;
use crate::outbox::store_writer::StoreWriter;
use crate::routing::ack_guard::AckGuard;
use crate::routing::router::Routes;
use crate::session::config::SessionConfig;
use crate::session::event::{SessionEvent, SessionState};
use crate::session::hooks::Hooks;
use crate::transport::connection::{Connection, EVENTS, SendQueueFull};

pub(crate) struct Driver {
    pub(crate) shared: Arc<Shared>,
    pub(crate) hooks: Hooks,
    pub(crate) routes: Routes,
    pub(crate) store_writer: StoreWriter,
}

/// Stops the session for its handles when the driver ends, also by a panic or with the runtime.
struct StopOnDrop(Arc<Shared>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        lock(&self.0.core).abandon();
        self.0.streams().end();
        self.0.held.end();
        self.0.state.send_replace(SessionState::Stopped);
    }
}

impl Driver {
    pub(crate) async fn run(self) {
        let Self {
            shared,
            hooks,
            routes,
            store_writer,
        } = self;
        let stop_on_drop = StopOnDrop(Arc::clone(&shared));
        let mut task = SessionTask {
            config: Arc::clone(&shared.config),
            shared,
            hooks,
            routes,
            store_writer,
            connection: None,
            hook_tasks: JoinSet::new(),
            suspend_detector: SuspendDetector::new(Instant::now(), SystemTime::now()),
            throttles: Arc::default(),
        };
        task.serve().await;
        task.finish().await;
        drop(stop_on_drop);
    }
}

/// What the session task waits for.
enum Event {
    /// A caller has called the core, which may have actions.
    Woken,
    Connection(ConnectionEvent),
    HookEnded(Result<(), JoinError>),
    /// The store has written a batch.
    Stored(Result<(), StoreError>),
    /// A deadline of the core has passed.
    Timeout,
}

struct SessionTask {
    shared: Arc<Shared>,
    /// Configuration for new connections.
    config: Arc<SessionConfig>,
    hooks: Hooks,
    routes: Routes,
    store_writer: StoreWriter,
    connection: Option<Connection>,
    /// Hooks that run, and aborted hooks that have not ended yet.
    hook_tasks: JoinSet<()>,
    suspend_detector: SuspendDetector,
    throttles: Arc<LogThrottles>,
}

impl SessionTask {
    async fn serve(&mut self) {
        while !self.perform_actions() {
            let event = self.next().await;
            self.handle(event);
        }
    }

    /// Waits for the next event.
    async fn next(&mut self) -> Event {
        let deadline = {
            let mut core = lock(&self.shared.core);
            core.update_metrics(Instant::now());
            // A connection causes a wake-up for each ping; without one the task needs a timer.
            let look = core
                .is_waiting()
                .then(|| Instant::now() + self.shared.config.keep_alive);
            let held = self.shared.held.deadline(core.blocking_delivery());
            core.poll_timeout()
                .into_iter()
                .chain(look)
                .chain(held)
                .min()
        };
        tokio::select! {
            () = self.shared.wake.notified() => Event::Woken,
            event = next_event(&mut self.connection) => Event::Connection(event),
            Some(ended) = self.hook_tasks.join_next() => Event::HookEnded(ended),
            outcome = self.store_writer.written() => Event::Stored(outcome),
            () = until(deadline) => Event::Timeout,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Woken => {}
            Event::Connection(event) => self.connection_events(event),
            Event::HookEnded(ended) => {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    warn_throttled!(self.throttles.hook, "a hook panicked");
                }
                self.check_hooks();
            }
            Event::Stored(outcome) => {
                lock(&self.shared.core).handle_stored(outcome, Instant::now());
            }
            Event::Timeout => {
                let now = Instant::now();
                lock(&self.shared.core).handle_timeout(now);
                loop {
                    // Each acknowledgement can change it.
                    let blocking = lock(&self.shared.core).blocking_delivery();
                    if !self.shared.held.expire(now, blocking) {
                        break;
                    }
                }
            }
        }
        let (now, keep_alive) = (Instant::now(), self.shared.config.keep_alive);
        if let Some(gain) = self
            .suspend_detector
            .jump(now, SystemTime::now(), keep_alive)
        {
            tracing::info!(?gain, "the clock jumped ahead");
            lock(&self.shared.core).handle_clock_jump(gain, now);
        }
    }

    /// Handles the event and all that are queued, so that a burst costs one wake-up.
    fn connection_events(&mut self, first: ConnectionEvent) {
        let now = Instant::now();
        let mut core = lock(&self.shared.core);
        core.handle_connection_event(first, now);
        for event in queued(&mut self.connection) {
            core.handle_connection_event(event, now);
        }
    }

    /// Reports the events that arrived before the connection rejected a packet, which probably
    /// contain the actual cause.
    fn send_queue_full(&mut self) {
        let now = Instant::now();
        let mut core = lock(&self.shared.core);
        for event in queued(&mut self.connection) {
            core.handle_connection_event(event, now);
        }
        // Has no effect if the connection is already lost.
        let cause = Cause::Internal("the connection did not accept a packet".into());
        core.handle_connection_event(ConnectionEvent::Lost(cause), now);
    }

    /// Performs the actions of the core; returns whether the session has ended.
    fn perform_actions(&mut self) -> bool {
        loop {
            let action = lock(&self.shared.core).poll_action();
            let done = match action {
                None => return false,
                Some(Action::End) => return true,
                Some(action) => self.perform(action),
            };
            if let Err(SendQueueFull) = done {
                self.send_queue_full();
            }
        }
    }

    fn perform(&mut self, action: Action) -> Result<(), SendQueueFull> {
        let limit = self.shared.config.timeouts.hook;
        match action {
            Action::Open(options) => {
                if let Port::Fallback(port) = options.endpoint.port {
                    info_throttled!(
                        self.throttles.fallback_port,
                        port,
                        "the main port is unreachable; trying the fallback port"
                    );
                }
                if let Some(tls) = lock(&self.shared.tls).take() {
                    Arc::make_mut(&mut self.config).tls = tls;
                }
                Arc::make_mut(&mut self.config).proxy = self.shared.proxy();
                self.connection = Some(Connection::open(
                    &self.config,
                    options,
                    Arc::clone(&self.throttles),
                ));
            }
            Action::Subscribe(packet_id, subscriptions) => {
                return self.send(|connection| connection.subscribe(packet_id, &subscriptions));
            }
            Action::Unsubscribe(packet_id, filter) => {
                return self.send(|connection| connection.unsubscribe(packet_id, &filter));
            }
            Action::Ping => return self.send(Connection::ping),
            Action::Publish(message) => return self.send(|connection| connection.publish(message)),
            Action::Disconnect { keep_will } => {
                return self.send(|connection| connection.disconnect(keep_will));
            }
            Action::Close => {
                self.connection = None;
                self.hook_tasks.abort_all();
            }
            Action::ConnectHooks => {
                self.hooks
                    .run_connect(&mut self.hook_tasks, limit, &self.throttles);
                self.check_hooks();
            }
            Action::DisconnectHooks(cause) => {
                self.hooks
                    .run_disconnect(cause, &mut self.hook_tasks, limit, &self.throttles);
                self.check_hooks();
            }
            Action::Store(batch) => self.store_writer.write(batch),
            Action::Acknowledge(packet_id) => {
                return self.send(|connection| connection.acknowledge(packet_id));
            }
            Action::Deliver {
                message,
                answered,
                delivery,
            } => self.deliver(&message, answered, delivery),
            Action::State(state) => {
                self.shared.state.send_replace(state);
            }
            Action::Event(event) => {
                log_event(&event, &self.throttles);
                // An error means that no receiver exists.
                let _ = self.shared.events.send(event);
            }
            Action::Log(record) => record.log(&self.throttles),
            Action::End => {}
        }
        Ok(())
    }

    /// Sends on the current connection. After `Close` there is none, and the packet is dropped.
    fn send(
        &mut self,
        f: impl FnOnce(&mut Connection) -> Result<(), SendQueueFull>,
    ) -> Result<(), SendQueueFull> {
        self.connection.as_mut().map_or(Ok(()), f)
    }

    /// Reports when no hook runs any more, or none was started.
    fn check_hooks(&self) {
        if self.hook_tasks.is_empty() {
            lock(&self.shared.core).handle_hooks_finished(Instant::now());
        }
    }

    fn deliver(&mut self, message: &Message, answered: bool, delivery: Option<DeliveryId>) {
        let ack_guard = delivery.map(|id| {
            let sink: Weak<Shared> = Arc::downgrade(&self.shared);
            Arc::new(AckGuard::new(sink, id))
        });
        let streamed = self
            .shared
            .streams()
            .deliver(message, &self.throttles.slow_stream);
        let routed = !answered && self.routes.deliver(message, ack_guard.as_ref());
        let is_unclaimed = !(streamed || routed || answered);
        let held = &self.shared.held;
        let is_held = ack_guard
            .is_some_and(|guard| held.offer(message, &guard, is_unclaimed, Instant::now()));
        if is_unclaimed && !is_held {
            let topic = UntrustedText::new(&message.topic);
            tracing::debug!(%topic, "no route, stream or request takes this message");
        }
    }

    async fn finish(mut self) {
        self.connection = None;
        self.hook_tasks.shutdown().await;
        let deadline = lock(&self.shared.stop_by).unwrap_or_else(Instant::now);
        let Self {
            shared,
            mut store_writer,
            routes,
            ..
        } = self;
        let (stored, handled) = tokio::join!(
            timeout_at(deadline, store_rest(&shared, &mut store_writer)),
            timeout_at(deadline, routes.finish()),
        );
        if stored.is_err() {
            tracing::warn!("the session ended before the outbox was stored");
        }
        if handled.is_err() {
            tracing::warn!("the session ended and aborted running handlers");
        }
    }
}

/// Writes the remaining batches to the store.
async fn store_rest(shared: &Shared, store_writer: &mut StoreWriter) {
    loop {
        if !store_writer.is_writing() {
            let Some(batch) = lock(&shared.core).poll_last_batch() else {
                return;
            };
            store_writer.write(batch);
        }
        let outcome = store_writer.written().await;
        let failed = outcome.as_ref().err().cloned();
        lock(&shared.core).handle_stored(outcome, Instant::now());
        if let Some(error) = failed {
            tracing::error!(%error, "the last changes of the outbox were not stored");
            return;
        }
    }
}

fn log_event(event: &SessionEvent, throttles: &LogThrottles) {
    match event {
        SessionEvent::Connected => info_throttled!(throttles.online, "online"),
        SessionEvent::Disconnected { reason, retry_in } if reason.is_session_taken_over() => {
            error_throttled!(throttles.takeover, %reason, ?retry_in, "offline; another client uses the same client id");
        }
        SessionEvent::Disconnected { reason, retry_in } => {
            warn_throttled!(throttles.offline, %reason, ?retry_in, "offline");
        }
        SessionEvent::SubscriptionDowngraded { filter } => {
            warn_throttled!(throttles.downgraded, %filter, "the server granted QoS 0 only: messages under the filter may be lost with a connection; configure the server to grant QoS 1");
        }
        SessionEvent::SubscriptionRefused {
            filter,
            reason,
            message,
        } => {
            let reason = refused_subscription(filter, *reason, message.as_ref());
            warn_throttled!(throttles.subscription_refused, %filter, %reason, "going on without this subscription");
        }
        SessionEvent::StoreFailed { error } => {
            error_throttled!(throttles.store_failed, %error, "accepted messages are held in memory only");
        }
        SessionEvent::Stopped => tracing::info!("stopped"),
        _ => {}
    }
}

/// Returns the queued events, in limited number, so that their actions are performed in between.
fn queued(connection: &mut Option<Connection>) -> impl Iterator<Item = ConnectionEvent> {
    std::iter::from_fn(|| connection.as_mut().and_then(Connection::try_event)).take(EVENTS)
}

async fn next_event(connection: &mut Option<Connection>) -> ConnectionEvent {
    match connection {
        Some(connection) => connection.event().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        // A timer would be ready at the runtime's next millisecond. Other tasks run first, so that
        // deadlines that follow one another at once cannot keep the thread.
        Some(deadline) if deadline <= Instant::now() => yield_now().await,
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn passed_deadline_takes_no_time() {
        // Between two ticks of the runtime's timers.
        tokio::time::advance(Duration::from_micros(100)).await;
        let start = Instant::now();
        until(Some(start)).await;
        assert_eq!(start.elapsed(), Duration::ZERO);
    }
}
