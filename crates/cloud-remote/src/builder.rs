//! The builder of remote access.

use std::sync::Arc;

use cloud_net::{Connector, Proxy};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use crate::access_record::{AccessRecord, Observer};
use crate::application::Application;
use crate::auth::{AuthLayer, AuthRules};
use crate::certificate::verify::{CertificateError, CheckedCertificate};
use crate::clock::PlatformClock;
use crate::config::RemoteConfig;
use crate::driver::certificate_rotation::ServerCertificateInstaller;
use crate::driver::{Commands, Context, Driver, SessionState};
use crate::error::StartError;
use crate::limits::Limits;
use crate::remote_access::{Inner, RemoteAccess};
use crate::request_policy::RequestPolicy;
use crate::request_policy::options::HttpOptions;
use crate::rotation::CertificateRotator;
use crate::server::access::{AccessRules, SharedAccess};
use crate::server::tls::CurrentCertificate;
use crate::server::{Server, ServerSettings};
use crate::shared_setting::SharedSetting;
use crate::status::{EVENT_CAPACITY, RemoteStatus, TunnelStatus};
use crate::task_group::TaskGroup;
use crate::timeouts::Timeouts;
use crate::traits::{CertificateSource, CertificateStore, TokenSource};
use crate::tunnel::probe::Probe;
use crate::tunnel::reconnect_cause::ReconnectCounter;
use crate::tunnel::totals::TunnelTotals;

impl RemoteAccess {
    /// Returns a builder for remote access with this configuration.
    pub fn builder(config: RemoteConfig) -> RemoteAccessBuilder {
        RemoteAccessBuilder {
            config,
            proxy: None,
            application: None,
            access: AccessRules::default(),
            auth: AuthRules::default(),
            http: HttpOptions::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            clock: PlatformClock::default(),
            probe: None,
            observer: None,
        }
    }
}

/// Configures remote access; see [`RemoteAccess::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct RemoteAccessBuilder {
    config: RemoteConfig,
    proxy: Option<Proxy>,
    application: Option<Application>,
    access: AccessRules,
    auth: AuthRules,
    http: HttpOptions,
    limits: Limits,
    timeouts: Timeouts,
    clock: PlatformClock,
    probe: Option<Probe>,
    observer: Option<Observer>,
}

impl RemoteAccessBuilder {
    /// Sets the application that callers reach. Required.
    pub fn application(mut self, application: Application) -> Self {
        self.application = Some(application);
        self
    }

    /// Connects the tunnel, and the [probe](Self::probe), through a proxy, unless it excepts the
    /// relay or the access point. Default: none, regardless of the environment; see
    /// [`Proxy::from_env`].
    pub fn proxy(mut self, proxy: Option<Proxy>) -> Self {
        self.proxy = proxy;
        self
    }

    /// Sets the access rules. Default: all callers may connect.
    pub fn access(mut self, access: AccessRules) -> Self {
        self.access = access;
        self
    }

    /// Asks callers for passwords or client certificates. Default: all requests reach the
    /// application.
    pub fn auth(mut self, rules: AuthRules) -> Self {
        self.auth = rules;
        self
    }

    /// Sets which HTTP requests reach the application, and with which headers. Default: requests
    /// for the access point, without headers that only a trusted proxy may set.
    pub fn http(mut self, http: HttpOptions) -> Self {
        self.http = http;
        self
    }

    /// Sets the limits on callers. Durations over a year are clamped to a year.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets timeouts and intervals, for a platform whose values differ from the current one.
    /// Durations are clamped to between 100 ms and a year.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts.clamped();
        self
    }

    /// Sets a shared platform clock. Default: a new one, which tokens and
    /// [`RemoteAccess::set_platform_time`] set.
    pub fn clock(mut self, clock: PlatformClock) -> Self {
        self.clock = clock;
        self
    }

    /// Enables the reachability probe: the device connects to its own public access point and
    /// reports [`RemoteEvent::Reachable`](crate::RemoteEvent::Reachable) and
    /// [`RemoteEvent::ProbeFailed`](crate::RemoteEvent::ProbeFailed). Default: disabled.
    ///
    /// The access rules must allow the device's own public address. Not available for
    /// [`Application::Passthrough`], whose certificate is not known here.
    pub fn probe(mut self, probe: Probe) -> Self {
        self.probe = Some(probe.clamped());
        self
    }

    /// Calls a function at the end of each request, of each connection without HTTP, and for each
    /// refusal, such as for an access log. It runs on the tasks of the connections, so it must
    /// neither block nor panic. Default: none, and nothing is collected.
    ///
    /// ```
    /// use cloud_remote::{AccessRecord, RemoteAccess, RemoteConfig};
    ///
    /// let config = RemoteConfig::new("relay.example.com", 443, "sn0001.ui.example.com");
    /// let builder = RemoteAccess::builder(config).on_access(|record| {
    ///     if let AccessRecord::Request(request) = record {
    ///         println!("{} {}: {:?}", request.method, request.path, request.status);
    ///     }
    /// });
    /// # drop(builder);
    /// ```
    pub fn on_access(mut self, observe: impl Fn(&AccessRecord) + Send + Sync + 'static) -> Self {
        self.observer = Some(Observer::new(observe));
        self
    }

    /// Loads the certificate and starts. The tunnel connects once
    /// [`RemoteAccess::set_messaging_online`] has reported that the platform can be reached.
    ///
    /// A stored certificate that has expired or is for another name is served all the same, with a
    /// warning: the platform may be about to replace it.
    ///
    /// # Errors
    /// [`StartError`].
    ///
    /// # Cancel safety
    /// Dropping the future before it completes starts nothing.
    pub async fn start<T, C, S>(
        self,
        tokens: T,
        certificates: C,
        store: S,
    ) -> Result<RemoteAccess, StartError>
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
        let can_be_guarded = match application {
            Application::Service(_) | Application::Forward { .. } | Application::Routes(_) => true,
            Application::ForwardTcp { .. } => self.auth.is_for_connections(),
            Application::Passthrough(_) => self.auth.is_empty(),
        };
        if !can_be_guarded {
            return Err(StartError::Auth);
        }
        let policy =
            RequestPolicy::new(&self.config, self.http).ok_or_else(|| StartError::AccessPoint {
                name: self.config.access_point.clone(),
            })?;
        let certificate = CheckedCertificate::read(&store.load().await?)?;
        if let Err(error) =
            check_stored_certificate(&certificate, &self.config.access_point, &self.clock)
        {
            tracing::warn!(%error, "callers will reject the stored certificate; it is served until a better one arrives");
        }

        let served = CurrentCertificate::new(Arc::clone(&certificate.key));
        let access = SharedAccess::new(self.access);
        let auth = AuthLayer::with_clock(self.auth, self.clock.clone());
        let tasks = TaskGroup::default();
        let server = Server::new(
            application,
            Arc::clone(&served),
            ServerSettings {
                access: access.clone(),
                auth: auth.clone(),
                policy,
                limits: self.limits,
                observer: self.observer,
            },
            tasks.clone(),
        )?;
        let server = Arc::new(server);
        let connections = server.connections();
        let (status, _) = watch::channel(RemoteStatus {
            tunnel: TunnelStatus::WaitingForToken { cause: None },
            token_valid: None,
            certificate: certificate.status(),
        });
        let reconnects = ReconnectCounter::default();
        let tunnels = TunnelTotals::default();
        let (events, _) = broadcast::channel(EVENT_CAPACITY);
        let (online, session_receiver) = watch::channel(SessionState::default());
        let (desired, desired_receiver) = watch::channel(None);
        let (stop, kill, ended) = (
            CancellationToken::new(),
            CancellationToken::new(),
            CancellationToken::new(),
        );
        let clock = self.clock;
        let installer = ServerCertificateInstaller {
            source: certificates,
            store,
            served: Arc::clone(&served),
            access_point: self.config.access_point.clone(),
            clock: clock.clone(),
        };
        let rotation = CertificateRotator::new("remote access", installer, certificate.serial);
        let connector = SharedSetting::new(Connector::new().proxy(self.proxy));
        let inner = Inner {
            config: self.config.clone(),
            connector: connector.clone(),
            clock: clock.clone(),
            online,
            desired,
            access,
            auth,
            connections,
            server: Arc::downgrade(&server),
            probing: self.probe.is_some(),
            status: status.subscribe(),
            rotation: rotation.status(),
            reconnects: reconnects.clone(),
            tunnels: tunnels.clone(),
            events: events.clone(),
            tasks: tasks.clone(),
            stop: stop.clone(),
            kill: kill.clone(),
            ended: ended.clone(),
        };
        let context = Context {
            config: self.config,
            connector,
            timeouts: self.timeouts,
            clock,
            probe: self.probe,
            tokens: Arc::new(tokens),
            rotation,
            server,
            served,
            tasks,
            status,
            reconnects,
            tunnels,
            events,
        };
        let commands = Commands {
            online: session_receiver,
            desired: desired_receiver,
            stop,
            kill,
        };
        let driver = Driver::new(context, commands);
        let guard = ended.drop_guard();
        tokio::spawn(async move {
            driver.run().await;
            drop(guard);
        });
        Ok(RemoteAccess {
            inner: Arc::new(inner),
        })
    }
}

/// Returns the reason for which callers would reject the stored certificate.
fn check_stored_certificate(
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
    fn stored_certificate_is_checked_by_platform_clock() {
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
        let error = check_stored_certificate(&certificate, name, &clock).unwrap_err();
        assert!(matches!(error, CertificateError::Expired { .. }), "{error}");
        // The device's clock is ahead of the platform's.
        clock.set((now - time::Duration::days(30)).into());
        check_stored_certificate(&certificate, name, &clock).unwrap();
        let error =
            check_stored_certificate(&certificate, "sn0002.ui.example.com", &clock).unwrap_err();
        assert!(
            matches!(error, CertificateError::WrongName { .. }),
            "{error}"
        );
    }
}
