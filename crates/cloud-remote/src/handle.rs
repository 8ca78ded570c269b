//! What the one who started remote access can do with it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::application::Application;
use crate::certificate::serial::{CertificateSerial, SerialError};
use crate::clock::PlatformClock;
use crate::driver::SessionState;
use crate::error::{StartError, StopError};
use crate::limits::connection_limit::ConnectionLimiter;
use crate::rotation::RotationStatus;
use crate::server::Server;
use crate::server::access::{AccessRules, SharedAccess};
use crate::status::{RemoteEvent, RemoteStatus};
use crate::task_group::TaskGroup;

/// The part of a stop's deadline, at most, that is kept for cutting what did not end by itself.
const CUT_RESERVE: Duration = Duration::from_secs(1);

/// Controls and watches remote access while it runs. Clones are the same one. When the last is dropped, remote access
/// ends at once; [`RemoteHandle::stop`] ends it in good order.
#[derive(Debug, Clone)]
pub struct RemoteHandle {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) clock: PlatformClock,
    pub(crate) online: watch::Sender<SessionState>,
    pub(crate) desired: watch::Sender<Option<CertificateSerial>>,
    pub(crate) access: SharedAccess,
    pub(crate) connections: ConnectionLimiter,
    /// Its end closes what it keeps open, so it must not be held here.
    pub(crate) server: Weak<Server>,
    pub(crate) probing: bool,
    pub(crate) status: watch::Receiver<RemoteStatus>,
    pub(crate) rotation: watch::Receiver<RotationStatus>,
    pub(crate) events: broadcast::Sender<RemoteEvent>,
    pub(crate) tasks: TaskGroup,
    pub(crate) stop: CancellationToken,
    pub(crate) kill: CancellationToken,
    pub(crate) ended: CancellationToken,
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
    pub fn set_desired_serial(&self, serial: &str) -> Result<(), SerialError> {
        self.set_desired(Some(serial.parse()?));
        Ok(())
    }

    /// The same with a serial number that is one.
    ///
    /// Requests are rate limited: two in succession are seconds apart, and those of a flood a quarter of an hour. The newest
    /// wins; see [`rotation_status`](Self::rotation_status).
    pub fn set_desired(&self, serial: Option<CertificateSerial>) {
        self.inner.desired.send_replace(serial);
    }

    /// Tells what time it is by the platform's clock, in Unix seconds, for instance from an answer over HTTPS or a shadow's
    /// timestamp. From then on, tokens and certificates are judged by that, carried on by a clock that only goes forward,
    /// whatever the wall clock says. Each token tells it anew, so this helps where something has to be judged before the
    /// first one comes, or where tokens do not say when they were made.
    pub fn set_platform_time(&self, unix: i64) {
        self.inner.clock.set(unix);
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

    /// How far the rotation to the [desired](Self::desired) certificate is, now and on each change.
    #[must_use]
    pub fn rotation_status(&self) -> watch::Receiver<RotationStatus> {
        self.inner.rotation.clone()
    }

    /// What happens from now on. A reader who falls more than 64 events behind loses the oldest ones.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<RemoteEvent> {
        self.inner.events.subscribe()
    }

    /// How many public connections are open.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.inner.connections.in_use()
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
