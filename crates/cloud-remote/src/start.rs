//! Starting remote access.

use std::sync::Arc;

use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::access::{AccessRules, SharedAccess};
use crate::application::Application;
use crate::clock::PlatformClock;
use crate::config::RemoteConfig;
use crate::handle::{Inner, RemoteHandle};
use crate::http_options::HttpOptions;
use crate::limits::Limits;
use crate::manager::rotation::Serve;
use crate::manager::{Manager, Messaging, Orders, Parts};
use crate::probe::Probe;
use crate::request_policy::RequestPolicy;
use crate::rotation::{CertificateError, CheckedCertificate, Rotation};
use crate::serve::Server;
use crate::source::{CertificateSource, CertificateStore, StoreError, TokenSource};
use crate::status::{EVENTS, RemoteStatus, TunnelStatus};
use crate::tasks::Tasks;
use crate::timing::Timing;
use crate::tls::CurrentCertificate;

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
            http: HttpOptions::default(),
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
    http: HttpOptions,
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

    /// Which requests over HTTP reach the application, and with which headers. Default: those for the access point, without
    /// headers that only a trusted proxy may set.
    pub fn http(mut self, http: HttpOptions) -> Self {
        self.http = http;
        self
    }

    /// Bounds on what callers can take. Spans over a year count as that.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Time spans, for a platform with other habits than today's. Spans under 100 ms count as that, and those over a year as a
    /// year.
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
    /// by [`RemoteEvent::Reachable`](crate::RemoteEvent::Reachable) and
    /// [`RemoteEvent::ProbeFailed`](crate::RemoteEvent::ProbeFailed). Default: not.
    ///
    /// The access rules have to let in the address that the device has in public. Not for [`Application::Passthrough`],
    /// whose certificate is not known here.
    pub fn probe(mut self, probe: Probe) -> Self {
        self.probe = Some(probe.sane());
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
        let policy =
            RequestPolicy::new(&self.config, self.http).ok_or_else(|| StartError::AccessPoint {
                name: self.config.access_point.clone(),
            })?;
        let certificate = CheckedCertificate::read(&store.load().await?)?;
        if let Err(error) = doubts(&certificate, &self.config.access_point, &self.clock) {
            tracing::warn!(%error, "the stored certificate will not satisfy callers; it is served until a better one comes");
        }

        let served = CurrentCertificate::new(Arc::clone(&certificate.key));
        let access = SharedAccess::new(self.access);
        let tasks = Tasks::default();
        let server = Server::new(
            application,
            Arc::clone(&served),
            access.clone(),
            policy,
            self.limits,
            tasks.clone(),
        )?;
        let server = Arc::new(server);
        let connections = server.connections();
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
        let replacement = Serve {
            source: certificates,
            store,
            served: Arc::clone(&served),
            access_point: self.config.access_point.clone(),
            clock: clock.clone(),
        };
        let rotation = Rotation::new("remote access", replacement, certificate.serial);
        let inner = Inner {
            clock: clock.clone(),
            online,
            desired,
            access,
            connections,
            server: Arc::downgrade(&server),
            probing: self.probe.is_some(),
            status: status.subscribe(),
            rotation: rotation.status(),
            events: events.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            kill: kill.clone(),
            ended: ended.clone(),
        };
        let parts = Parts {
            config: self.config,
            timing: self.timing,
            clock,
            probe: self.probe,
            tokens: Arc::new(tokens),
            rotation,
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

/// What callers will not like about the stored certificate.
fn doubts(
    certificate: &CheckedCertificate,
    access_point: &str,
    clock: &PlatformClock,
) -> Result<(), CertificateError> {
    certificate.check_dates(clock)?;
    certificate.check_name(access_point)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certificate::CertificatePem;

    #[test]
    fn a_stored_certificate_is_doubted_by_the_platforms_clock() {
        let name = "sn0001.ui.example.com";
        let now = time::OffsetDateTime::now_utc();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = now - time::Duration::days(90);
        params.not_after = now - time::Duration::days(1);
        let chain = params.self_signed(&key).unwrap().pem();
        let pem = CertificatePem::new(chain, key.serialize_pem());
        let certificate = CheckedCertificate::read(&pem).unwrap();

        let clock = PlatformClock::default();
        let error = doubts(&certificate, name, &clock).unwrap_err();
        assert!(matches!(error, CertificateError::Expired { .. }), "{error}");
        // This device's clock is ahead.
        clock.told((now - time::Duration::days(30)).unix_timestamp());
        doubts(&certificate, name, &clock).unwrap();
        let error = doubts(&certificate, "sn0002.ui.example.com", &clock).unwrap_err();
        assert!(
            matches!(error, CertificateError::WrongName { .. }),
            "{error}"
        );
    }
}
