//! The supervisor: one task that starts and stops a device, in the order of the commands.
//!
//! A caller sends a [`Command`] and waits for the reply. The task performs the command in any case,
//! so that a dropped future leaves nothing incomplete: a start whose caller is gone is undone, a
//! stop continues. While a start is in progress the task reads further commands: a stop cancels the
//! start instead of waiting for its hooks, and another start is rejected.
//!
//! The task is spawned by a command and ends when nothing is running. When the last
//! [`ClesydeCloud`](crate::ClesydeCloud) is dropped, the channel closes, and the task stops the
//! device.
//!
//! Invariants: only the task sets or takes `running`; each [`Event::Initialized`] and its hooks are
//! followed by [`Event::Stopped`] and its hooks, unless the asynchronous runtime ends first.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use cloud_config::{SerialNumber, Store, StoreError};
use cloud_provision::ClientBuilder;
use cloud_remote::PlatformClock;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::Instant;

use crate::error::InitializeError;
use crate::event::Event;
use crate::hook_runner::{HookPoint, HookRunner, called_by_hook};
use crate::registration::Registered;
use crate::runtime::{Runtime, StartParams, StartSettings};
use crate::shutdown_budget::BUDGET;
use crate::status::Status;
use crate::tasks::spawn_blocking;

/// Capacity of the event channel; a slower reader is notified how many it missed. A platform
/// message may have 128 KiB.
const EVENT_CAPACITY: usize = 64;

/// The host's settings that are read each time.
pub(crate) trait SettingsSource: Send + Sync {
    /// Returns how to reach the API.
    fn api(&self) -> ClientBuilder;

    /// Returns the settings of a start.
    fn start(&self) -> StartSettings;
}

/// The host's settings that never change.
pub(crate) struct DeviceIdentity {
    pub(crate) serial_number: SerialNumber,
    pub(crate) base_path: PathBuf,
    pub(crate) hooks: HookRunner,
}

/// The state of a device, which clones of its `ClesydeCloud` and the supervisor share.
pub(crate) struct Device {
    pub(crate) serial_number: SerialNumber,
    pub(crate) store: Store,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) status: watch::Sender<Status>,
    /// The platform's clock, kept across restarts.
    pub(crate) clock: PlatformClock,
    hooks: HookRunner,
    running: Mutex<Option<Runtime>>,
}

impl Device {
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

    fn emit(&self, event: Event) {
        // An error means that there is no receiver.
        let _ = self.events.send(event);
    }
}

/// The state that all clones of a `ClesydeCloud` share.
pub(crate) struct Shared {
    pub(crate) device: Arc<Device>,
    pub(crate) settings: Box<dyn SettingsSource>,
    /// The channel of the supervisor's task, if there is one. It is bounded by the host's calls.
    commands: Mutex<Option<UnboundedSender<Command>>>,
}

impl Shared {
    pub(crate) fn new(identity: DeviceIdentity, settings: Box<dyn SettingsSource>) -> Self {
        let device = Device {
            serial_number: identity.serial_number,
            store: Store::new(identity.base_path),
            events: broadcast::channel(EVENT_CAPACITY).0,
            status: watch::channel(Status::default()).0,
            clock: PlatformClock::default(),
            hooks: identity.hooks,
            running: Mutex::default(),
        };
        Self {
            device: Arc::new(device),
            settings,
            commands: Mutex::default(),
        }
    }

    /// See [`ClesydeCloud::initialize`](crate::ClesydeCloud::initialize).
    pub(crate) async fn initialize(self: &Arc<Self>) -> Result<(), InitializeError> {
        let settings = Box::new(self.settings.start());
        let (reply, result) = oneshot::channel();
        // Dropped with this future, unless it completes.
        let (completed, caller) = oneshot::channel();
        self.send(Command::Start {
            settings,
            caller,
            reply,
        });
        let result = result.await;
        // An error means that the start has failed.
        let _ = completed.send(());
        // Without a reply, the asynchronous runtime has ended the task.
        result.unwrap_or(Err(InitializeError::Stopped))
    }

    /// See [`ClesydeCloud::stop`](crate::ClesydeCloud::stop).
    pub(crate) async fn stop(self: &Arc<Self>) {
        let (reply, stopped) = oneshot::channel();
        self.send(Command::Stop { reply });
        // A stop waits for hooks, so a hook must not wait for it.
        if !called_by_hook() {
            // Without a reply, the asynchronous runtime has ended the task.
            let _ = stopped.await;
        }
    }

    /// See [`ClesydeCloud::remove_configuration`](crate::ClesydeCloud::remove_configuration).
    pub(crate) async fn remove_configuration(self: &Arc<Self>) -> Result<bool, StoreError> {
        let (reply, removed) = oneshot::channel();
        self.send(Command::RemoveConfiguration { reply });
        match removed.await {
            Ok(removed) => removed,
            // The asynchronous runtime is shutting down.
            Err(_) => std::future::pending().await,
        }
    }

    /// Sends a command to the supervisor; spawns it if there is none.
    fn send(self: &Arc<Self>, command: Command) {
        let mut slot = lock(&self.commands);
        let rejected = match &*slot {
            Some(commands) => commands.send(command).err().map(|error| error.0),
            None => Some(command),
        };
        let Some(command) = rejected else { return };
        let (sender, commands) = unbounded_channel();
        let supervisor = Supervisor {
            device: Arc::clone(&self.device),
            shared: Arc::downgrade(self),
            commands,
            deferred: VecDeque::from([command]),
            caller: None,
        };
        *slot = Some(sender);
        tokio::spawn(supervisor.run());
    }
}

/// A caller's command to the supervisor. A caller that has dropped its future gets no reply.
enum Command {
    Start {
        settings: Box<StartSettings>,
        caller: Caller,
        reply: oneshot::Sender<Result<(), InitializeError>>,
    },
    Stop {
        reply: oneshot::Sender<()>,
    },
    RemoveConfiguration {
        reply: oneshot::Sender<Result<bool, StoreError>>,
    },
}

/// The caller of a start: receives a value when the caller has the result, and an error when it has
/// dropped its future.
type Caller = oneshot::Receiver<()>;

/// An input of the supervisor.
enum Input {
    Command(Command),
    /// The caller of the last start has dropped its future.
    CallerDropped,
    /// The last `ClesydeCloud` was dropped.
    HandlesDropped,
}

/// The task that performs the commands.
struct Supervisor {
    device: Arc<Device>,
    /// Weak, so that the channel closes when the last `ClesydeCloud` is dropped.
    shared: Weak<Shared>,
    commands: UnboundedReceiver<Command>,
    /// Commands that precede those in the channel.
    deferred: VecDeque<Command>,
    /// The caller of the last start, until it has the result.
    caller: Option<Caller>,
}

impl Supervisor {
    async fn run(mut self) {
        while let Some(input) = self.next().await {
            self.handle(input).await;
        }
    }

    /// Returns the next input; `None` when there is nothing left to do.
    async fn next(&mut self) -> Option<Input> {
        if self.device.running().is_none() {
            return self.next_while_stopped();
        }
        tokio::select! {
            // A caller that drops its start and then sends a command expects this order.
            biased;
            () = caller_dropped(&mut self.caller) => Some(Input::CallerDropped),
            command = next_command(&mut self.deferred, &mut self.commands) => {
                Some(command.map_or(Input::HandlesDropped, Input::Command))
            }
        }
    }

    fn next_while_stopped(&mut self) -> Option<Input> {
        if let Some(command) = self.deferred.pop_front() {
            return Some(Input::Command(command));
        }
        let shared = self.shared.upgrade()?;
        // Under the lock, so that no command is sent to a task that is about to end.
        let mut slot = lock(&shared.commands);
        match self.commands.try_recv() {
            Ok(command) => Some(Input::Command(command)),
            Err(_) => {
                *slot = None;
                None
            }
        }
    }

    async fn handle(&mut self, input: Input) {
        match input {
            Input::Command(Command::Start {
                settings,
                caller,
                reply,
            }) => self.start(*settings, caller, reply).await,
            Input::Command(Command::Stop { reply }) => {
                // An error means that the caller is gone.
                let done = || {
                    let _ = reply.send(());
                };
                if self.device.running().is_some() {
                    self.shut_down(done).await;
                } else {
                    done();
                }
            }
            Input::Command(Command::RemoveConfiguration { reply }) => {
                let _ = reply.send(remove_configuration(self.device.store.clone()).await);
            }
            Input::CallerDropped | Input::HandlesDropped => self.shut_down(|| {}).await,
        }
    }

    async fn start(
        &mut self,
        settings: StartSettings,
        caller: Caller,
        reply: oneshot::Sender<Result<(), InitializeError>>,
    ) {
        if self.device.running().is_some() {
            let _ = reply.send(Err(InitializeError::Running));
            return;
        }
        let params = StartParams {
            serial_number: self.device.serial_number.clone(),
            store: self.device.store.clone(),
            settings,
            hooks: self.device.hooks.clone(),
            clock: self.device.clock.clone(),
            events: self.device.events.clone(),
            status: self.device.status.clone(),
        };
        // Not cancelled: the work would continue and keep the directory locked.
        let loaded = match params.load().await {
            Ok(loaded) => loaded,
            Err(error) => {
                let _ = reply.send(Err(error));
                return;
            }
        };
        let mut caller = Some(caller);
        let mut announced = false;
        let device = Arc::clone(&self.device);
        let started = async {
            announced = true;
            device.emit(Event::Initialized);
            device.hooks.run(HookPoint::Initialized).await;
            let prepared = params.prepare(loaded).await?;
            {
                // Set before the status says so, so that its readers can use it.
                let mut running = device.running();
                *running = Some(prepared.spawn());
            }
            device.hooks.run(HookPoint::Started).await;
            Ok(())
        };
        let result = tokio::select! {
            biased;
            () = caller_dropped(&mut caller) => Err(InitializeError::Stopped),
            () = stop_requested(&mut self.commands, &mut self.deferred) => Err(InitializeError::Stopped),
            started = started => started,
        };
        match result {
            Ok(()) => {
                self.caller = caller;
                // An error means that the caller is gone, which `caller` reports.
                let _ = reply.send(Ok(()));
            }
            Err(error) if announced => {
                self.shut_down(|| drop(reply.send(Err(error)))).await;
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// Stops everything that is running, and runs the hooks of the stop in the background; then
    /// calls `done`.
    async fn shut_down(&mut self, done: impl FnOnce() + Send + 'static) {
        let deadline = Instant::now() + BUDGET.total;
        self.caller = None;
        let running = self.device.running().take();
        if let Some(running) = running {
            running.stop(deadline).await;
        }
        self.device.status.send_replace(Status::default());
        self.device.emit(Event::Stopped);
        // In a task, because a hook may start the device again.
        let hooks = self.device.hooks.clone();
        tokio::spawn(async move {
            let left = deadline.saturating_duration_since(Instant::now());
            hooks.run_within(HookPoint::Stopped, left).await;
            done();
        });
    }
}

impl Drop for Supervisor {
    /// If the asynchronous runtime ends the task, the device is not running any more.
    fn drop(&mut self) {
        if self.device.running().take().is_some() {
            self.device.status.send_replace(Status::default());
        }
    }
}

/// Waits until the caller drops its future; pending once it has the result.
async fn caller_dropped(caller: &mut Option<Caller>) {
    if let Some(waiting) = caller {
        let dropped = waiting.await.is_err();
        *caller = None;
        if dropped {
            return;
        }
    }
    std::future::pending().await
}

async fn next_command(
    deferred: &mut VecDeque<Command>,
    commands: &mut UnboundedReceiver<Command>,
) -> Option<Command> {
    match deferred.pop_front() {
        Some(command) => Some(command),
        None => commands.recv().await,
    }
}

/// Waits for a stop while a start is in progress. Defers the stop and other commands; rejects
/// further starts.
async fn stop_requested(
    commands: &mut UnboundedReceiver<Command>,
    deferred: &mut VecDeque<Command>,
) {
    while let Some(command) = commands.recv().await {
        match command {
            Command::Start { reply, .. } => drop(reply.send(Err(InitializeError::Running))),
            Command::RemoveConfiguration { .. } => deferred.push_back(command),
            Command::Stop { .. } => {
                deferred.push_back(command);
                return;
            }
        }
    }
}

async fn remove_configuration(store: Store) -> Result<bool, StoreError> {
    spawn_blocking(move || {
        // Fails while it is running, as the directory is locked.
        let lock = store.lock()?;
        let removed = store.remove();
        drop(lock);
        removed
    })
    .await
}

/// No panic can leave the guarded values inconsistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
