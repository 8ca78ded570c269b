//! State that the driver shares with the handles of a session.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cloud_net::Proxy;
use rustls::ClientConfig;
use tokio::sync::{Notify, broadcast, watch};
use tokio::time::Instant;

use crate::core::Core;
use crate::core::acknowledgement_order::DeliveryId;
use crate::routing::ack_guard::AckSink;
use crate::routing::held_messages::HeldStore;
use crate::routing::stream::Streams;
use crate::session::config::SessionConfig;
use crate::session::event::{SessionEvent, SessionState, StopReport};

pub(crate) struct Shared {
    pub(crate) config: Arc<SessionConfig>,
    pub(crate) state: watch::Sender<SessionState>,
    pub(crate) events: broadcast::Sender<SessionEvent>,
    pub(super) core: Mutex<Core>,
    streams: Mutex<Streams>,
    pub(crate) held: Arc<HeldStore>,
    pub(super) stop_by: Mutex<Option<Instant>>,
    /// TLS settings for new connections. `config` has no private key, which would stay in memory
    /// after its replacement.
    pub(super) tls: Mutex<Option<Arc<ClientConfig>>>,
    /// The proxy for new connections.
    pub(super) proxy: Mutex<Option<Proxy>>,
    pub(super) wake: Notify,
}

impl Shared {
    pub(crate) fn new(
        config: Arc<SessionConfig>,
        tls: Arc<ClientConfig>,
        core: Core,
        events: broadcast::Sender<SessionEvent>,
    ) -> Self {
        let held = Arc::new(HeldStore::new(config.hold));
        Self {
            proxy: Mutex::new(config.proxy.clone()),
            config,
            state: watch::Sender::new(SessionState::Connecting { attempt: 1 }),
            events,
            core: Mutex::new(core),
            streams: Mutex::default(),
            held,
            stop_by: Mutex::default(),
            tls: Mutex::new(Some(tls)),
            wake: Notify::new(),
        }
    }

    /// Returns the port of the current connection, or of the next attempt.
    pub(crate) fn port(&self) -> u16 {
        lock(&self.core).port()
    }

    /// Calls `f` with the core, and wakes the driver to perform the resulting actions.
    pub(crate) fn with_core<T>(&self, f: impl FnOnce(&mut Core) -> T) -> T {
        let outcome = f(&mut lock(&self.core));
        self.wake.notify_one();
        outcome
    }

    pub(crate) fn streams(&self) -> MutexGuard<'_, Streams> {
        lock(&self.streams)
    }

    /// Stops the session by `deadline`. Another call can only shorten the deadline.
    pub(crate) fn stop(&self, deadline: Instant) {
        let deadline = {
            let mut stop_by = lock(&self.stop_by);
            let deadline = stop_by.map_or(deadline, |earlier| earlier.min(deadline));
            *stop_by = Some(deadline);
            deadline
        };
        self.with_core(|core| core.stop(deadline, Instant::now()));
        // The shutdown would wait for their readers.
        self.held.end();
    }

    /// Uses other TLS settings for new connections, and reconnects when the connection is idle.
    pub(crate) fn reconnect_with(&self, tls: Arc<ClientConfig>) {
        *lock(&self.tls) = Some(tls);
        self.with_core(|core| core.reconnect(Instant::now()));
    }

    /// Uses another proxy for new connections, the next of which is made at once if there is none.
    pub(crate) fn set_proxy(&self, proxy: Option<Proxy>) {
        *lock(&self.proxy) = proxy;
        if !matches!(*self.state.borrow(), SessionState::Online { .. }) {
            self.with_core(|core| core.handle_network_change(Instant::now()));
        }
    }

    pub(crate) fn proxy(&self) -> Option<Proxy> {
        lock(&self.proxy).clone()
    }

    /// Returns whether the current connection uses the settings of the last
    /// [`reconnect_with`](Self::reconnect_with).
    pub(crate) fn uses_latest_tls(&self) -> bool {
        // The driver takes them when it opens a connection, after it has published that state.
        lock(&self.tls).is_none() && matches!(*self.state.borrow(), SessionState::Online { .. })
    }

    pub(crate) fn report(&self) -> StopReport {
        lock(&self.core).report()
    }
}

impl AckSink for Shared {
    fn handled(&self, delivery: DeliveryId) {
        let now = Instant::now();
        self.with_core(|core| core.handle_handlers_finished(delivery, now));
    }

    fn left_unacknowledged(&self, delivery: DeliveryId) {
        self.with_core(|core| core.handle_left(delivery, Instant::now()));
    }
}

/// Locks a mutex, and ignores poisoning: an update that a panic interrupted matters less than going
/// on.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
