//! Starting and stopping, one after the other in the order of the calls, whoever calls and whoever stops waiting.
//!
//! Each runs in a task of its own, so that nothing is left half-done when a caller goes away: a start that nobody waits for any
//! more is undone, a stop goes on. A stop gives up the start that is under way, instead of waiting for the hooks of that.
//!
//! Invariants: `running` is set and taken only by whoever has the turn; every [`Event::Initialized`] is followed by an
//! [`Event::Stopped`], and the hooks likewise, unless the last [`ClesydeCloud`](crate::ClesydeCloud) goes without a runtime.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cloud_config::{SerialNumber, Store};
use cloud_remote::PlatformClock;
use futures_util::future::{Either, ready};
use tokio::sync::{OwnedMutexGuard, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::CloudClient;
use crate::cloud::STOP_DEADLINE;
use crate::event::Event;
use crate::hooks::{Hooks, Moment, called_by_hook};
use crate::initialize::InitializeError;
use crate::registration::{Registered, passed_on};
use crate::running::{Running, Start};
use crate::status::Status;

/// What all clones of a `ClesydeCloud` share.
pub(crate) struct Inner {
    pub(crate) client: Box<dyn CloudClient>,
    pub(crate) serial_number: SerialNumber,
    pub(crate) store: Store,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) status: watch::Sender<Status>,
    /// What is known of the platform's clock, over all starts.
    pub(crate) clock: PlatformClock,
    hooks: Hooks,
    turn: Arc<tokio::sync::Mutex<Turn>>,
    /// Cancelled when the start that is under way is to be given up.
    starting: Mutex<Option<CancellationToken>>,
    running: Mutex<Option<Running>>,
}

/// Held while something is started, stopped or removed.
#[derive(Debug)]
pub(crate) struct Turn;

impl Inner {
    pub(crate) fn new(client: Box<dyn CloudClient>, events: usize) -> Self {
        Self {
            serial_number: client.serial_number(),
            store: Store::new(client.base_path()),
            hooks: client.hooks().for_device(),
            client,
            clock: PlatformClock::default(),
            events: broadcast::channel(events).0,
            status: watch::channel(Status::default()).0,
            turn: Arc::new(tokio::sync::Mutex::new(Turn)),
            starting: Mutex::default(),
            running: Mutex::default(),
        }
    }

    pub(crate) fn running(&self) -> MutexGuard<'_, Option<Running>> {
        lock(&self.running)
    }

    /// Takes up what a registration has told of the platform's clock.
    pub(crate) fn tell_time(&self, registered: &Registered) {
        if let Registered::Now {
            clock_skew: Some(skew),
            ..
        } = registered
        {
            self.clock.set_offset(skew.correction_ms());
        }
    }

    /// Takes a place in the queue at once, and waits there for the turn.
    pub(crate) async fn queue(
        &self,
    ) -> impl Future<Output = OwnedMutexGuard<Turn>> + Send + 'static {
        let mut place = Box::pin(Arc::clone(&self.turn).lock_owned());
        match futures_util::poll!(&mut place) {
            std::task::Poll::Ready(turn) => Either::Left(ready(turn)),
            std::task::Poll::Pending => Either::Right(place),
        }
    }

    /// See [`ClesydeCloud::initialize`](crate::ClesydeCloud::initialize).
    pub(crate) async fn initialize(self: &Arc<Self>) -> Result<(), InitializeError> {
        let given_up = CancellationToken::new();
        {
            let mut starting = lock(&self.starting);
            if starting.as_ref().is_some_and(|other| !other.is_cancelled()) {
                return Err(InitializeError::Running);
            }
            *starting = Some(given_up.clone());
        }
        let mut caller = Caller {
            inner: self,
            given_up: given_up.clone(),
            gone: CancellationToken::new(),
            answered: false,
        };
        let (inner, gone) = (Arc::clone(self), caller.gone.clone());
        let place = self.queue().await;
        let started = passed_on(tokio::spawn(async move {
            let turn = place.await;
            inner.start(turn, given_up, gone).await
        }))
        .await;
        caller.answered = true;
        started
    }

    async fn start(
        &self,
        turn: OwnedMutexGuard<Turn>,
        given_up: CancellationToken,
        caller_gone: CancellationToken,
    ) -> Result<(), InitializeError> {
        if self.running().is_some() {
            return Err(InitializeError::Running);
        }
        let start = Start {
            serial_number: self.serial_number.clone(),
            store: self.store.clone(),
            application: self.client.application(),
            access: self.client.access(),
            http_options: self.client.http_options(),
            probe: self.client.probe(),
            broker_proxy: self.client.broker_proxy(),
            #[cfg(feature = "durable")]
            outbox_directory: self.client.outbox_directory(),
            shadows: self.client.shadows(),
            hooks: self.hooks.clone(),
            clock: self.clock.clone(),
            events: self.events.clone(),
            status: self.status.clone(),
            caller_gone,
        };
        let loaded = start.load().await?;
        if given_up.is_cancelled() {
            return Err(InitializeError::Stopped);
        }
        self.tell(Event::Initialized);
        let started = async {
            self.hooks.run(Moment::Initialized).await;
            let prepared = start.prepare(loaded).await?;
            {
                // Who is told by the status that it runs can use it.
                let mut running = self.running();
                *running = Some(prepared.go());
            }
            self.hooks.run(Moment::Started).await;
            Ok(())
        };
        let started = match given_up.run_until_cancelled(started).await {
            Some(started) if !given_up.is_cancelled() => started,
            _ => Err(InitializeError::Stopped),
        };
        if started.is_err() {
            self.end(turn).await;
        }
        started
    }

    /// See [`ClesydeCloud::stop`](crate::ClesydeCloud::stop).
    pub(crate) async fn stop(self: &Arc<Self>) {
        if let Some(starting) = &*lock(&self.starting) {
            starting.cancel();
        }
        let place = self.queue().await;
        let inner = Arc::clone(self);
        let stopping = tokio::spawn(async move {
            let turn = place.await;
            if inner.running().is_some() {
                inner.end(turn).await;
            }
        });
        // A stop waits for hooks, so a hook must not wait for it.
        if !called_by_hook() {
            passed_on(stopping).await;
        }
    }

    /// Ends what a caller has started who went away before he could be told.
    async fn end_if_unwanted(&self, turn: OwnedMutexGuard<Turn>) {
        let unwanted = |running: &Running| running.caller_gone.is_cancelled();
        let unwanted = self.running().as_ref().is_some_and(unwanted);
        if unwanted {
            self.end(turn).await;
        }
    }

    /// Stops what runs, if anything does, and says so.
    async fn end(&self, turn: OwnedMutexGuard<Turn>) {
        let running = self.running().take();
        let ending = Ending {
            events: self.events.clone(),
            status: self.status.clone(),
            hooks: self.hooks.clone(),
        };
        ending.run(running, turn).await;
    }

    fn tell(&self, event: Event) {
        // An error means that nobody listens.
        let _ = self.events.send(event);
    }
}

/// Whoever waits for a start.
struct Caller<'a> {
    inner: &'a Arc<Inner>,
    given_up: CancellationToken,
    gone: CancellationToken,
    answered: bool,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        // The start is over, or is to be given up.
        self.given_up.cancel();
        if self.answered {
            return;
        }
        self.gone.cancel();
        // It may have come to its end since it was last asked. If the turn can be had now, nobody gets in between.
        let turn = Arc::clone(&self.inner.turn).try_lock_owned();
        let inner = Arc::clone(self.inner);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let turn = match turn {
                    Ok(turn) => turn,
                    Err(_) => inner.queue().await.await,
                };
                inner.end_if_unwanted(turn).await;
            });
        }
    }
}

/// What it takes to end in good order, even if nobody holds a `ClesydeCloud` any more.
struct Ending {
    events: broadcast::Sender<Event>,
    status: watch::Sender<Status>,
    hooks: Hooks,
}

impl Ending {
    /// `turn` is whatever keeps others from starting.
    async fn run<T>(self, running: Option<Running>, turn: T) {
        let deadline = Instant::now() + STOP_DEADLINE;
        if let Some(running) = running {
            running.stop(deadline).await;
        }
        self.status.send_replace(Status::default());
        // An error means that nobody listens.
        let _ = self.events.send(Event::Stopped);
        // A hook may start it again.
        drop(turn);
        let left = deadline.saturating_duration_since(Instant::now());
        self.hooks.run_within(Moment::Stopped, left).await;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let running = self
            .running
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let (Some(running), Ok(runtime)) = (running, tokio::runtime::Handle::try_current()) {
            let ending = Ending {
                events: self.events.clone(),
                status: self.status.clone(),
                hooks: self.hooks.clone(),
            };
            runtime.spawn(ending.run(Some(running), ()));
        }
    }
}

/// A panic while a lock is held cannot leave half a change behind.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
