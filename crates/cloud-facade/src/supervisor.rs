//! The supervisor: runs starts and stops one at a time, in the order of the calls, even if a caller
//! drops its future.
//!
//! Each operation runs in a task of its own, so that a dropped future leaves nothing incomplete: an
//! abandoned start is undone, a stop continues. A stop cancels a start in progress instead of
//! waiting for its hooks.
//!
//! Invariants: only the holder of the permit sets or takes `running`; each [`Event::Initialized`]
//! and its hooks are followed by [`Event::Stopped`] and its hooks, unless the last
//! [`ClesydeCloud`](crate::ClesydeCloud) is dropped outside a runtime.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloud_config::{SerialNumber, Store};
use cloud_remote::PlatformClock;
use futures_util::future::{Either, ready};
use tokio::sync::{OwnedMutexGuard, broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::CloudClient;
use crate::error::InitializeError;
use crate::event::Event;
use crate::hooks::{HookPoint, Hooks, called_by_hook};
use crate::registration::{Registered, join_or_resume_panic};
use crate::runtime::{Runtime, StartParams};
use crate::status::Status;

/// Maximum duration of [`ClesydeCloud::stop`](crate::ClesydeCloud::stop). Service managers kill a
/// process after 5 s or more.
pub const STOP_DEADLINE: Duration = Duration::from_millis(4500);

/// The state that all clones of a `ClesydeCloud` share.
pub(crate) struct Supervisor {
    pub(crate) client: Box<dyn CloudClient>,
    pub(crate) serial_number: SerialNumber,
    pub(crate) store: Store,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) status: watch::Sender<Status>,
    /// The platform's clock, kept across restarts.
    pub(crate) clock: PlatformClock,
    hooks: Hooks,
    permit: Arc<tokio::sync::Mutex<OperationPermit>>,
    /// Cancelled to abort the start in progress.
    starting: Mutex<Option<CancellationToken>>,
    running: Mutex<Option<Runtime>>,
}

/// Held while an operation starts, stops or removes something.
#[derive(Debug)]
pub(crate) struct OperationPermit;

impl Supervisor {
    pub(crate) fn new(client: Box<dyn CloudClient>, events: usize) -> Self {
        Self {
            serial_number: client.serial_number(),
            store: Store::new(client.base_path()),
            hooks: client.hooks().for_device(),
            client,
            clock: PlatformClock::default(),
            events: broadcast::channel(events).0,
            status: watch::channel(Status::default()).0,
            permit: Arc::new(tokio::sync::Mutex::new(OperationPermit)),
            starting: Mutex::default(),
            running: Mutex::default(),
        }
    }

    pub(crate) fn running(&self) -> MutexGuard<'_, Option<Runtime>> {
        lock(&self.running)
    }

    /// Updates the platform's clock from a registration.
    pub(crate) fn update_clock(&self, registered: &Registered) {
        if let Registered::New {
            clock_skew: Some(skew),
            ..
        } = registered
        {
            self.clock.set_offset(skew.correction_ms());
        }
    }

    /// Enqueues at once; the returned future waits for the permit.
    pub(crate) async fn enqueue(
        &self,
    ) -> impl Future<Output = OwnedMutexGuard<OperationPermit>> + Send + 'static {
        let mut queued = Box::pin(Arc::clone(&self.permit).lock_owned());
        match futures_util::poll!(&mut queued) {
            std::task::Poll::Ready(permit) => Either::Left(ready(permit)),
            std::task::Poll::Pending => Either::Right(queued),
        }
    }

    /// See [`ClesydeCloud::initialize`](crate::ClesydeCloud::initialize).
    pub(crate) async fn initialize(self: &Arc<Self>) -> Result<(), InitializeError> {
        let cancelled = CancellationToken::new();
        {
            let mut starting = lock(&self.starting);
            if starting.as_ref().is_some_and(|other| !other.is_cancelled()) {
                return Err(InitializeError::Running);
            }
            *starting = Some(cancelled.clone());
        }
        let mut caller = StartGuard {
            inner: self,
            cancelled: cancelled.clone(),
            dropped: CancellationToken::new(),
            returned: false,
        };
        let (inner, gone) = (Arc::clone(self), caller.dropped.clone());
        let queued = self.enqueue().await;
        let started = join_or_resume_panic(tokio::spawn(async move {
            let permit = queued.await;
            inner.start(permit, cancelled, gone).await
        }))
        .await;
        caller.returned = true;
        started
    }

    async fn start(
        &self,
        permit: OwnedMutexGuard<OperationPermit>,
        cancelled: CancellationToken,
        caller_dropped: CancellationToken,
    ) -> Result<(), InitializeError> {
        if self.running().is_some() {
            return Err(InitializeError::Running);
        }
        let start = StartParams {
            serial_number: self.serial_number.clone(),
            store: self.store.clone(),
            application: self.client.application(),
            access: self.client.access(),
            http_options: self.client.http_options(),
            limits: self.client.limits(),
            probe: self.client.probe(),
            proxy: self.client.proxy(),
            #[cfg(feature = "durable")]
            outbox_directory: self.client.outbox_directory(),
            shadows: self.client.shadows(),
            hooks: self.hooks.clone(),
            clock: self.clock.clone(),
            events: self.events.clone(),
            status: self.status.clone(),
            caller_dropped,
        };
        let loaded = start.load().await?;
        if cancelled.is_cancelled() {
            return Err(InitializeError::Stopped);
        }
        self.emit(Event::Initialized);
        let started = async {
            self.hooks.run(HookPoint::Initialized).await;
            let prepared = start.prepare(loaded).await?;
            {
                // Set before the status says so, so that its readers can use it.
                let mut running = self.running();
                *running = Some(prepared.spawn());
            }
            self.hooks.run(HookPoint::Started).await;
            Ok(())
        };
        let started = match cancelled.run_until_cancelled(started).await {
            Some(started) if !cancelled.is_cancelled() => started,
            _ => Err(InitializeError::Stopped),
        };
        if started.is_err() {
            self.shut_down(permit).await;
        }
        started
    }

    /// See [`ClesydeCloud::stop`](crate::ClesydeCloud::stop).
    pub(crate) async fn stop(self: &Arc<Self>) {
        if let Some(starting) = &*lock(&self.starting) {
            starting.cancel();
        }
        let queued = self.enqueue().await;
        let inner = Arc::clone(self);
        let stopping = tokio::spawn(async move {
            let permit = queued.await;
            if inner.running().is_some() {
                inner.shut_down(permit).await;
            }
        });
        // A stop waits for hooks, so a hook must not wait for it.
        if !called_by_hook() {
            join_or_resume_panic(stopping).await;
        }
    }

    /// Stops what an abandoned start has started.
    async fn stop_if_abandoned(&self, permit: OwnedMutexGuard<OperationPermit>) {
        let unwanted = |running: &Runtime| running.caller_dropped.is_cancelled();
        let unwanted = self.running().as_ref().is_some_and(unwanted);
        if unwanted {
            self.shut_down(permit).await;
        }
    }

    /// Stops what is running and sends the event.
    async fn shut_down(&self, permit: OwnedMutexGuard<OperationPermit>) {
        let running = self.running().take();
        let shutdown = Shutdown {
            events: self.events.clone(),
            status: self.status.clone(),
            hooks: self.hooks.clone(),
        };
        shutdown.run(running, permit).await;
    }

    fn emit(&self, event: Event) {
        // An error means that there is no receiver.
        let _ = self.events.send(event);
    }
}

/// Detects a caller that drops the future of a start.
struct StartGuard<'a> {
    inner: &'a Arc<Supervisor>,
    cancelled: CancellationToken,
    dropped: CancellationToken,
    returned: bool,
}

impl Drop for StartGuard<'_> {
    fn drop(&mut self) {
        // The start has ended or is cancelled.
        self.cancelled.cancel();
        if self.returned {
            return;
        }
        self.dropped.cancel();
        // The start may have completed in the meantime. If the permit is free, no other operation
        // gets between.
        let permit = Arc::clone(&self.inner.permit).try_lock_owned();
        let inner = Arc::clone(self.inner);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let permit = match permit {
                    Ok(permit) => permit,
                    Err(_) => inner.enqueue().await.await,
                };
                inner.stop_if_abandoned(permit).await;
            });
        }
    }
}

/// The parts of a graceful shutdown, which may outlive all `ClesydeCloud`s.
struct Shutdown {
    events: broadcast::Sender<Event>,
    status: watch::Sender<Status>,
    hooks: Hooks,
}

impl Shutdown {
    /// Stops `running`; `permit` blocks other operations until then.
    async fn run<T>(self, running: Option<Runtime>, permit: T) {
        let deadline = Instant::now() + STOP_DEADLINE;
        if let Some(running) = running {
            running.stop(deadline).await;
        }
        self.status.send_replace(Status::default());
        // An error means that there is no receiver.
        let _ = self.events.send(Event::Stopped);
        // A hook may start it again.
        drop(permit);
        let left = deadline.saturating_duration_since(Instant::now());
        self.hooks.run_within(HookPoint::Stopped, left).await;
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let running = self
            .running
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let (Some(running), Ok(runtime)) = (running, tokio::runtime::Handle::try_current()) {
            let shutdown = Shutdown {
                events: self.events.clone(),
                status: self.status.clone(),
                hooks: self.hooks.clone(),
            };
            runtime.spawn(shutdown.run(Some(running), ()));
        }
    }
}

/// No panic can leave the guarded values inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
