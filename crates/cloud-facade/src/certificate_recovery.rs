//! Recovery of a damaged certificate for remote access.
//!
//! A device whose certificate or key for remote access is missing, truncated or mismatched can
//! still use messaging, and the platform can send the certificate again. The request is that of a
//! rotation, with the serial number that the platform desires, or else the one that the device has
//! last reported. The response is verified and stored, and remote access starts with it.

use std::sync::{Arc, Mutex, PoisonError};

use cloud_config::{Credentials, Store};
use cloud_remote::rotation::{
    CertificateInstaller, CertificateRotator, RotationOutcome, STORE_TIMEOUT,
};
use cloud_remote::{
    CertificatePem, CertificateRequest, CertificateResponse, CertificateSerial, CertificateSource,
    CertificateStatus, PlatformClock, RotationError, RotationStatus, SourceError, StoreError,
    verify_server_certificate,
};
use cloud_shadow::Document;
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::adapters::PlatformClient;
use crate::tasks::spawn_blocking;
use crate::topics::CERTIFICATE_KEY;

/// Requests a certificate until one is installed.
pub(crate) struct CertificateRecovery<P: CertificateSource = PlatformClient> {
    rotation: CertificateRotator<RecoveryInstaller<P>>,
    document: Option<watch::Receiver<Option<Document>>>,
    damage: String,
    installed: Installed,
}

/// The credentials stored last.
pub(crate) type Installed = Arc<Mutex<Option<Credentials>>>;

impl<P: CertificateSource> CertificateRecovery<P> {
    /// Creates the recovery. `damage` describes the problem; `document` is the shadow's, not read
    /// yet.
    pub(crate) fn new(
        installer: RecoveryInstaller<P>,
        damage: String,
        document: watch::Receiver<Option<Document>>,
    ) -> Self {
        let installed = Arc::clone(&installer.installed);
        // No certificate has the serial number 0 (RFC 5280, section 4.1.2.2), so any desired one
        // differs.
        Self {
            rotation: CertificateRotator::new("remote access", installer, 0.into()),
            document: Some(document),
            damage,
            installed,
        }
    }

    /// Returns why there is no remote access, for log, status and host.
    pub(crate) fn reason(&self) -> String {
        format!(
            "no certificate for remote access until the platform sends one: {}",
            self.damage
        )
    }

    pub(crate) fn set_online(&mut self, online: bool) {
        self.rotation.set_online(online);
    }

    pub(crate) fn rotation_status(&self) -> watch::Receiver<RotationStatus> {
        self.rotation.status()
    }

    /// Waits for the next attempt and performs it. Cancel safe.
    pub(crate) async fn next(&mut self) -> RotationOutcome {
        loop {
            tokio::select! {
                outcome = self.rotation.next() => return outcome,
                known = changed(&mut self.document) => match known {
                    Some(document) => {
                        let desired = document
                            .as_ref()
                            .and_then(|it| wanted(&it.desired, &it.reported));
                        self.rotation.set_desired(desired);
                    }
                    // The session is stopping.
                    None => self.document = None,
                }
            }
        }
    }

    /// Returns the stored credentials.
    pub(crate) fn installed(&self) -> Option<Credentials> {
        let installed = self.installed.lock();
        installed.unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Waits for a change of the shadow's document; `None` when it can no longer change.
async fn changed(
    document: &mut Option<watch::Receiver<Option<Document>>>,
) -> Option<Option<Document>> {
    match document {
        Some(document) => {
            document.changed().await.ok()?;
            Some(document.borrow_and_update().clone())
        }
        None => std::future::pending().await,
    }
}

/// Returns the certificate to request, according to these sections of the shadow.
fn wanted(
    desired: &Map<String, Value>,
    reported: &Map<String, Value>,
) -> Option<CertificateSerial> {
    let named = |section: &Map<String, Value>| section.get(CERTIFICATE_KEY)?.as_str()?.parse().ok();
    named(desired).or_else(|| named(reported))
}

/// Requests and installs a certificate when there is none to replace.
pub(crate) struct RecoveryInstaller<P> {
    pub(crate) platform: P,
    pub(crate) store: Store,
    pub(crate) access_point: String,
    pub(crate) clock: PlatformClock,
    pub(crate) installed: Installed,
}

impl<P: CertificateSource> CertificateInstaller for RecoveryInstaller<P> {
    async fn request(
        &self,
        serial: &CertificateSerial,
    ) -> Result<CertificateResponse, SourceError> {
        let request = CertificateRequest::new(serial.clone());
        self.platform.request_certificate(request).await
    }

    async fn install(
        &self,
        certificate: CertificatePem,
        wanted: &CertificateSerial,
    ) -> Result<CertificateStatus, RotationError> {
        let status =
            verify_server_certificate(&certificate, wanted, &self.access_point, &self.clock)?;
        let credentials = Credentials::from_pem(certificate.chain(), certificate.key())
            .map_err(StoreError::new)?;
        let (store, stored) = (self.store.clone(), credentials.clone());
        let stored = spawn_blocking(move || store.replace_remote(&stored));
        match timeout(STORE_TIMEOUT, stored).await {
            Ok(stored) => stored.map_err(StoreError::new)?,
            Err(_) => return Err(StoreError::new("it took too long").into()),
        }
        let mut installed = self
            .installed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *installed = Some(credentials);
        Ok(status)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    mockall::mock! {
        Platform {}
        impl CertificateSource for Platform {
            fn request_certificate(
                &self,
                request: CertificateRequest,
            ) -> impl Future<Output = Result<CertificateResponse, SourceError>> + Send;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn desired_certificate_is_requested_once_connected() {
        let mut platform = MockPlatform::new();
        platform
            .expect_request_certificate()
            .withf(|request| String::from_utf8_lossy(&request.to_json()).contains(r#""7""#))
            .times(1)
            .returning(|_| Box::pin(async { Err(SourceError::TimedOut) }));
        let installer = RecoveryInstaller {
            platform,
            store: Store::new("/nonexistent"),
            access_point: "sn1.ui.example.com".to_owned(),
            clock: PlatformClock::default(),
            installed: Installed::default(),
        };
        let (shadow, document) = watch::channel(None);
        let mut recovery = CertificateRecovery::new(installer, "damaged".to_owned(), document);
        let mut desires = Document::default();
        desires
            .desired
            .insert(CERTIFICATE_KEY.to_owned(), "7".into());
        shadow.send_replace(Some(desires));
        let hour = Duration::from_secs(3600);
        assert!(
            timeout(hour, recovery.next()).await.is_err(),
            "not connected"
        );

        recovery.set_online(true);
        match timeout(hour, recovery.next()).await {
            Ok(RotationOutcome::Failed { serial, .. }) => assert_eq!(serial.as_str(), "7"),
            _ => panic!("no attempt was made"),
        }
        assert!(recovery.installed().is_none());
    }

    #[test]
    fn desired_serial_takes_precedence_over_reported() {
        let section = |value: &Value| value.as_object().cloned().unwrap_or_default();
        let one = json!({ "remoteCertSn": "1" });
        let two = json!({ "remoteCertSn": "2" });
        let other = json!({ "remoteCertSn": 7, "more": "1" });
        for (desired, reported, wants) in [
            (&one, &two, Some("1")),
            (&other, &two, Some("2")),
            (&other, &other, None),
        ] {
            let wanted = wanted(&section(desired), &section(reported));
            assert_eq!(wanted.as_ref().map(CertificateSerial::as_str), wants);
        }
    }
}
