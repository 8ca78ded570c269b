//! Starting remote access, and what the one who started it can do.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::access::{AccessRules, SharedAccess};
use crate::application::Application;
use crate::clock::PlatformClock;
use crate::config::RemoteConfig;
use crate::manager::rotation::Serve;
use crate::manager::{Manager, Messaging, Orders, Parts};
use crate::probe::Probe;
use crate::rotation::{CertificateError, CheckedCertificate, Rotation};
use crate::serial::{CertificateSerial, SerialError};
use crate::serve::{Limits, Server};
use crate::slots::Slots;
use crate::source::{CertificateSource, CertificateStore, StoreError, TokenSource};
use crate::status::{EVENTS, RemoteEvent, RemoteStatus, TunnelStatus};
use crate::tasks::Tasks;
use crate::timing::Timing;
use crate::tls::CurrentCertificate;

/// The part of a stop's deadline, at most, that is kept for cutting what did not end by itself.
const CUT_RESERVE: Duration = Duration::from_secs(1);

/// Why remote access did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The relay's address makes no sense. A fault of the configuration.
    #[error("the relay's address \"{host}\" port {port} is not a host name or address with a port")]
    Relay {
        /// The host that was given.
        host: String,
        /// The port that was given.
        port: u16,
    },
    /// The access point is not a host name. A fault of the configuration.
    #[error("the access point \"{name}\" is not a host name")]
    AccessPoint {
        /// What was given.
        name: String,
    },
    /// There is nothing to serve.
    #[error("remote access was given no application to serve")]
    NoApplication,
    /// A probe was asked for, but TLS does not end here. A fault of the configuration.
    #[error(
        "a probe cannot tell whether an application with a certificate of its own is reachable"
    )]
    Probe,
    /// The certificate could not be loaded. Trying again can help.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate cannot be served.
    #[error("the stored certificate cannot be served: {0}")]
    Certificate(#[from] CertificateError),
    /// TLS could not be set up.
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Something still ran when a stop's deadline was over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("remote access did not end in time: {left} connections or tasks are left")]
pub struct StopError {
    /// How many.
    pub left: usize,
}

/// The entry: [`RemoteAccess::builder`].
#[derive(Debug)]
#[non_exhaustive]
pub struct RemoteAccess;

impl RemoteAccess {
    /// Begins to set up remote access.
    pub fn builder(config: RemoteConfig) -> RemoteAccessBuilder {
        RemoteAccessBuilder {
            config,
            application: None,
            access: AccessRules::default(),
            limits: Limits::default(),
            timing: Timing::default(),
            clock: PlatformClock::default(),
            probe: None,
        }
    }
}

/// Sets up remote access; see [`RemoteAccess::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct RemoteAccessBuilder {
    config: RemoteConfig,
    application: Option<Application>,
    access: AccessRules,
    limits: Limits,
    timing: Timing,
    clock: PlatformClock,
    probe: Option<Probe>,
}

impl RemoteAccessBuilder {
    /// What callers reach. Has to be given.
    pub fn application(mut self, application: Application) -> Self {
        self.application = Some(application);
        self
    }

    /// Who may connect. Default: everybody.
    pub fn access(mut self, access: AccessRules) -> Self {
        self.access = access;
        self
    }

    /// Bounds on what callers can take.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Time spans, for a platform with other habits than today's. Spans under 100 ms count as that.
    pub fn timing(mut self, timing: Timing) -> Self {
        self.timing = timing.sane();
        self
    }

    /// The platform's clock, where others tell it the time, too. Default: one of its own, which tokens and
    /// [`RemoteHandle::set_platform_time`] set.
    pub fn clock(mut self, clock: PlatformClock) -> Self {
        self.clock = clock;
        self
    }

    /// Looks from outside whether the device is reachable: it calls itself up through its public access point, and tells
    /// by [`RemoteEvent::Reachable`] and [`RemoteEvent::ProbeFailed`]. Default: not.
    ///
    /// The access rules have to let in the address that the device has in public. Not for [`Application::Passthrough`],
    /// whose certificate is not known here.
    pub fn probe(mut self, probe: Probe) -> Self {
        self.probe = Some(probe);
        self
    }

    /// Loads the certificate and starts. The tunnel comes up once [`RemoteHandle::set_messaging_online`] has told that
    /// the platform can be asked for a token.
    ///
    /// An expired stored certificate, or one for another name, is served all the same, with a warning: the platform
    /// may be about to replace it.
    ///
    /// # Errors
    /// [`StartError`].
    ///
    /// # Cancel safety
    /// Until it returns, nothing has been started.
    pub async fn start<T, C, S>(
        self,
        tokens: T,
        certificates: C,
        store: S,
    ) -> Result<RemoteHandle, StartError>
    where
        T: TokenSource,
        C: CertificateSource,
        S: CertificateStore,
    {
        self.config.check()?;
        let application = self.application.ok_or(StartError::NoApplication)?;
        if self.probe.is_some() && matches!(application, Application::Passthrough(_)) {
            return Err(StartError::Probe);
        }
        let certificate = CheckedCertificate::read(&store.load().await?)?;
        warn_if_doubtful(&certificate, &self.config.access_point);

        let served = CurrentCertificate::new(Arc::clone(&certificate.key));
        let access = SharedAccess::new(self.access);
        let tasks = Tasks::default();
        let server = Server::new(
            application,
            Arc::clone(&served),
            access.clone(),
            self.limits,
            tasks.clone(),
        )?;
        let server = Arc::new(server);
        let slots = server.slots();
        let (status, _) = watch::channel(RemoteStatus {
            tunnel: TunnelStatus::WaitingForToken { cause: None },
            token_valid: None,
            certificate: certificate.status(),
        });
        let (events, _) = broadcast::channel(EVENTS);
        let (online, online_orders) = watch::channel(Messaging::default());
        let (desired, desired_orders) = watch::channel(None);
        let (stop, kill, ended) = (
            CancellationToken::new(),
            CancellationToken::new(),
            CancellationToken::new(),
        );
        let clock = self.clock;
        let inner = Inner {
            clock: clock.clone(),
            online,
            desired,
            access,
            slots,
            server: Arc::downgrade(&server),
            probing: self.probe.is_some(),
            status: status.subscribe(),
            events: events.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            kill: kill.clone(),
            ended: ended.clone(),
        };
        let replacement = Serve {
            source: certificates,
            store,
            served: Arc::clone(&served),
            access_point: self.config.access_point.clone(),
            clock: clock.clone(),
        };
        let parts = Parts {
            config: self.config,
            timing: self.timing,
            clock,
            probe: self.probe,
            tokens: Arc::new(tokens),
            rotation: Rotation::new("remote access", replacement, certificate.serial),
            server,
            served,
            tasks,
            status,
            events,
        };
        let manager = Manager::new(parts);
        let orders = Orders {
            online: online_orders,
            desired: desired_orders,
            stop,
            kill,
        };
        let guard = ended.drop_guard();
        tokio::spawn(async move {
            manager.run(orders).await;
            drop(guard);
        });
        Ok(RemoteHandle {
            inner: Arc::new(inner),
        })
    }
}

fn warn_if_doubtful(certificate: &CheckedCertificate, access_point: &str) {
    let doubts = certificate
        .check_dates(time::OffsetDateTime::now_utc())
        .and_then(|()| certificate.check_name(access_point));
    if let Err(error) = doubts {
        tracing::warn!(%error, "the stored certificate will not satisfy callers; it is served until a better one comes");
    }
}

/// Controls and watches remote access while it runs. Clones are the same one. When the last is dropped, remote access
/// ends at once; [`RemoteHandle::stop`] ends it in good order.
#[derive(Debug, Clone)]
pub struct RemoteHandle {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: PlatformClock,
    online: watch::Sender<Messaging>,
    desired: watch::Sender<Option<CertificateSerial>>,
    access: SharedAccess,
    slots: Slots,
    /// Its end closes what it keeps open, so it must not be held here.
    server: Weak<Server>,
    probing: bool,
    status: watch::Receiver<RemoteStatus>,
    events: broadcast::Sender<RemoteEvent>,
    tasks: Tasks,
    stop: CancellationToken,
    kill: CancellationToken,
    ended: CancellationToken,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.kill.cancel();
        self.stop.cancel();
    }
}

impl RemoteHandle {
    /// Tells whether the platform can be asked for tokens and certificates. It cannot at the start.
    ///
    /// A change to `false` gives up the requests that are under way; their answers would come on a connection that is
    /// gone. The tunnel stays.
    pub fn set_messaging_online(&self, online: bool) {
        self.inner
            .online
            .send_if_modified(|messaging| messaging.set(online));
    }

    /// Tells which certificate the platform wishes to be served, by its serial number in decimal. If it is another than
    /// the one that is served, it is asked for, checked, stored and served.
    ///
    /// # Errors
    /// [`SerialError`] if this is not a serial number in decimal; then nothing changes.
    pub fn desired_serial(&self, serial: &str) -> Result<(), SerialError> {
        self.desired(serial.parse()?);
        Ok(())
    }

    /// The same with a serial number that is one.
    pub fn desired(&self, serial: CertificateSerial) {
        self.inner.desired.send_replace(Some(serial));
    }

    /// Tells that the platform wishes for no certificate any more: none is asked for from now on. One that is being stored
    /// already is served, and stays. That is not the same as a wish for the one that is served now, which would be asked for
    /// again after it.
    pub fn undesired(&self) {
        self.inner.desired.send_replace(None);
    }

    /// Tells what time it is by the platform's clock, in Unix seconds, for instance from an answer over HTTPS or a shadow's
    /// timestamp. From then on, tokens and certificates are judged by that, carried on by a clock that only goes forward,
    /// whatever the wall clock says. Each token tells it anew, so this helps where something has to be judged before the
    /// first one comes, or where tokens do not say when they were made.
    pub fn set_platform_time(&self, unix: i64) {
        self.inner.clock.told(unix);
    }

    /// Replaces the rules for who may connect. They hold for new connections; those that are open stay.
    pub fn set_access(&self, rules: AccessRules) {
        self.inner.access.set(rules);
    }

    /// Serves another application, to connections that are made from now on. Those that are open go on with the one that they
    /// have begun with. Without effect once remote access is being stopped.
    ///
    /// # Errors
    /// [`StartError::Probe`] or [`StartError::Tls`]; then nothing changes.
    pub fn set_application(&self, application: Application) -> Result<(), StartError> {
        if self.inner.probing && matches!(application, Application::Passthrough(_)) {
            return Err(StartError::Probe);
        }
        if let Some(server) = self.inner.server.upgrade() {
            server.set_application(application)?;
        }
        Ok(())
    }

    /// The state of remote access, now and on each change.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RemoteStatus> {
        self.inner.status.clone()
    }

    /// What happens from now on. A reader who falls more than 64 events behind loses the oldest ones.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<RemoteEvent> {
        self.inner.events.subscribe()
    }

    /// How many public connections are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.inner.slots.in_use()
    }

    /// Ends remote access: no new connections; those that are open may end by themselves for most of `deadline`, and
    /// are cut then. Upgraded ones (WebSockets), which would go on for ever, are cut after a second. Returns as soon as nothing is left. May be called again, and from several places.
    ///
    /// # Errors
    /// [`StopError`] if something is left at the deadline: the application holds on to an upgraded connection without
    /// reading from it. It is cut, and goes when the application looks at it.
    ///
    /// # Cancel safety
    /// Remote access ends all the same, but open connections are not cut until the handle is dropped or `stop` is
    /// called again.
    pub async fn stop(&self, deadline: Duration) -> Result<(), StopError> {
        let inner = &self.inner;
        inner.stop.cancel();
        let reserve = CUT_RESERVE.min(deadline / 4);
        let in_time =
            tokio::time::timeout(deadline.saturating_sub(reserve), inner.ended.cancelled()).await;
        if in_time.is_err() {
            inner.kill.cancel();
            let _ = tokio::time::timeout(reserve, inner.ended.cancelled()).await;
        }
        let left = inner.tasks.count() + usize::from(!inner.ended.is_cancelled());
        if left == 0 {
            Ok(())
        } else {
            Err(StopError { left })
        }
    }
}
