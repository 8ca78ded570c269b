//! The client certificate for the broker: how another one is asked for, proven, stored and put into use, and notice of its
//! end.
//!
//! Nothing goes without this certificate, so a new one has to prove itself before the old one is given up: a second
//! connection is made with it, under a client id of its own because the broker allows one connection for each, and it has to be
//! granted the device's subscriptions. Then it is stored, and the session moves to it at a quiet moment. Not before the
//! session is back is it reported: that is what lets the platform revoke the old one.
//!
//! Protocol: docs/protocol.md, "IoT messaging" (client certificate).

use std::sync::Arc;
use std::time::Duration;

use cloud_config::{Credentials, DeviceConfig, RootCertificates, Store};
use cloud_iot::{BoxError, Session, SessionConfig, SessionEvent, SessionHandle, SessionState, tls};
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

use crate::adapters::Platform;
use crate::registration::blocking;
use crate::topics::IOT_CERTIFICATE;

/// The key of the shadow that names the client certificate, in `desired` and in `reported`, and of a request for one.
pub(crate) const IOT_CERTIFICATE_KEY: &str = "iotCertSn";

/// Stands behind the thing's name in the client id of the connection that tries a new certificate out.
const PROOF: &str = "-proof";

/// For that connection to be made and to be granted its subscriptions; a slow line needs some seconds.
const PROOF_LIMIT: Duration = Duration::from_secs(60);

/// For that connection to be taken down.
const PROOF_END: Duration = Duration::from_secs(2);

/// How often the certificate's end is looked at. Its notices are days apart.
const LOOK: Duration = Duration::from_secs(3600);

/// What the keeper needs of the device and its parts.
pub(crate) struct BrokerCertificate {
    pub(crate) platform: Platform,
    pub(crate) session: SessionHandle,
    pub(crate) store: Store,
    pub(crate) roots: RootCertificates,
    /// Of the session, to be tried with another certificate. Without the key of the first one, which would stay in memory.
    pub(crate) config: SessionConfig,
    pub(crate) clock: PlatformClock,
}

impl BrokerCertificate {
    /// Connects with the new certificate beside the connection that there is.
    async fn prove(&self, tls: Arc<ClientConfig>) -> Result<(), BoxError> {
        let config = proof_config(&self.config, self.session.port(), tls);
        let session = Session::builder(config).start()?;
        let mut state = session.state();
        let settled = state.wait_for(|state| {
            matches!(
                state,
                SessionState::Online { .. } | SessionState::Waiting { .. }
            )
        });
        let proven = match timeout(PROOF_LIMIT, settled).await {
            Ok(Ok(state)) => match &*state {
                SessionState::Waiting { cause, .. } => Err(cause.to_string().into()),
                _ => Ok(()),
            },
            Ok(Err(_)) => Err("the connection's task has ended".into()),
            Err(_) => Err("no connection was made with it in time".into()),
        };
        session.stop(PROOF_END).await;
        proven
    }
}

/// For a connection beside the `session`, which holds or looks for one at `port`, with another certificate.
fn proof_config(session: &SessionConfig, port: u16, tls: Arc<ClientConfig>) -> SessionConfig {
    let mut config = session.clone();
    config.client_id.push_str(PROOF);
    config.tls = tls;
    // The proof has one attempt, so it goes where the session has found a way already.
    config.preferred_port = Some(port);
    // It speaks for nobody, and the broker is to remember nothing of it.
    (config.will, config.birth, config.goodbye) = (None, None, None);
    config.session_expiry = None;
    config
}

impl CertificateInstaller for BrokerCertificate {
    async fn request(
        &self,
        serial: &CertificateSerial,
    ) -> Result<CertificateResponse, SourceError> {
        // Digits need no escaping.
        let request = format!(r#"{{"{IOT_CERTIFICATE_KEY}":"{serial}"}}"#);
        let answer = self.platform.ask(&IOT_CERTIFICATE, request.into()).await?;
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
        self.prove(tls.clone())
            .await
            .map_err(RotationError::TrialFailed)?;
        let store = self.store.clone();
        let stored = blocking(move || store.replace_iot(&credentials));
        match timeout(STORE_TIMEOUT, stored).await {
            Ok(stored) => stored.map_err(StoreError::new)?,
            Err(_) => return Err(StoreError::new("it took too long").into()),
        }
        self.session.reconnect_with(tls);
        Ok(status)
    }
}

/// What the keeper has to tell.
pub(crate) enum News {
    Rotation(RotationOutcome),
    /// No more than so many days are left.
    Expiring(u16),
}

/// Keeps the client certificate: follows wishes, and watches its end.
pub(crate) struct Keeper {
    rotation: CertificateRotator<BrokerCertificate>,
    session: SessionHandle,
    status: CertificateStatus,
    expiry: ExpiryWatch,
    clock: PlatformClock,
    look: Instant,
    online: bool,
    /// Whether the platform has ever wished for one. Others need not be told.
    wished: bool,
    /// Whether the session has yet to connect with the newest.
    moving: bool,
}

impl Keeper {
    /// `None` for a certificate whose serial number makes no sense, which nothing can be wished in place of.
    pub(crate) fn new<R>(device: &DeviceConfig<R>, parts: BrokerCertificate) -> Option<Self> {
        let info = device.iot.info();
        let serial: CertificateSerial = info.serial.parse().ok()?;
        Some(Self {
            clock: parts.clock.clone(),
            session: parts.session.clone(),
            rotation: CertificateRotator::new("the broker", parts, serial.clone()),
            status: CertificateStatus::new(serial, info.not_before, info.not_after),
            expiry: ExpiryWatch::default(),
            look: Instant::now() + LOOK,
            online: false,
            wished: false,
            moving: false,
        })
    }

    pub(crate) fn status(&self) -> &CertificateStatus {
        &self.status
    }

    pub(crate) fn rotation_status(&self) -> watch::Receiver<RotationStatus> {
        self.rotation.status()
    }

    /// The serial number that the platform is to be told: none while it has not asked, or while the session still has the one
    /// before.
    pub(crate) fn reportable(&self) -> Option<String> {
        (self.wished && !self.moving).then(|| self.status.serial.to_string())
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
            // It may be the connection from before, or one that was being made with the old certificate.
            self.moving = self.moving && !self.session.uses_latest_tls();
        }
        if online && !self.online {
            // By now a date can be judged.
            self.look = Instant::now();
        }
        self.online = online;
        self.rotation.set_online(online);
    }

    /// The platform wishes for this one.
    pub(crate) fn desired(&mut self, serial: CertificateSerial) {
        self.wished = true;
        self.rotation.set_desired(Some(serial));
    }

    /// The platform wishes for none any more.
    pub(crate) fn undesired(&mut self) {
        self.rotation.set_desired(None);
    }

    /// Does the work as it waits. Cancel safe.
    pub(crate) async fn next(&mut self) -> News {
        loop {
            tokio::select! {
                outcome = self.rotation.next() => {
                    if let RotationOutcome::Rotated(status) = &outcome {
                        self.status = status.clone();
                        self.expiry = ExpiryWatch::default();
                        self.moving = !self.session.uses_latest_tls();
                    }
                    return News::Rotation(outcome);
                }
                () = sleep_until(self.look) => {
                    self.look = Instant::now() + LOOK;
                    let left = self.status.not_after - self.clock.now();
                    if self.online && let Some(days) = self.expiry.due(left) {
                        return News::Expiring(days);
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

    #[tokio::test]
    async fn the_proof_goes_where_the_session_gets_through() {
        let mut config = SessionConfig::new("127.0.0.1", "thing", tls());
        config.will = Some(Message::new("status", "OFFLINE"));
        config.preferred_port = Some(443);
        // It has not been polled, so it still looks where it is told to look first.
        let session = Session::builder(config.clone()).start().unwrap();
        config.preferred_port = None;
        let other = tls();
        let proof = proof_config(&config, session.port(), Arc::clone(&other));
        assert_eq!(proof.preferred_port, Some(443));
        assert_eq!(proof.client_id, "thing-proof");
        assert!(Arc::ptr_eq(&proof.tls, &other));
        assert!(proof.will.is_none() && proof.session_expiry.is_none());
        session.stop(PROOF_END).await;
        // A session with this configuration begins there.
        let proof = Session::builder(proof).start().unwrap();
        assert_eq!(proof.port(), 443);
        proof.stop(PROOF_END).await;
    }
}
