//! Everything that runs between `initialize` and `stop`, and the order of its start and stop.

use std::sync::Arc;
use std::time::Duration;

use cloud_config::{DirectoryLock, LoadError, PartialDeviceConfig, SerialNumber, Store};
use cloud_iot::rustls::sign::CertifiedKey;
use cloud_iot::tls::without_identity;
use cloud_iot::{Acknowledge, Proxy, Session, Subscription};
use cloud_remote::auth::AuthRules;
use cloud_remote::{
    AccessRules, Application, HttpOptions, Limits, PlatformClock, Probe, RemoteAccess,
};
use cloud_shadow::{InFlightLimit, ShadowClient, ShadowConfig};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::access_observer::AccessObserver;
use crate::adapters::{PlatformClient, ShadowBus};
use crate::certificate_recovery::CertificateRecovery;
use crate::client_certificate::{ClientCertificateInstaller, ClientCertificateRotator};
use crate::coordinator::{Coordinator, CoordinatorState, EventSources};
use crate::error::InitializeError;
use crate::event::Event;
use crate::hook_runner::{HookPoint, HookRunner};
use crate::remote_access::{RemoteParams, RemoteSlot, remote_config, start_or_defer};
use crate::report_queue::ReportQueue;
use crate::session_setup::{ActionRoute, ConfigureSession, config_shadow, router, session_config};
use crate::shadows::{self, ShadowSource, Shadows};
use crate::shutdown_budget::BUDGET;
use crate::status::{ConnectionStatus, Status};
use crate::tasks::spawn_blocking;
use crate::topics::DeviceTopics;

/// A program that restarts is back sooner, and a reader that does not acknowledge stops the
/// broker's messages for no longer.
const HOLD: Duration = Duration::from_secs(60);

/// Minimum of the messages that the broker may send before they are acknowledged, since those
/// behind a held one wait too: nearly a route's queue.
const HELD_IN_FLIGHT: u16 = 60;

/// The host's settings of a start.
pub(crate) struct StartSettings {
    pub(crate) application: Option<Application>,
    pub(crate) access: AccessRules,
    pub(crate) auth: AuthRules,
    pub(crate) http_options: HttpOptions,
    pub(crate) limits: Limits,
    pub(crate) probe: Option<Probe>,
    pub(crate) observer: Option<AccessObserver>,
    pub(crate) proxy: Option<Proxy>,
    #[cfg(feature = "durable")]
    pub(crate) outbox_directory: Option<std::path::PathBuf>,
    pub(crate) shadows: Vec<String>,
    pub(crate) subscriptions: Vec<Subscription>,
    pub(crate) session: ConfigureSession,
    pub(crate) identity: Option<CertifiedKey>,
    pub(crate) hold_messages: Option<Duration>,
    pub(crate) actions: Vec<ActionRoute>,
}

/// The parameters of a start.
pub(crate) struct StartParams {
    pub(crate) serial_number: SerialNumber,
    pub(crate) store: Store,
    pub(crate) settings: StartSettings,
    pub(crate) hooks: HookRunner,
    pub(crate) clock: PlatformClock,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) status: watch::Sender<Status>,
}

/// The running parts. Dropping it ends them in the background; [`Runtime::stop`] stops them
/// gracefully.
pub(crate) struct Runtime {
    pub(crate) session: Session,
    pub(crate) shadow: ShadowClient,
    pub(crate) shadows: Shadows,
    pub(crate) shadow_source: ShadowSource,
    pub(crate) remote: RemoteSlot,
    pub(crate) reports: ReportQueue,
    coordinator: JoinHandle<()>,
    ended: CancellationToken,
    /// Dropped last: it locks the directory.
    _lock: DirectoryLock,
}

/// The loaded configuration and the lock of its directory.
pub(crate) struct LoadedConfig {
    lock: DirectoryLock,
    device: PartialDeviceConfig,
    #[cfg(feature = "durable")]
    outbox: Option<cloud_iot::DurableOutbox>,
}

/// Opens the durable outbox of this thing. Without one, the device connects nevertheless.
#[cfg(feature = "durable")]
fn open_outbox(
    directory: &std::path::Path,
    device: &PartialDeviceConfig,
    events: &broadcast::Sender<Event>,
) -> Option<cloud_iot::DurableOutbox> {
    let directory = directory.join(format!("outbox-{}", device.iot_thing_name.as_str()));
    let opened = cloud_iot::DurableOutbox::open(&directory);
    let problem = match &opened {
        Ok(outbox) => outbox.damage().map(ToString::to_string),
        Err(error) => Some(error.to_string()),
    };
    if let Some(reason) = problem {
        tracing::error!(
            ?directory,
            reason,
            "the durable outbox is damaged or unusable"
        );
        // An error means that there is no receiver.
        let _ = events.send(Event::OutboxStoreFailed { reason });
    }
    opened.ok()
}

impl StartParams {
    /// Locks the directory and loads the configuration.
    pub(crate) async fn load(&self) -> Result<LoadedConfig, InitializeError> {
        let (store, serial_number) = (self.store.clone(), self.serial_number.clone());
        #[cfg(feature = "durable")]
        let (directory, events) = (self.settings.outbox_directory.clone(), self.events.clone());
        spawn_blocking(move || {
            // Without a configuration, no directory is created.
            if !store.is_provisioned().map_err(LoadError::from)? {
                return Err(LoadError::NotProvisioned(store.directory().to_owned()).into());
            }
            store.ensure_serial_number(&serial_number)?;
            let lock = store.lock()?;
            let device = store.load_partial()?.device;
            Ok(LoadedConfig {
                #[cfg(feature = "durable")]
                outbox: directory.and_then(|path| open_outbox(&path, &device, &events)),
                lock,
                device,
            })
        })
        .await
    }

    /// Starts all parts, except the coordinator, which [`PreparedRuntime::spawn`] starts.
    ///
    /// Does not wait for the network, so there is nothing to cancel.
    pub(crate) async fn prepare(
        self,
        loaded: LoadedConfig,
    ) -> Result<PreparedRuntime, InitializeError> {
        let LoadedConfig {
            lock,
            device,
            #[cfg(feature = "durable")]
            outbox,
        } = loaded;
        let settings = self.settings;
        let topics = DeviceTopics::new(&self.serial_number);
        let identity = settings.identity;
        let mut config = session_config(
            &device,
            &self.serial_number,
            &topics,
            identity.clone(),
            &settings.session,
        )?;
        config.proxy = settings.proxy.clone();
        if let Some(expiry) = settings.hold_messages {
            config.session_expiry = Some(expiry);
            config.acknowledge = Acknowledge::AfterHandlers;
            config.hold = Some(HOLD);
            let in_flight = &mut config.limits.incoming_in_flight;
            *in_flight = (*in_flight).max(HELD_IN_FLIGHT);
        }
        let more_shadows = shadows::ids(&device, &settings.shadows)?;
        config
            .subscriptions
            .extend(shadows::subscriptions(&more_shadows)?);
        config.subscriptions.extend(settings.subscriptions);
        let router = router(&topics, &self.events, settings.actions)?;

        let (connected, disconnected) = (self.hooks.clone(), self.hooks.clone());
        let builder = Session::builder(config.clone())
            .router(router)
            .on_connect(move || {
                let hooks = connected.clone();
                async move {
                    hooks.run(HookPoint::IotConnected).await;
                    Ok(())
                }
            })
            .on_disconnect(move |_| {
                let hooks = disconnected.clone();
                async move {
                    hooks.run(HookPoint::IotDisconnected).await;
                    Ok(())
                }
            });
        #[cfg(feature = "durable")]
        let builder = match outbox {
            Some(outbox) => builder.outbox_store(outbox),
            None => builder,
        };
        let session = builder.start()?;
        let session_events = session.events();
        let shadow_lost = Arc::new(Notify::new());
        let bus = ShadowBus {
            session: session.clone(),
            lost: Arc::clone(&shadow_lost),
            clock: self.clock.clone(),
            lost_log: Arc::default(),
        };
        // The service limits the requests per connection, across shadows.
        let in_flight_limit = InFlightLimit::default();
        let shadows = Shadows::start(&bus, more_shadows, &in_flight_limit).await?;
        let shadow_source = ShadowSource {
            bus: bus.clone(),
            in_flight_limit: in_flight_limit.clone(),
            thing_name: device.iot_thing_name.as_str().to_owned(),
        };
        let config_shadow =
            ShadowConfig::new(config_shadow(&device)?).in_flight_limit(in_flight_limit);
        let shadow = ShadowClient::start(bus, config_shadow).await?;

        let platform = PlatformClient {
            session: session.clone(),
            topics,
        };
        config.tls = without_identity(&config.tls);
        let parts = ClientCertificateInstaller {
            platform: platform.clone(),
            session: session.clone(),
            store: self.store.clone(),
            roots: device.iot_roots.clone(),
            config,
            clock: self.clock.clone(),
        };
        let rotator = match identity {
            None => ClientCertificateRotator::new(&device, parts),
            Some(_) => None,
        };
        let (remote, recovery) = match settings.application {
            None => (RemoteSlot::none(), None),
            Some(application) => {
                let params = RemoteParams {
                    config: remote_config(&device),
                    access_point: device.access_point.to_string(),
                    application,
                    access: settings.access,
                    auth: settings.auth,
                    http_options: settings.http_options,
                    limits: settings.limits,
                    proxy: settings.proxy,
                    probe: settings.probe,
                    observer: settings.observer,
                    clock: self.clock,
                    platform,
                    store: self.store,
                };
                start_or_defer(params, device.remote, shadow.document()).await?
            }
        };
        let handle = remote.handle();

        let sources = EventSources {
            session: session_events,
            remote: handle.as_ref().map(RemoteAccess::events),
            rotation: recovery
                .as_ref()
                .map(CertificateRecovery::rotation_status)
                .or_else(|| handle.as_ref().map(RemoteAccess::rotation_status)),
            iot_rotation: rotator
                .as_ref()
                .map(ClientCertificateRotator::rotation_status),
            delta: Some(shadow.delta()),
        };
        let coordinator = Coordinator {
            session,
            shadow,
            remote,
            shadow_lost,
            events: self.events,
            status: self.status,
            hooks: self.hooks,
            ended: CancellationToken::new(),
            sources,
            rotator,
            recovery,
            state: CoordinatorState::default(),
        };
        Ok(PreparedRuntime {
            coordinator,
            shadows,
            shadow_source,
            lock,
        })
    }
}

/// The started parts and the coordinator.
pub(crate) struct PreparedRuntime {
    coordinator: Coordinator,
    shadows: Shadows,
    shadow_source: ShadowSource,
    lock: DirectoryLock,
}

impl PreparedRuntime {
    /// Starts the coordinator and sets the status.
    pub(crate) fn spawn(self) -> Runtime {
        let coordinator = self.coordinator;
        let mut remote = ConnectionStatus::default();
        if let Some(recovery) = &coordinator.recovery {
            let reason = recovery.reason();
            tracing::error!("{reason}");
            remote.down(reason.clone());
            coordinator.emit(Event::RemoteConnectFailed { reason });
        }
        coordinator.status.send_replace(Status {
            running: true,
            remote,
            certificate_serial: coordinator.certificate_serial(),
            iot_certificate_serial: coordinator
                .rotator
                .as_ref()
                .map(|rotator| rotator.status().serial.to_string()),
            ..Status::default()
        });
        Runtime {
            reports: ReportQueue::start(coordinator.shadow.clone(), coordinator.session.state()),
            session: coordinator.session.clone(),
            shadow: coordinator.shadow.clone(),
            shadows: self.shadows,
            shadow_source: self.shadow_source,
            remote: coordinator.remote.clone(),
            ended: coordinator.ended.clone(),
            coordinator: tokio::spawn(coordinator.run()),
            _lock: self.lock,
        }
    }
}

impl Runtime {
    /// Stops the tunnel first, while messaging is connected; then publishes OFFLINE and
    /// disconnects.
    pub(crate) async fn stop(mut self, deadline: Instant) {
        if let Some(remote) = &self.remote.take()
            && let Err(error) = remote.stop(BUDGET.remote).await
        {
            tracing::warn!(%error, "could not stop remote access in time");
        }
        let report = self.session.stop(BUDGET.session_until(deadline)).await;
        if !report.clean || report.undelivered > 0 {
            tracing::warn!(
                report.clean,
                report.undelivered,
                "the session with the broker was not closed cleanly"
            );
        }
        self.shadow.stop().await;
        self.shadows.stop().await;
        self.ended.cancel();
        // Ends by itself, within `remote_hooks`. The panic hook has already reported a panic.
        let _ = (&mut self.coordinator).await;
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // The coordinator holds handles; without them, the other tasks end by themselves.
        self.ended.cancel();
    }
}
