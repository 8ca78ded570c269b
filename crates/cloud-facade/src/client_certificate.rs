//! Rotation of the client certificate for the broker, and warnings before it expires.
//!
//! The device needs this certificate for everything, so a new one must work before it replaces the
//! old one: a second connection uses it, with a client ID of its own because the broker allows one
//! connection per ID, and must be granted the device's subscriptions. Then the certificate is
//! stored, and the session reconnects with it at an idle moment. Only after the reconnection is it
//! reported, which lets the platform revoke the old one.

use std::sync::Arc;
use std::time::Duration;

use cloud_config::{Credentials, DeviceConfig, RootCertificates, Store};
use cloud_iot::{BoxError, Session, SessionConfig, SessionEvent, SessionState, TopicFilter, tls};
use cloud_remote::rotation::{
    CertificateInstaller, CertificateRotator, RotationOutcome, STORE_TIMEOUT,
};
use cloud_remote::{
    CertificatePem, CertificateResponse, CertificateSerial, CertificateStatus, ExpiryWatch,
    PlatformClock, RotationError, RotationStatus, SourceError, StoreError,
    verify_client_certificate,
};
use rustls::ClientConfig;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use crate::adapters::PlatformClient;
use crate::tasks::spawn_blocking;
use crate::topics::{IOT_CERTIFICATE, IOT_CERTIFICATE_KEY};

/// Suffix of the thing's name in the client ID of the trial connection.
const TRIAL_SUFFIX: &str = "-proof";

/// Time limit for the trial connection and its subscriptions; a slow network needs some seconds.
const TRIAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Time limit for closing the trial connection.
const TRIAL_STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval of the expiry check. Its warnings are days apart.
const EXPIRY_CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// Requests and installs a new client certificate.
pub(crate) struct ClientCertificateInstaller {
    pub(crate) platform: PlatformClient,
    pub(crate) session: Session,
    pub(crate) store: Store,
    pub(crate) roots: RootCertificates,
    /// The session's configuration, for the trial connection. Without the first key, which would
    /// stay in memory.
    pub(crate) config: SessionConfig,
    pub(crate) clock: PlatformClock,
}

impl ClientCertificateInstaller {
    /// Connects with the new certificate while the session stays connected.
    async fn try_connect(&self, tls: Arc<ClientConfig>) -> Result<(), BoxError> {
        let mut config = trial_config(&self.config, self.session.port(), tls);
        config.proxy = self.session.proxy();
        let session = Session::builder(config).start()?;
        let mut state = session.state();
        let settled = state.wait_for(|state| {
            matches!(
                state,
                SessionState::Online { .. } | SessionState::Waiting { .. }
            )
        });
        let result = match timeout(TRIAL_TIMEOUT, settled).await {
            Ok(Ok(state)) => match &*state {
                SessionState::Waiting { cause, .. } => Err(cause.to_string().into()),
                _ => self.check_subscriptions(&session.refused_subscriptions()),
            },
            Ok(Err(_)) => Err("the connection's task has ended".into()),
            Err(_) => Err("the trial connection timed out".into()),
        };
        session.stop(TRIAL_STOP_TIMEOUT).await;
        result
    }

    /// Checks that the new certificate gets every subscription that the session has, the optional
    /// ones too. What a session without a connection would get is not known.
    fn check_subscriptions(&self, refused: &[TopicFilter]) -> Result<(), BoxError> {
        let session = self.session.refused_subscriptions();
        let online = self.session.state().borrow().is_online();
        match newly_refused(refused, &session).filter(|_| online) {
            Some(filter) => Err(format!(
                "the broker refuses the subscription to {filter}, which the present certificate \
                 has; extend the policy of the new certificate"
            )
            .into()),
            None => Ok(()),
        }
    }
}

/// Returns a subscription that is refused to the trial connection and not to the session.
fn newly_refused<'a>(trial: &'a [TopicFilter], session: &[TopicFilter]) -> Option<&'a TopicFilter> {
    trial.iter().find(|filter| !session.contains(filter))
}

/// Returns the configuration of a trial connection, with the port that the session uses.
fn trial_config(session: &SessionConfig, port: u16, tls: Arc<ClientConfig>) -> SessionConfig {
    let mut config = session.clone();
    config.client_id.push_str(TRIAL_SUFFIX);
    config.tls = tls;
    // The trial has one attempt, so it uses the port that works for the session.
    config.preferred_port = Some(port);
    // It publishes no status and leaves no session state at the broker.
    (config.will, config.birth, config.goodbye) = (None, None, None);
    (config.session_expiry, config.will_delay) = (None, None);
    config
}

impl CertificateInstaller for ClientCertificateInstaller {
    async fn request(
        &self,
        serial: &CertificateSerial,
    ) -> Result<CertificateResponse, SourceError> {
        // A serial number consists of digits, which need no escaping.
        let request = format!(r#"{{"{IOT_CERTIFICATE_KEY}":"{serial}"}}"#);
        let answer = self
            .platform
            .request_bytes(&IOT_CERTIFICATE, request.into())
            .await?;
        Ok(CertificateResponse::from_json(&answer)?)
    }

    async fn install(
        &self,
        certificate: CertificatePem,
        wanted: &CertificateSerial,
    ) -> Result<CertificateStatus, RotationError> {
        let status = verify_client_certificate(&certificate, wanted, &self.clock)?;
        let credentials = Credentials::from_pem(certificate.chain(), certificate.key())
            .map_err(StoreError::new)?;
        let roots = self.roots.certificates().iter().cloned();
        let tls = tls::client_config(roots, credentials.chain().to_vec(), credentials.key())
            .map_err(|error| RotationError::TrialFailed(error.into()))?;
        self.try_connect(tls.clone())
            .await
            .map_err(RotationError::TrialFailed)?;
        let store = self.store.clone();
        let stored = spawn_blocking(move || store.replace_iot(&credentials));
        match timeout(STORE_TIMEOUT, stored).await {
            Ok(stored) => stored.map_err(StoreError::new)?,
            Err(_) => return Err(StoreError::new("it took too long").into()),
        }
        self.session.reconnect_with(tls);
        Ok(status)
    }
}

/// Events of [`ClientCertificateRotator`].
pub(crate) enum RotatorEvent {
    Rotation(RotationOutcome),
    /// At most this many days are left.
    Expiring(u16),
}

/// Rotates the client certificate when the platform desires another one, and checks its expiry.
pub(crate) struct ClientCertificateRotator {
    rotation: CertificateRotator<ClientCertificateInstaller>,
    session: Session,
    status: CertificateStatus,
    expiry: ExpiryWatch,
    clock: PlatformClock,
    next_expiry_check: Instant,
    online: bool,
    /// Whether the platform has ever desired a certificate. If not, none is reported.
    was_requested: bool,
    /// Whether the session has not connected with the newest certificate yet.
    reconnect_pending: bool,
}

impl ClientCertificateRotator {
    /// Returns `None` for a certificate with an invalid serial number, which cannot be rotated.
    pub(crate) fn new<R>(
        device: &DeviceConfig<R>,
        parts: ClientCertificateInstaller,
    ) -> Option<Self> {
        let info = device.iot.info();
        let serial: CertificateSerial = info.serial.parse().ok()?;
        Some(Self {
            clock: parts.clock.clone(),
            session: parts.session.clone(),
            rotation: CertificateRotator::new("the broker", parts, serial.clone()),
            status: CertificateStatus::new(serial, info.not_before, info.not_after),
            expiry: ExpiryWatch::default(),
            next_expiry_check: Instant::now() + EXPIRY_CHECK_INTERVAL,
            online: false,
            was_requested: false,
            reconnect_pending: false,
        })
    }

    pub(crate) fn status(&self) -> &CertificateStatus {
        &self.status
    }

    pub(crate) fn rotation_status(&self) -> watch::Receiver<RotationStatus> {
        self.rotation.status()
    }

    /// Returns the serial number to report: `None` if the platform desires none, or while the
    /// session uses the previous certificate.
    pub(crate) fn reportable(&self) -> Option<String> {
        (self.was_requested && !self.reconnect_pending).then(|| self.status.serial.to_string())
    }

    pub(crate) fn session_event(&mut self, event: &SessionEvent) {
        match event {
            SessionEvent::Connected => self.set_online(true),
            SessionEvent::Disconnected { .. } => self.set_online(false),
            _ => {}
        }
    }

    pub(crate) fn set_online(&mut self, online: bool) {
        if online {
            // The session may still be connected, or connecting, with the old certificate.
            self.reconnect_pending = self.reconnect_pending && !self.session.uses_latest_tls();
        }
        if online && !self.online {
            // The platform's clock is known now.
            self.next_expiry_check = Instant::now();
        }
        self.online = online;
        self.rotation.set_online(online);
    }

    /// Sets or clears the desired certificate.
    pub(crate) fn set_desired(&mut self, serial: Option<CertificateSerial>) {
        self.was_requested |= serial.is_some();
        self.rotation.set_desired(serial);
    }

    /// Waits for the next event and performs rotations. Cancel safe.
    pub(crate) async fn next(&mut self) -> RotatorEvent {
        loop {
            tokio::select! {
                outcome = self.rotation.next() => {
                    if let RotationOutcome::Rotated(status) = &outcome {
                        self.status = status.clone();
                        self.expiry = ExpiryWatch::default();
                        self.reconnect_pending = !self.session.uses_latest_tls();
                    }
                    return RotatorEvent::Rotation(outcome);
                }
                () = sleep_until(self.next_expiry_check) => {
                    self.next_expiry_check = Instant::now() + EXPIRY_CHECK_INTERVAL;
                    let left = self.status.not_after.duration_since(self.clock.now());
                    if self.online && let Some(days) = self.expiry.due(left.unwrap_or_default()) {
                        return RotatorEvent::Expiring(days);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cloud_iot::Message;

    use super::*;

    fn tls() -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        Arc::new(config)
    }

    #[test]
    fn lost_subscription_is_found() {
        let filters = |names: &[&str]| -> Vec<TopicFilter> {
            names.iter().map(|name| name.parse().unwrap()).collect()
        };
        let lost = |trial: &[&str], session: &[&str]| {
            newly_refused(&filters(trial), &filters(session)).map(ToString::to_string)
        };
        assert_eq!(lost(&[], &["a"]), None);
        assert_eq!(lost(&["a"], &["b", "a"]), None);
        assert_eq!(lost(&["a", "b/#"], &["a"]).as_deref(), Some("b/#"));
    }

    #[tokio::test]
    async fn trial_connection_uses_port_of_session() {
        let mut config = SessionConfig::new("127.0.0.1", "thing", tls());
        config.will = Some(Message::new("status", "OFFLINE"));
        config.preferred_port = Some(443);
        // The session is not polled, so it keeps its preferred port.
        let session = Session::builder(config.clone()).start().unwrap();
        config.preferred_port = None;
        let other = tls();
        let proof = trial_config(&config, session.port(), Arc::clone(&other));
        assert_eq!(proof.preferred_port, Some(443));
        assert_eq!(proof.client_id, "thing-proof");
        assert!(Arc::ptr_eq(&proof.tls, &other));
        assert!(proof.will.is_none() && proof.session_expiry.is_none());
        session.stop(TRIAL_STOP_TIMEOUT).await;
        // A session with this configuration starts with that port.
        let proof = Session::builder(proof).start().unwrap();
        assert_eq!(proof.port(), 443);
        proof.stop(TRIAL_STOP_TIMEOUT).await;
    }
}
