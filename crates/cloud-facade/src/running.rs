//! Everything that runs between `initialize` and `stop`, and the order in which it is started and stopped.

use std::sync::Arc;
use std::time::Duration;

use cloud_config::{DirectoryLock, LoadError, PartialDeviceConfig, SerialNumber, Store};
use cloud_iot::tls::without_identity;
use cloud_iot::{Proxy, Session, SessionHandle};
use cloud_remote::{AccessRules, Application, HttpOptions, PlatformClock, Probe, RemoteHandle};
use cloud_shadow::{InFlightLimit, ShadowClient, ShadowConfig};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::adapters::{Bus, Platform};
use crate::broker_certificate::{BrokerCertificate, Keeper};
use crate::conductor::{Conductor, Ears, LogThrottles};
use crate::connection::{config_shadow, router, session_config};
use crate::event::Event;
use crate::hooks::{Hooks, Moment};
use crate::initialize::InitializeError;
use crate::recovery::Recovery;
use crate::registration::blocking;
use crate::remote_access::{Plan, Remote, begin, remote_config};
use crate::shadows::{self, Shadows};
use crate::status::{Link, Status};
use crate::topics::DeviceTopics;

/// The part of a stop that open connections of the public may take. The rest is for OFFLINE and the hooks.
const REMOTE_STOP: Duration = Duration::from_millis(1500);

/// The part of a stop that is left to hooks: one half for those of remote access, the other for those of the stop itself.
const HOOK_RESERVE: Duration = Duration::from_secs(1);

/// What it takes to start.
pub(crate) struct Start {
    pub(crate) serial_number: SerialNumber,
    pub(crate) store: Store,
    pub(crate) application: Option<Application>,
    pub(crate) access: AccessRules,
    pub(crate) http_options: HttpOptions,
    pub(crate) probe: Option<Probe>,
    pub(crate) broker_proxy: Option<Proxy>,
    #[cfg(feature = "durable")]
    pub(crate) outbox_directory: Option<std::path::PathBuf>,
    pub(crate) shadows: Vec<String>,
    pub(crate) hooks: Hooks,
    pub(crate) clock: PlatformClock,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) status: watch::Sender<Status>,
    /// Cancelled if whoever starts it goes away before he is told.
    pub(crate) caller_gone: CancellationToken,
}

/// What runs. Dropping it ends all of it in the background; [`Running::stop`] does so in good order.
pub(crate) struct Running {
    pub(crate) session: SessionHandle,
    pub(crate) shadow: ShadowClient,
    pub(crate) shadows: Shadows,
    pub(crate) remote: Remote,
    pub(crate) caller_gone: CancellationToken,
    conductor: JoinHandle<()>,
    ended: CancellationToken,
    /// Let go last: whoever holds it owns the directory.
    _lock: DirectoryLock,
}

/// The configuration, and the directory that is this process's from now on.
pub(crate) struct Loaded {
    lock: DirectoryLock,
    device: PartialDeviceConfig,
    #[cfg(feature = "durable")]
    outbox: Option<cloud_iot::DurableOutbox>,
}

/// Opens the outbox of this thing. A device goes without one rather than stay away from its cloud.
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
            "the outbox on disk is not as it should be"
        );
        // An error means that nobody listens.
        let _ = events.send(Event::OutboxNotStored { reason });
    }
    opened.ok()
}

impl Start {
    /// Takes the directory and loads the configuration.
    pub(crate) async fn load(&self) -> Result<Loaded, InitializeError> {
        let (store, serial_number) = (self.store.clone(), self.serial_number.clone());
        #[cfg(feature = "durable")]
        let (directory, events) = (self.outbox_directory.clone(), self.events.clone());
        blocking(move || {
            // A device without a configuration gets no directory either.
            if !store.is_provisioned().map_err(LoadError::from)? {
                return Err(LoadError::NotProvisioned(store.directory().to_owned()).into());
            }
            store.ensure_serial_number(&serial_number)?;
            let lock = store.lock()?;
            let device = store.load_partial()?.device;
            Ok(Loaded {
                #[cfg(feature = "durable")]
                outbox: directory.and_then(|path| open_outbox(&path, &device, &events)),
                lock,
                device,
            })
        })
        .await
    }

    /// Starts all parts. The conductor is yet to be started, by [`Prepared::go`].
    ///
    /// Nothing in here waits for anybody, so that there is nothing to give up half-way.
    pub(crate) async fn prepare(self, loaded: Loaded) -> Result<Prepared, InitializeError> {
        let Loaded {
            lock,
            device,
            #[cfg(feature = "durable")]
            outbox,
        } = loaded;
        let topics = DeviceTopics::new(&self.serial_number);
        let mut config = session_config(&device, &self.serial_number, &topics)?;
        config.proxy = self.broker_proxy;
        let more_shadows = shadows::ids(&device, &self.shadows)?;
        config
            .subscriptions
            .extend(shadows::subscriptions(&more_shadows)?);
        let router = router(&topics, &self.events)?;

        let (connected, disconnected) = (self.hooks.clone(), self.hooks.clone());
        let builder = Session::builder(config.clone())
            .router(router)
            .on_connect(move || {
                let hooks = connected.clone();
                async move {
                    hooks.run(Moment::IotConnected).await;
                    Ok(())
                }
            })
            .on_disconnect(move |_| {
                let hooks = disconnected.clone();
                async move {
                    hooks.run(Moment::IotDisconnected).await;
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
        let bus = Bus {
            session: session.clone(),
            lost: Arc::clone(&shadow_lost),
            clock: self.clock.clone(),
            lost_log: Arc::default(),
        };
        // The service counts the requests of a connection, whatever the shadow.
        let in_flight_limit = InFlightLimit::default();
        let shadows = Shadows::start(&bus, more_shadows, &in_flight_limit).await?;
        let config_shadow =
            ShadowConfig::new(config_shadow(&device)?).in_flight_limit(in_flight_limit);
        let shadow = ShadowClient::start(bus, config_shadow).await?;

        let platform = Platform {
            session: session.clone(),
            topics,
        };
        config.tls = without_identity(&config.tls);
        let parts = BrokerCertificate {
            platform: platform.clone(),
            session: session.clone(),
            store: self.store.clone(),
            roots: device.iot_roots.clone(),
            config,
            clock: self.clock.clone(),
        };
        let keeper = Keeper::new(&device, parts);
        let (remote, recovery) = match self.application {
            None => (Remote::none(), None),
            Some(application) => {
                let plan = Plan {
                    config: remote_config(&device),
                    access_point: device.access_point.to_string(),
                    application,
                    access: self.access,
                    http_options: self.http_options,
                    probe: self.probe,
                    clock: self.clock,
                    platform,
                    store: self.store,
                };
                begin(plan, device.remote, shadow.document()).await?
            }
        };
        let handle = remote.handle();

        let ears = Ears {
            session: session_events,
            remote: handle.as_ref().map(RemoteHandle::events),
            rotation: recovery
                .as_ref()
                .map(Recovery::rotation_status)
                .or_else(|| handle.as_ref().map(RemoteHandle::rotation_status)),
            iot_rotation: keeper.as_ref().map(Keeper::rotation_status),
            delta: shadow.delta(),
            no_more_deltas: false,
        };
        Ok(Prepared {
            conductor: Conductor {
                session,
                shadow,
                remote: handle,
                shared_remote: remote,
                shadow_lost,
                events: self.events,
                status: self.status,
                hooks: self.hooks,
                ended: CancellationToken::new(),
                throttles: LogThrottles::default(),
            },
            ears,
            keeper,
            recovery,
            shadows,
            caller_gone: self.caller_gone,
            lock,
        })
    }
}

/// All parts, started, and the conductor that is to join them.
pub(crate) struct Prepared {
    conductor: Conductor,
    ears: Ears,
    keeper: Option<Keeper>,
    recovery: Option<Recovery>,
    shadows: Shadows,
    caller_gone: CancellationToken,
    lock: DirectoryLock,
}

impl Prepared {
    /// Joins the parts, and says that it runs.
    pub(crate) fn go(self) -> Running {
        let Self {
            conductor,
            ears,
            keeper,
            recovery,
            shadows,
            caller_gone,
            lock,
        } = self;
        let mut remote = Link::default();
        if let Some(recovery) = &recovery {
            let reason = recovery.reason();
            tracing::error!("{reason}");
            remote.down(reason.clone());
            conductor.tell(Event::RemoteDisconnected { reason });
        }
        conductor.status.send_replace(Status {
            running: true,
            remote,
            certificate_serial: conductor.certificate_serial(),
            iot_certificate_serial: keeper
                .as_ref()
                .map(|keeper| keeper.status().serial.to_string()),
            ..Status::default()
        });
        Running {
            session: conductor.session.clone(),
            shadow: conductor.shadow.clone(),
            shadows,
            remote: conductor.shared_remote.clone(),
            ended: conductor.ended.clone(),
            caller_gone,
            conductor: tokio::spawn(conductor.run(ears, keeper, recovery)),
            _lock: lock,
        }
    }
}

impl Running {
    /// The tunnel first, while messaging is still there; then OFFLINE and DISCONNECT.
    pub(crate) async fn stop(mut self, deadline: Instant) {
        if let Some(remote) = &self.remote.end()
            && let Err(error) = remote.stop(REMOTE_STOP).await
        {
            tracing::warn!(%error, "remote access");
        }
        let left = deadline
            .saturating_duration_since(Instant::now())
            .saturating_sub(HOOK_RESERVE);
        let report = self.session.stop(left).await;
        if !report.clean || report.undelivered > 0 {
            tracing::warn!(
                report.clean,
                report.undelivered,
                "the session to the broker was cut"
            );
        }
        self.shadow.stop().await;
        self.shadows.stop().await;
        self.ended.cancel();
        // Ends by itself: it waits for its hooks no longer than `LAST_HOOKS`. A panic was reported by the panic hook already.
        let _ = (&mut self.conductor).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The conductor holds handles; without it they go, and what they lead to ends by itself.
        self.ended.cancel();
    }
}
