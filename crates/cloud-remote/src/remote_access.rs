//! Running remote access.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use cloud_net::{Connector, Proxy};
use snitun::TunnelStats;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::application::Application;
use crate::auth::{AuthLayer, AuthRules};
use crate::certificate::serial::{CertificateSerial, SerialError};
use crate::clock::PlatformClock;
use crate::config::RemoteConfig;
use crate::driver::SessionState;
use crate::error::{StartError, StopError};
use crate::limits::Limits;
use crate::limits::connection_limit::ConnectionLimiter;
use crate::request_policy::RequestPolicy;
use crate::request_policy::options::HttpOptions;
use crate::rotation::RotationStatus;
use crate::server::Server;
use crate::server::access::{AccessRules, SharedAccess};
use crate::shared_setting::SharedSetting;
use crate::status::{RemoteEvent, RemoteStatus};
use crate::task_group::TaskGroup;
use crate::traffic::{Traffic, Visitor};
use crate::tunnel::reconnect_cause::{ReconnectCause, ReconnectCounter};
use crate::tunnel::totals::TunnelTotals;
use crate::upstream::Upstream;
use crate::upstream::health::UpstreamHealth;

/// The maximum part of a stop's deadline that is reserved for closing the remaining connections.
const CUT_RESERVE: Duration = Duration::from_secs(1);

/// The shortest deadline of [`RemoteAccess::stop`] that gives each part its time: a second for idle
/// and upgraded connections, then the rest for closing by force what is still open. An earlier
/// deadline is kept, too, but may be reported as [`StopError`] although everything ends.
pub const MIN_STOP_DEADLINE: Duration = Duration::from_millis(1_440);

/// Returns the part of a stop's deadline that is reserved for closing the remaining connections.
fn cut_reserve(deadline: Duration) -> Duration {
    CUT_RESERVE.min(deadline / 4)
}

/// A handle to running remote access, which controls and observes it. Clones share it. When the
/// last clone is dropped, remote access ends at once; [`RemoteAccess::stop`] ends it gracefully.
#[derive(Debug, Clone)]
pub struct RemoteAccess {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: RemoteConfig,
    pub(crate) connector: SharedSetting<Connector>,
    pub(crate) clock: PlatformClock,
    pub(crate) online: watch::Sender<SessionState>,
    pub(crate) desired: watch::Sender<Option<CertificateSerial>>,
    pub(crate) access: SharedAccess,
    pub(crate) auth: AuthLayer,
    pub(crate) connections: ConnectionLimiter,
    /// A strong reference would keep the server's pooled connections open after a stop.
    pub(crate) server: Weak<Server>,
    pub(crate) probing: bool,
    pub(crate) status: watch::Receiver<RemoteStatus>,
    pub(crate) rotation: watch::Receiver<RotationStatus>,
    pub(crate) reconnects: ReconnectCounter,
    pub(crate) tunnels: TunnelTotals,
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

impl RemoteAccess {
    /// Reports whether the platform can be reached for tokens and certificates. Initially `false`.
    ///
    /// A change to `false` cancels the requests in progress, because their responses would arrive
    /// on the lost connection. The tunnel stays.
    pub fn set_messaging_online(&self, online: bool) {
        self.inner
            .online
            .send_if_modified(|messaging| messaging.set(online));
    }

    /// Sets the certificate that the platform desires, by its decimal serial number; see
    /// [`set_desired`](Self::set_desired).
    ///
    /// # Errors
    /// [`SerialError`] if `serial` is not a decimal serial number. Nothing changes then.
    pub fn set_desired_serial(&self, serial: &str) -> Result<(), SerialError> {
        self.set_desired(Some(serial.parse()?));
        Ok(())
    }

    /// Sets the certificate that the platform desires, or `None` for no desired certificate. A
    /// certificate other than the one that is served is requested, verified, stored and served.
    ///
    /// With `None`, no certificate is requested; one that is being stored is still served, and
    /// stays. (The serial number of the certificate in use, in contrast, would be requested again
    /// after that one.)
    ///
    /// Requests are rate limited: two in succession are seconds apart, those of a flood a quarter
    /// of an hour. The newest serial number wins; see [`rotation_status`](Self::rotation_status).
    pub fn set_desired(&self, serial: Option<CertificateSerial>) {
        self.inner.desired.send_replace(serial);
    }

    /// Sets the platform's clock, for example from an HTTPS response or a shadow's
    /// timestamp. Tokens and certificates are checked by it from then on, independently of the wall
    /// clock. Each token sets it again, so this helps where a date is checked before the first
    /// token arrives, or where tokens do not contain their issue time.
    pub fn set_platform_time(&self, time: SystemTime) {
        self.inner.clock.set(time);
    }

    /// Replaces the access rules for new connections. Open connections stay.
    pub fn set_access(&self, rules: AccessRules) {
        self.inner.access.set(rules);
    }

    /// Replaces what callers have to show, for the next requests. Open connections of HTTP have to
    /// show it with their next request; upgraded ones (WebSockets) and plain TCP continue. A
    /// certificate needs a new connection if the open one began without a rule for certificates.
    ///
    /// New connections are closed if the rules cannot be enforced for the kind of application
    /// ([`StartError::Auth`]). Where both are replaced, set the stricter rules before the
    /// application, and less strict ones after it.
    pub fn set_auth(&self, rules: AuthRules) {
        self.inner.auth.set(rules);
    }

    /// Replaces the limits: timeouts for new connections and requests, numbers at once. Open
    /// connections stay, also beyond a lower number.
    pub fn set_limits(&self, limits: Limits) {
        if let Some(server) = self.inner.server.upgrade() {
            server.set_limits(limits);
        }
    }

    /// Replaces the HTTP options for later requests, also on open connections.
    pub fn set_http(&self, http: HttpOptions) {
        let policy = RequestPolicy::new(&self.inner.config, http);
        if let (Some(server), Some(policy)) = (self.inner.server.upgrade(), policy) {
            server.set_policy(policy);
        }
    }

    /// Replaces the proxy for later connections. The tunnel in use stays.
    pub fn set_proxy(&self, proxy: Option<Proxy>) {
        self.inner.connector.set(Connector::new().proxy(proxy));
    }

    /// Returns the access rules for new connections.
    #[must_use]
    pub fn access(&self) -> AccessRules {
        self.inner.access.get()
    }

    /// Serves another application to new connections. Open connections continue with theirs. Has no
    /// effect once remote access is being stopped.
    ///
    /// # Errors
    /// [`StartError::Probe`] or [`StartError::Tls`]. Nothing changes then.
    pub fn set_application(&self, application: Application) -> Result<(), StartError> {
        if self.inner.probing && matches!(application, Application::Passthrough(_)) {
            return Err(StartError::Probe);
        }
        if let Some(server) = self.inner.server.upgrade() {
            server.set_application(application)?;
        }
        Ok(())
    }

    /// Returns a receiver of the state of remote access.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RemoteStatus> {
        self.inner.status.clone()
    }

    /// Returns a receiver of the state of the rotation to the [desired](Self::set_desired)
    /// certificate.
    #[must_use]
    pub fn rotation_status(&self) -> watch::Receiver<RotationStatus> {
        self.inner.rotation.clone()
    }

    /// Subscribes to events. A receiver that lags by more than 64 events loses the oldest ones.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<RemoteEvent> {
        self.inner.events.subscribe()
    }

    /// Returns how often the tunnel had to be connected again because of this, since the start.
    #[must_use]
    pub fn reconnects(&self, cause: ReconnectCause) -> u64 {
        self.inner.reconnects.get(cause)
    }

    /// Returns the counters of all tunnels since the start.
    #[must_use]
    pub fn tunnel_stats(&self) -> TunnelStats {
        self.inner.tunnels.stats()
    }

    /// Returns the number of open public connections.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.inner.connections.in_use()
    }

    /// Returns the traffic of public connections since the start.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.inner.connections.traffic()
    }

    /// Returns the visitors that have connections open, by address.
    #[must_use]
    pub fn visitors(&self) -> Vec<Visitor> {
        self.inner.connections.visitors()
    }

    /// Returns the failures of the local application that [`Application::Forward`] and the other
    /// forwarding variants have met. Empty for [`Application::Service`].
    #[must_use]
    pub fn upstream_health(&self) -> UpstreamHealth {
        let server = self.inner.server.upgrade();
        server.map_or_else(UpstreamHealth::default, |server| {
            server.upstream_health().snapshot()
        })
    }

    /// Returns the failures of one of several local applications, from [`Application::Routes`].
    /// Empty for one that is not served any more.
    #[must_use]
    pub fn upstream_health_of(&self, upstream: &Upstream) -> UpstreamHealth {
        let server = self.inner.server.upgrade();
        server.map_or_else(UpstreamHealth::default, |server| {
            server.upstream_health().snapshot_of(upstream)
        })
    }

    /// Returns a receiver that is notified when a local application fails in another way than
    /// before, or answers again; [`upstream_health_of`](Self::upstream_health_of) has the state. It
    /// is closed once remote access has stopped.
    #[must_use]
    pub fn upstream_changes(&self) -> watch::Receiver<()> {
        let server = self.inner.server.upgrade();
        server.map_or_else(
            || watch::channel(()).1,
            |server| server.upstream_health().changes(),
        )
    }

    /// Stops remote access: accepts no new connections, lets open ones finish for most of
    /// `deadline`, then closes them. Upgraded connections (WebSockets) do not end on their own and
    /// are closed after a second. Returns as soon as nothing is open. Several calls, also
    /// concurrent ones, are allowed.
    ///
    /// # Errors
    /// [`StopError`] if the application still holds an upgraded connection at the deadline without
    /// reading from it. The connection is closed, and ends when the application uses it.
    ///
    /// # Cancel safety
    /// Remote access stops all the same, but open connections are not closed until the handle is
    /// dropped or `stop` is called again.
    pub async fn stop(&self, deadline: Duration) -> Result<(), StopError> {
        let inner = &self.inner;
        inner.stop.cancel();
        let reserve = cut_reserve(deadline);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::shutdown::{CUT_TIMEOUT, UPGRADED_GRACE};
    use crate::server::http::CLOSE_GRACE;

    #[test]
    fn shortest_stop_deadline_has_time_for_each_part() {
        let reserve = cut_reserve(MIN_STOP_DEADLINE);
        assert!(CUT_TIMEOUT * 2 <= reserve);
        assert!(UPGRADED_GRACE.max(CLOSE_GRACE) <= MIN_STOP_DEADLINE - reserve);
    }
}
