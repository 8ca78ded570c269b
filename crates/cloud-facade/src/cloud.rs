//! `ClesydeCloud`: what a host application holds.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use cloud_config::{SerialNumber, StoreError};
use cloud_iot::{Message, PublishError, QoS, Receipt, RequestError, SessionHandle};
use cloud_provision::{KeySource, ProvisioningKey};
use cloud_remote::{AccessRules, Application, RemoteHandle};
use cloud_shadow::ShadowClient;
use serde_json::Value;
use tokio::sync::{broadcast, watch};

use crate::adapters::Platform;
use crate::client::CloudClient;
use crate::event::Event;
use crate::initialize::InitializeError;
use crate::lifecycle::Inner;
use crate::registration::{
    Existing, Registered, RegistrationError, blocking, passed_on, register, register_with_keys,
};
use crate::status::Status;
use crate::topics::{Action, CONFIG_SHADOW, DeviceTopics};

/// Events kept for a slow reader; beyond them it is told how many it missed. A message of the platform may have 128 KiB.
const EVENTS: usize = 64;

/// What [`ClesydeCloud::stop`] takes at most. Service managers start to kill after 5 s or more.
pub const STOP_DEADLINE: Duration = Duration::from_millis(4500);

/// A device's connection to the Clesyde cloud. Clones are the same one.
///
/// When the last clone is dropped without [`stop`](Self::stop), the same is done in the background, as far as the runtime
/// lives long enough.
#[derive(Clone)]
pub struct ClesydeCloud {
    inner: Arc<Inner>,
}

/// A reference to a [`ClesydeCloud`] that does not keep it alive.
#[derive(Clone)]
pub struct WeakClesydeCloud(Weak<Inner>);

impl WeakClesydeCloud {
    /// The `ClesydeCloud`, as long as anybody holds it.
    pub fn upgrade(&self) -> Option<ClesydeCloud> {
        self.0.upgrade().map(|inner| ClesydeCloud { inner })
    }
}

impl fmt::Debug for WeakClesydeCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakClesydeCloud").finish_non_exhaustive()
    }
}

/// It does not run: not initialized, or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection to the cloud is not running; initialize it first")]
pub struct NotRunning;

/// Why a message was not taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// It does not run.
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
    /// The session did not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The request failed, or had no answer in time.
    #[error(transparent)]
    Request(#[from] RequestError),
}

impl ClesydeCloud {
    /// Reads the host's side. Nothing is touched or started.
    pub fn new(client: impl CloudClient) -> Self {
        let inner = Inner::new(Box::new(client), EVENTS);
        Self {
            inner: Arc::new(inner),
        }
    }

    /// A reference that does not keep it alive, for hooks and for the application that it serves.
    pub fn downgrade(&self) -> WeakClesydeCloud {
        WeakClesydeCloud(Arc::downgrade(&self.inner))
    }

    /// Registers the device with the platform, unless it is provisioned already, and stores what it gets.
    ///
    /// # Errors
    /// [`RegistrationError`]; what was stored before is still there, whole.
    ///
    /// # Cancel safety
    /// The platform may use the key up with the first request, so dropping the future does not take it back: the registration
    /// goes on by itself, and holds the directory until it has ended.
    pub async fn provision(&self, key: &ProvisioningKey) -> Result<Registered, RegistrationError> {
        let client = self.inner.client.registration().build()?;
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        passed_on(tokio::spawn(async move {
            let (store, sn) = (&inner.store, &inner.serial_number);
            let registered = register(store, &client, sn, &key, Existing::Keep).await;
            registered.inspect(|registered| inner.tell_time(registered))
        }))
        .await
    }

    /// The same with private keys that `source` makes on this device and that never leave it, for platforms that take signing
    /// requests. [`Registered::Now`] tells whether this one did. With the feature `csr` there is a source that is ready to
    /// use, `cloud_facade::provision::GeneratedKeys`.
    ///
    /// # Errors
    /// As [`provision`](Self::provision); also if `source` makes no usable keys, in which case nothing was sent.
    ///
    /// # Cancel safety
    /// As [`provision`](Self::provision).
    pub async fn provision_with_keys(
        &self,
        key: &ProvisioningKey,
        source: impl KeySource + Send + 'static,
    ) -> Result<Registered, RegistrationError> {
        let client = self.inner.client.registration().build()?;
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        passed_on(tokio::spawn(async move {
            let (store, sn) = (&inner.store, &inner.serial_number);
            let registered =
                register_with_keys(store, &client, sn, &key, &source, Existing::Keep).await;
            registered.inspect(|registered| inner.tell_time(registered))
        }))
        .await
    }

    /// Loads the configuration and starts everything. Returns once it runs and the hooks of [`Moment::Started`] have ended,
    /// without waiting for a connection: see [`status`](Self::watch_status) and [`events`](Self::events) for that.
    ///
    /// A certificate for remote access that is missing or damaged, or whose key is, keeps nothing else from running: the status
    /// of remote access says what is wrong, the platform is asked for the certificate again, and remote access begins when it
    /// has come. If none comes, the device has to be registered anew.
    ///
    /// # Errors
    /// [`InitializeError`]; nothing is left running. [`InitializeError::is_not_provisioned`] tells that there is no
    /// configuration yet.
    ///
    /// # Cancel safety
    /// If the future is dropped before it has returned, all that was begun is undone, in good order and in the background. A
    /// later call waits for that.
    ///
    /// [`Moment::Started`]: crate::Moment::Started
    pub async fn initialize(&self) -> Result<(), InitializeError> {
        self.inner.initialize().await
    }

    /// Stops everything: the tunnel is closed, OFFLINE is published, the directory is let go. Takes [`STOP_DEADLINE`] at
    /// most, even while it is being started: the start is given up then. Does nothing if it does not run.
    ///
    /// Called by a [hook](crate::Hooks), which it would have to wait for, it returns at once and goes on by itself.
    ///
    /// # Cancel safety
    /// Dropping the future does not take the stop back; it goes on by itself.
    pub async fn stop(&self) {
        self.inner.stop().await;
    }

    /// How things stand now.
    pub fn status(&self) -> Status {
        self.inner.status.borrow().clone()
    }

    /// How things stand, now and whenever it changes.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// What happens from now on. A reader that falls behind by more than 64 events is told how many it missed; nothing
    /// ever waits for it.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// The device's serial number.
    pub fn serial_number(&self) -> &SerialNumber {
        &self.inner.serial_number
    }

    /// Accepts a message, connected or not. It goes out in the order of acceptance, and the receipt tells what became of it.
    ///
    /// # Errors
    /// [`SendError`], if it does not run, the topic or size is not allowed, or the queue is full.
    pub fn publish(
        &self,
        topic: impl Into<String>,
        payload: impl Into<Bytes>,
        qos: QoS,
        retain: bool,
    ) -> Result<Receipt, SendError> {
        let message = Message {
            topic: topic.into(),
            payload: payload.into(),
            qos,
            retain,
        };
        Ok(self.platform()?.session.publish(message)?)
    }

    /// Sends a request to the platform and waits for its answer, `limit` at most.
    ///
    /// # Errors
    /// [`SendError`], above all [`RequestError::Timeout`].
    ///
    /// # Cancel safety
    /// Dropping the future gives the answer up.
    pub async fn request(
        &self,
        action: &Action,
        payload: impl Into<Bytes>,
        limit: Duration,
    ) -> Result<Bytes, SendError> {
        Ok(self
            .platform()?
            .request(action, payload.into(), QoS::AtLeastOnce, limit)
            .await?)
    }

    /// The session to the broker: its state with the cause of each failure, its events, what comes under a filter. It is
    /// started and stopped from here; who [stops](SessionHandle::stop) it himself has a `ClesydeCloud` without messaging.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn iot(&self) -> Result<SessionHandle, NotRunning> {
        Ok(self.platform()?.session)
    }

    /// Remote access: its status with causes, its events, the connections that are open. None without an application, and
    /// while there is no sound certificate to serve with (see [`initialize`](Self::initialize)). As with [`iot`](Self::iot),
    /// it is started and stopped from here.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn remote(&self) -> Result<Option<RemoteHandle>, NotRunning> {
        Ok(self
            .inner
            .running()
            .as_ref()
            .ok_or(NotRunning)?
            .remote
            .handle())
    }

    /// The device's configuration shadow. Its requests need a connection; while there is none they fail at once.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn shadow(&self) -> Result<ShadowClient, NotRunning> {
        Ok(self
            .inner
            .running()
            .as_ref()
            .ok_or(NotRunning)?
            .shadow
            .clone())
    }

    /// One of the [named shadows](crate::CloudClient::shadows) that the host asked for, `config` included. None if it did not.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn named_shadow(&self, name: &str) -> Result<Option<ShadowClient>, NotRunning> {
        let running = self.inner.running();
        let running = running.as_ref().ok_or(NotRunning)?;
        Ok(match name {
            CONFIG_SHADOW => Some(running.shadow.clone()),
            name => running.shadows.get(name),
        })
    }

    /// Reports a part of the device's state in the configuration shadow: only what differs is sent.
    ///
    /// # Errors
    /// [`ReportError`].
    ///
    /// # Cancel safety
    /// If the future is dropped, it is reported, or not.
    pub async fn report(&self, state: serde_json::Map<String, Value>) -> Result<(), ReportError> {
        self.shadow()?.report(state).await?;
        Ok(())
    }

    /// Replaces the rules for who may connect, for new connections. Until the next [`initialize`](Self::initialize), which
    /// asks the host again.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn set_access(&self, rules: AccessRules) -> Result<(), NotRunning> {
        let running = self.inner.running();
        running.as_ref().ok_or(NotRunning)?.remote.set_access(rules);
        Ok(())
    }

    /// Serves another application to connections that are made from now on; those that are open go on with the one that they
    /// have begun with. Until the next [`initialize`](Self::initialize), which asks the host again.
    ///
    /// # Errors
    /// [`ApplicationError`]; then nothing changes.
    pub fn set_application(&self, application: Application) -> Result<(), ApplicationError> {
        let running = self.inner.running();
        let remote = &running.as_ref().ok_or(NotRunning)?.remote;
        remote.set_application(application)
    }

    /// Removes the configuration from the disk, after a [`stop`](Self::stop). Says whether there was one.
    ///
    /// # Errors
    /// [`StoreError`], if it runs here or elsewhere, or the disk refuses.
    pub async fn remove_configuration(&self) -> Result<bool, StoreError> {
        let _turn = self.inner.queue().await.await;
        let store = self.inner.store.clone();
        blocking(move || {
            // Refused while it runs: the lock is held then.
            let lock = store.lock()?;
            let was = store.remove();
            drop(lock);
            was
        })
        .await
    }

    fn platform(&self) -> Result<Platform, NotRunning> {
        let session = self
            .inner
            .running()
            .as_ref()
            .ok_or(NotRunning)?
            .session
            .clone();
        Ok(Platform {
            session,
            topics: DeviceTopics::new(&self.inner.serial_number),
        })
    }
}

/// Why another application could not be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplicationError {
    /// It does not run.
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
    /// It was started without an application, so that there is no tunnel. Stop it and start it again.
    #[error("it was started without an application, so there is no remote access")]
    NoRemoteAccess,
    /// The application cannot be served.
    #[error(transparent)]
    Application(#[from] cloud_remote::StartError),
}

/// Why the state could not be reported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// It does not run.
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
    /// The shadow service refused, or did not answer.
    #[error(transparent)]
    Shadow(#[from] cloud_shadow::RequestError),
}

impl fmt::Debug for ClesydeCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClesydeCloud")
            .field("serial_number", &self.inner.serial_number)
            .field("status", &*self.inner.status.borrow())
            .finish_non_exhaustive()
    }
}
