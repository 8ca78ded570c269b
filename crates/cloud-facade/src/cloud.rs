//! `ClesydeCloud`, the handle of a host application.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use cloud_config::{SerialNumber, StoreError};
use cloud_iot::{Message, QoS, Receipt, SessionHandle};
use cloud_provision::{KeySource, ProvisioningKey};
use cloud_remote::{AccessRules, Application, RemoteHandle};
use cloud_shadow::ShadowClient;
use serde_json::Value;
use tokio::sync::{broadcast, watch};

use crate::adapters::PlatformClient;
use crate::client::CloudClient;
use crate::error::{ApplicationError, InitializeError, NotRunning, ReportError, SendError};
use crate::event::Event;
use crate::registration::{
    OnExisting, Registered, RegistrationError, join_or_resume_panic, register, register_with_keys,
    spawn_blocking,
};
use crate::status::Status;
use crate::supervisor::Supervisor;
use crate::topics::{Action, CONFIG_SHADOW, DeviceTopics};

/// Capacity of the event channel; a slower reader is notified how many it missed. A platform
/// message may have 128 KiB.
const EVENT_CAPACITY: usize = 64;

/// A device's connection to the Clesyde cloud. Clones share it.
///
/// Dropping the last clone without [`stop`](Self::stop) stops it in the background, if the runtime
/// lives long enough.
#[derive(Clone)]
pub struct ClesydeCloud {
    inner: Arc<Supervisor>,
}

/// A reference to a [`ClesydeCloud`] that does not keep it alive.
#[derive(Clone)]
pub struct WeakClesydeCloud(Weak<Supervisor>);

impl WeakClesydeCloud {
    /// Returns the `ClesydeCloud`, if a clone of it exists.
    pub fn upgrade(&self) -> Option<ClesydeCloud> {
        self.0.upgrade().map(|inner| ClesydeCloud { inner })
    }
}

impl fmt::Debug for WeakClesydeCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakClesydeCloud").finish_non_exhaustive()
    }
}

impl ClesydeCloud {
    /// Creates a stopped connection for `client`. Does not access files or the network.
    pub fn new(client: impl CloudClient) -> Self {
        let inner = Supervisor::new(Box::new(client), EVENT_CAPACITY);
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Returns a weak reference, for hooks and for the served application.
    pub fn downgrade(&self) -> WeakClesydeCloud {
        WeakClesydeCloud(Arc::downgrade(&self.inner))
    }

    /// Registers the device with the platform, unless it is provisioned already, and stores its
    /// configuration.
    ///
    /// # Errors
    /// [`RegistrationError`]; the previous configuration is unchanged.
    ///
    /// # Cancel safety
    /// The first request may use up the key, so dropping the future does not cancel the
    /// registration: it continues, and locks the directory until it ends.
    pub async fn provision(&self, key: &ProvisioningKey) -> Result<Registered, RegistrationError> {
        let client = self.inner.client.registration().build()?;
        let (inner, key) = (Arc::clone(&self.inner), key.clone());
        join_or_resume_panic(tokio::spawn(async move {
            let (store, sn) = (&inner.store, &inner.serial_number);
            let registered = register(store, &client, sn, &key, OnExisting::Keep).await;
            registered.inspect(|registered| inner.update_clock(registered))
        }))
        .await
    }

    /// Like [`provision`](Self::provision), with private keys that `source` generates on this
    /// device and that never leave it, for platforms with support for certificate signing requests.
    /// [`Registered::New`] reports whether this one has it. The feature `csr` provides a source,
    /// `cloud_facade::provision::GeneratedKeys`.
    ///
    /// # Errors
    /// As [`provision`](Self::provision); also if `source` returns unusable keys, in which case
    /// nothing was sent.
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
        join_or_resume_panic(tokio::spawn(async move {
            let (store, sn) = (&inner.store, &inner.serial_number);
            let registered =
                register_with_keys(store, &client, sn, &key, &source, OnExisting::Keep).await;
            registered.inspect(|registered| inner.update_clock(registered))
        }))
        .await
    }

    /// Loads the configuration and starts everything. Returns once it runs and the hooks of
    /// [`HookPoint::Started`] have ended, without waiting for a connection: see
    /// [`status`](Self::watch_status) and [`events`](Self::events) for that.
    ///
    /// A missing or damaged certificate or key for remote access does not prevent the rest from
    /// running: the status of remote access reports the problem, the certificate is requested from
    /// the platform again, and remote access starts once it is installed. If the platform sends
    /// none, register the device again.
    ///
    /// # Errors
    /// [`InitializeError`]; nothing is left running. [`InitializeError::is_not_provisioned`]
    /// reports a missing configuration.
    ///
    /// # Cancel safety
    /// If the future is dropped before it completes, everything that was started is shut down
    /// gracefully in the background. A later call waits for that.
    ///
    /// [`HookPoint::Started`]: crate::HookPoint::Started
    pub async fn initialize(&self) -> Result<(), InitializeError> {
        self.inner.initialize().await
    }

    /// Stops everything: closes the tunnel, publishes OFFLINE, unlocks the directory. Takes at most
    /// [`STOP_DEADLINE`](crate::STOP_DEADLINE), and cancels a start in progress. Does nothing if it
    /// is not running.
    ///
    /// A call from a [hook](crate::Hooks), which it would have to wait for, returns at once and
    /// continues in the background.
    ///
    /// # Cancel safety
    /// Dropping the future does not cancel the stop; it continues in the background.
    pub async fn stop(&self) {
        self.inner.stop().await;
    }

    /// Returns the current status.
    pub fn status(&self) -> Status {
        self.inner.status.borrow().clone()
    }

    /// Watches the status.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.inner.status.subscribe()
    }

    /// Subscribes to events. A reader that falls behind by more than 64 events is notified how many
    /// it missed; nothing waits for it.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// The device's serial number.
    pub fn serial_number(&self) -> &SerialNumber {
        &self.inner.serial_number
    }

    /// Accepts a message, connected or not. Messages are sent in the order of acceptance; the
    /// receipt reports the result.
    ///
    /// # Errors
    /// [`SendError`] if it is not running, the topic or size is not allowed, or the queue is full.
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

    /// Sends a request to the platform and waits for its response, at most `limit`.
    ///
    /// # Errors
    /// [`SendError`], typically [`RequestError::Timeout`](cloud_iot::RequestError::Timeout).
    ///
    /// # Cancel safety
    /// Dropping the future discards the response.
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

    /// Returns the session with the broker: its state with the cause of each failure, its events,
    /// and messages by topic filter. The `ClesydeCloud` starts and stops it;
    /// [stopping](SessionHandle::stop) it directly leaves the `ClesydeCloud` without messaging.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn iot(&self) -> Result<SessionHandle, NotRunning> {
        Ok(self.platform()?.session)
    }

    /// Returns remote access: its status with causes, its events and its open connections. `None`
    /// without an application, or without a valid certificate (see
    /// [`initialize`](Self::initialize)). As with [`iot`](Self::iot), the `ClesydeCloud` starts and
    /// stops it.
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

    /// Returns the device's configuration shadow. Its requests fail at once without a connection.
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

    /// Returns a [named shadow](crate::CloudClient::shadows) that the host requested, including
    /// `config`. `None` for other names.
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

    /// Reports a part of the device's state in the configuration shadow. Sends only the difference.
    ///
    /// # Errors
    /// [`ReportError`].
    ///
    /// # Cancel safety
    /// If the future is dropped, the state may or may not be reported.
    pub async fn report(&self, state: serde_json::Map<String, Value>) -> Result<(), ReportError> {
        self.shadow()?.report(state).await?;
        Ok(())
    }

    /// Replaces the access rules for new connections, until the next
    /// [`initialize`](Self::initialize), which reads them from the host again.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn set_access(&self, rules: AccessRules) -> Result<(), NotRunning> {
        let running = self.inner.running();
        running.as_ref().ok_or(NotRunning)?.remote.set_access(rules);
        Ok(())
    }

    /// Serves another application to new connections, until the next
    /// [`initialize`](Self::initialize), which reads it from the host again. Open connections keep
    /// their application.
    ///
    /// # Errors
    /// [`ApplicationError`]; nothing changes then.
    pub fn set_application(&self, application: Application) -> Result<(), ApplicationError> {
        let running = self.inner.running();
        let remote = &running.as_ref().ok_or(NotRunning)?.remote;
        remote.set_application(application)
    }

    /// Removes the configuration from the disk, after a [`stop`](Self::stop). Returns whether there
    /// was one.
    ///
    /// # Errors
    /// [`StoreError`] if it is running here or in another process, or if the disk fails.
    pub async fn remove_configuration(&self) -> Result<bool, StoreError> {
        let _permit = self.inner.enqueue().await.await;
        let store = self.inner.store.clone();
        spawn_blocking(move || {
            // Fails while it is running, as the directory is locked.
            let lock = store.lock()?;
            let removed = store.remove();
            drop(lock);
            removed
        })
        .await
    }

    fn platform(&self) -> Result<PlatformClient, NotRunning> {
        let session = self
            .inner
            .running()
            .as_ref()
            .ok_or(NotRunning)?
            .session
            .clone();
        Ok(PlatformClient {
            session,
            topics: DeviceTopics::new(&self.inner.serial_number),
        })
    }
}

impl fmt::Debug for ClesydeCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClesydeCloud")
            .field("serial_number", &self.inner.serial_number)
            .field("status", &*self.inner.status.borrow())
            .finish_non_exhaustive()
    }
}
