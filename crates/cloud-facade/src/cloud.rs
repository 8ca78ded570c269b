//! `ClesydeCloud`, the handle of a host application.

use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use cloud_config::{SerialNumber, StoreError};
use cloud_iot::{Message, Proxy, PublishOptions, QoS, Receipt, Session, Subscription};
use cloud_provision::{KeySource, ProvisioningKey};
use cloud_remote::auth::AuthRules;
use cloud_remote::{AccessRules, HttpOptions, Limits, RemoteAccess};
use cloud_shadow::ShadowClient;
use serde_json::{Map, Value};
use tokio::sync::{broadcast, watch};

use crate::adapters::PlatformClient;
use crate::application::IntoApplication;
use crate::error::{ApplicationError, InitializeError, NotRunning, ReportError, SendError};
use crate::event::Event;
use crate::opened_shadow::{OpenShadowError, OpenedShadow};
use crate::registration::{
    OnExisting, Registered, RegistrationError, register, register_with_keys,
};
use crate::report_queue::ReportReceipt;
use crate::status::Status;
use crate::supervisor::Shared;
use crate::tasks::join_or_resume_panic;
use crate::topic_messages::{
    self, HeldSubscription, ReceiveError, TopicMessages, TopicSubscription,
};
use crate::topics::{Action, CONFIG_SHADOW, DeviceTopics};

/// A device's connection to the Clesyde cloud. Clones share it.
///
/// Dropping the last clone without [`stop`](Self::stop) stops it in the background, if the runtime
/// lives long enough.
#[derive(Clone)]
pub struct ClesydeCloud(pub(crate) Arc<Shared>);

/// A reference to a [`ClesydeCloud`] that does not keep it alive. The default one refers to none.
#[derive(Clone, Default)]
pub struct WeakClesydeCloud(pub(crate) Weak<Shared>);

impl WeakClesydeCloud {
    /// Returns the `ClesydeCloud`, if a clone of it exists.
    pub fn upgrade(&self) -> Option<ClesydeCloud> {
        self.0.upgrade().map(ClesydeCloud)
    }
}

impl fmt::Debug for WeakClesydeCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WeakClesydeCloud").finish_non_exhaustive()
    }
}

impl ClesydeCloud {
    /// Returns a weak reference. Hooks and applications receive one, so that they do not keep their
    /// own device alive.
    pub fn downgrade(&self) -> WeakClesydeCloud {
        WeakClesydeCloud(Arc::downgrade(&self.0))
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
        let client = self.0.settings.api().build()?;
        let (device, key) = (Arc::clone(&self.0.device), key.clone());
        join_or_resume_panic(tokio::spawn(async move {
            let (store, sn) = (&device.store, &device.serial_number);
            let registered = register(store, &client, sn, &key, OnExisting::Keep).await;
            registered.inspect(|registered| device.update_clock(registered))
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
        let client = self.0.settings.api().build()?;
        let (device, key) = (Arc::clone(&self.0.device), key.clone());
        join_or_resume_panic(tokio::spawn(async move {
            let (store, sn) = (&device.store, &device.serial_number);
            let registered =
                register_with_keys(store, &client, sn, &key, &source, OnExisting::Keep).await;
            registered.inspect(|registered| device.update_clock(registered))
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
        self.0.initialize().await
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
        self.0.stop().await;
    }

    /// Returns the current status.
    pub fn status(&self) -> Status {
        self.0.device.status.borrow().clone()
    }

    /// Watches the status.
    pub fn watch_status(&self) -> watch::Receiver<Status> {
        self.0.device.status.subscribe()
    }

    /// Subscribes to events. A reader that falls behind by more than 64 events is notified how many
    /// it missed; nothing waits for it.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.device.events.subscribe()
    }

    /// The device's serial number.
    pub fn serial_number(&self) -> &SerialNumber {
        &self.0.device.serial_number
    }

    /// Accepts a message, connected or not. Messages are sent in the order of acceptance; the
    /// receipt reports the result.
    ///
    /// # Errors
    /// [`SendError`] if it is not running, the topic or size is not allowed, or the queue is full.
    pub fn publish(&self, message: Message) -> Result<Receipt, SendError> {
        Ok(self.iot()?.publish(message)?)
    }

    /// Like [`publish`](Self::publish), with options such as an expiry.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn publish_with(
        &self,
        message: Message,
        options: PublishOptions,
    ) -> Result<Receipt, SendError> {
        Ok(self.iot()?.publish_with(message, options)?)
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
        let platform = PlatformClient {
            session: self.iot()?,
            topics: DeviceTopics::new(self.serial_number()),
        };
        Ok(platform
            .request(action, payload.into(), QoS::AtLeastOnce, limit)
            .await?)
    }

    /// Returns the session with the broker: its state with the cause of each failure, its events,
    /// and messages by topic filter. The `ClesydeCloud` starts and stops it;
    /// [stopping](Session::stop) it directly leaves the `ClesydeCloud` without messaging.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn iot(&self) -> Result<Session, NotRunning> {
        let running = self.0.device.running();
        Ok(running.as_ref().ok_or(NotRunning)?.session.clone())
    }

    /// Subscribes to a filter while the device runs, online or not, and opens a stream of its
    /// messages. The stream contains no response of the platform with secrets.
    ///
    /// # Errors
    /// [`ReceiveError`] if it is not running, or too many subscriptions or streams exist.
    pub fn subscribe(&self, subscription: Subscription) -> Result<TopicSubscription, ReceiveError> {
        let topics = DeviceTopics::new(self.serial_number());
        topic_messages::subscribe(&self.iot()?, &topics, subscription)
    }

    /// Subscribes to a filter while the device runs, and opens a reader of its QoS 1 messages,
    /// which acknowledges each of them. It begins with messages that no other reader has
    /// acknowledged. Needs [`CloudBuilder::hold_messages`](crate::CloudBuilder::hold_messages).
    ///
    /// A message that is not acknowledged within a minute is acknowledged by the session, or
    /// within 2 s if 45 messages wait for that: no later one can be acknowledged before, and the
    /// broker stops at 60. If the process ends before, the broker sends it again to the next one.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe), or
    /// [`StreamError::HoldsNone`](cloud_iot::StreamError::HoldsNone).
    pub fn subscribe_held(
        &self,
        subscription: Subscription,
    ) -> Result<HeldSubscription, ReceiveError> {
        let topics = DeviceTopics::new(self.serial_number());
        topic_messages::subscribe_held(&self.iot()?, &topics, subscription)
    }

    /// Opens a stream of the platform's messages of an action, whose topic is
    /// `c/d/<sn>/<action>/res`, including responses to [requests](Self::request).
    /// [`answer`](Self::answer) answers one.
    ///
    /// # Errors
    /// [`ReceiveError`] if it is not running, too many streams are open, or the action's messages
    /// contain secrets.
    pub fn action_messages(&self, action: &Action) -> Result<TopicMessages, ReceiveError> {
        let topics = DeviceTopics::new(self.serial_number());
        topic_messages::action_messages(&self.iot()?, &topics, action)
    }

    /// Answers a message of an action: publishes to `c/d/<sn>/<action>/req`.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn answer(&self, action: &Action, payload: impl Into<Bytes>) -> Result<Receipt, SendError> {
        let topic = DeviceTopics::new(self.serial_number()).request(action);
        self.publish(Message::new(topic, payload))
    }

    /// Opens a named shadow while the device runs. For one that the host always uses, see
    /// [`CloudBuilder::shadow`](crate::CloudBuilder::shadow).
    ///
    /// # Errors
    /// [`OpenShadowError`] if it is not running, the name is not valid, or too many subscriptions
    /// or streams exist.
    pub async fn open_shadow(&self, name: &str) -> Result<OpenedShadow, OpenShadowError> {
        let source = {
            let running = self.0.device.running();
            running.as_ref().ok_or(NotRunning)?.shadow_source.clone()
        };
        OpenedShadow::open(source, name).await
    }

    /// Returns remote access: its status with causes, its events and its open connections. `None`
    /// without an application, or without a valid certificate (see
    /// [`initialize`](Self::initialize)). As with [`iot`](Self::iot), the `ClesydeCloud` starts and
    /// stops it.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn remote(&self) -> Result<Option<RemoteAccess>, NotRunning> {
        let running = self.0.device.running();
        Ok(running.as_ref().ok_or(NotRunning)?.remote.handle())
    }

    /// Returns the device's configuration shadow. Its requests fail at once without a connection.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn shadow(&self) -> Result<ShadowClient, NotRunning> {
        let running = self.0.device.running();
        Ok(running.as_ref().ok_or(NotRunning)?.shadow.clone())
    }

    /// Returns a [named shadow](crate::CloudBuilder::shadow) that the host requested, including
    /// `config`. `None` for other names.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn named_shadow(&self, name: &str) -> Result<Option<ShadowClient>, NotRunning> {
        let running = self.0.device.running();
        let running = running.as_ref().ok_or(NotRunning)?;
        Ok(match name {
            CONFIG_SHADOW => Some(running.shadow.clone()),
            name => running.shadows.get(name),
        })
    }

    /// Reports a part of the device's state in the configuration shadow. Sends only the difference.
    ///
    /// The report is accepted at once and sent when the device is connected, in the order of the
    /// calls. The receipt returns the result; a hook drops it, as the device connects only after
    /// the hooks of [`HookPoint::IotConnected`](crate::HookPoint::IotConnected).
    ///
    /// # Errors
    /// [`ReportError`] if it is not running or too many reports wait.
    pub fn report(&self, state: Map<String, Value>) -> Result<ReportReceipt, ReportError> {
        let running = self.0.device.running();
        running.as_ref().ok_or(NotRunning)?.reports.report(state)
    }

    /// Returns the access rules for new connections; `None` without an application.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn access(&self) -> Result<Option<AccessRules>, NotRunning> {
        let running = self.0.device.running();
        Ok(running.as_ref().ok_or(NotRunning)?.remote.access())
    }

    /// Replaces the access rules for new connections, until the next
    /// [`initialize`](Self::initialize), which reads them from the host again.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn set_access(&self, rules: AccessRules) -> Result<(), NotRunning> {
        let running = self.0.device.running();
        running.as_ref().ok_or(NotRunning)?.remote.set_access(rules);
        Ok(())
    }

    /// Replaces what callers have to show, until the next [`initialize`](Self::initialize), which
    /// reads it from the host again. See [`RemoteAccess::set_auth`](cloud_remote::RemoteAccess).
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn set_auth(&self, rules: AuthRules) -> Result<(), NotRunning> {
        let running = self.0.device.running();
        running.as_ref().ok_or(NotRunning)?.remote.set_auth(rules);
        Ok(())
    }

    /// Replaces the limits on callers, until the next [`initialize`](Self::initialize); see
    /// [`RemoteAccess::set_limits`].
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn set_limits(&self, limits: Limits) -> Result<(), NotRunning> {
        let running = self.0.device.running();
        let running = running.as_ref().ok_or(NotRunning)?;
        running.remote.set_limits(limits);
        Ok(())
    }

    /// Replaces the HTTP options, until the next [`initialize`](Self::initialize); see
    /// [`RemoteAccess::set_http`].
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn set_http_options(&self, options: HttpOptions) -> Result<(), NotRunning> {
        let running = self.0.device.running();
        let running = running.as_ref().ok_or(NotRunning)?;
        running.remote.set_http_options(options);
        Ok(())
    }

    /// Replaces the proxy for later connections to broker and relay, until the next
    /// [`initialize`](Self::initialize). Connections in use stay.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn set_proxy(&self, proxy: Option<Proxy>) -> Result<(), NotRunning> {
        let running = self.0.device.running();
        let running = running.as_ref().ok_or(NotRunning)?;
        running.session.set_proxy(proxy.clone());
        running.remote.set_proxy(proxy);
        Ok(())
    }

    /// Reports a change of the device's network, for hosts that monitor it: the session with the
    /// broker checks its connection at once, or ends its back-off. Unnecessary calls are harmless.
    /// See [`Session::network_changed`].
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn network_changed(&self) -> Result<(), NotRunning> {
        self.iot()?.network_changed();
        Ok(())
    }

    /// Returns the port of the connection to the broker, or of the next attempt: 8883, or 443
    /// behind a firewall. A host that keeps it while the device is connected, and sets it as
    /// [`SessionConfig::preferred_port`](cloud_iot::SessionConfig::preferred_port) of the next
    /// [session](crate::CloudBuilder::session), spares the next start the attempt that fails.
    ///
    /// # Errors
    /// [`NotRunning`].
    pub fn iot_port(&self) -> Result<u16, NotRunning> {
        Ok(self.iot()?.port())
    }

    /// Serves another application to new connections, until the next
    /// [`initialize`](Self::initialize), which reads it from the host again. Open connections keep
    /// their application.
    ///
    /// # Errors
    /// [`ApplicationError`]; nothing changes then.
    pub fn set_application<Kind>(
        &self,
        application: impl IntoApplication<Kind>,
    ) -> Result<(), ApplicationError> {
        let application = application.into_application();
        let running = self.0.device.running();
        let remote = &running.as_ref().ok_or(NotRunning)?.remote;
        remote.set_application(application)
    }

    /// Removes the configuration from the disk, after a [`stop`](Self::stop). Returns whether there
    /// was one.
    ///
    /// # Errors
    /// [`StoreError`] if it is running here or in another process, or if the disk fails.
    pub async fn remove_configuration(&self) -> Result<bool, StoreError> {
        self.0.remove_configuration().await
    }
}

impl fmt::Debug for ClesydeCloud {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClesydeCloud")
            .field("serial_number", self.serial_number())
            .field("status", &*self.0.device.status.borrow())
            .finish_non_exhaustive()
    }
}
