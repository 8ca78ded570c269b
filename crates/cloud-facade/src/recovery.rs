//! Another certificate for remote access in the place of a damaged one.
//!
//! A device whose certificate or key for remote access is missing, cut off or mixed up can talk to its platform all the same, and
//! the platform can send that certificate again. It is asked for as in a rotation: by the serial number that the platform wishes
//! for, or else by the one that this device has last reported. What comes is checked, stored in the place of what is damaged,
//! and remote access begins with it.
//!
//! Protocol: docs/protocol.md, "Remote access" (certificate rotation).

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

use crate::adapters::Platform;
use crate::conductor::CERTIFICATE_KEY;
use crate::registration::blocking;
use crate::remote_access::Plan;

/// Asks for another certificate until there is one.
pub(crate) struct Recovery {
    rotation: CertificateRotator<Anew>,
    document: Option<watch::Receiver<Option<Document>>>,
    damage: String,
    installed: Installed,
}

/// What was stored last.
type Installed = Arc<Mutex<Option<Credentials>>>;

impl Recovery {
    /// `damage` is what is wrong with the one on the disk; `document` is the shadow's, which has not been looked at yet.
    pub(crate) fn new(
        plan: &Plan,
        damage: String,
        document: watch::Receiver<Option<Document>>,
    ) -> Self {
        let installed = Installed::default();
        let anew = Anew {
            platform: plan.platform.clone(),
            store: plan.store.clone(),
            access_point: plan.access_point.clone(),
            clock: plan.clock.clone(),
            installed: Arc::clone(&installed),
        };
        // No certificate has the number 0 (RFC 5280, section 4.1.2.2), so that every wish is one for another.
        Self {
            rotation: CertificateRotator::new("remote access", anew, 0.into()),
            document: Some(document),
            damage,
            installed,
        }
    }

    /// Why there is no remote access, in one line for the log, the status and the host.
    pub(crate) fn reason(&self) -> String {
        format!(
            "no certificate for remote access until the platform has sent one: {}",
            self.damage
        )
    }

    pub(crate) fn set_online(&mut self, online: bool) {
        self.rotation.set_online(online);
    }

    pub(crate) fn rotation_status(&self) -> watch::Receiver<RotationStatus> {
        self.rotation.status()
    }

    /// What came of the next attempt. Does the work as it waits. Cancel safe.
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
                    // The session is being stopped.
                    None => self.document = None,
                }
            }
        }
    }

    /// The certificate that was stored.
    pub(crate) fn installed(&self) -> Option<Credentials> {
        let installed = self.installed.lock();
        installed.unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The shadow's document once it is known, and whenever it changes; none once it never will again.
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

/// Which certificate to ask for, as these sections of the shadow name it.
fn wanted(
    desired: &Map<String, Value>,
    reported: &Map<String, Value>,
) -> Option<CertificateSerial> {
    let named = |section: &Map<String, Value>| section.get(CERTIFICATE_KEY)?.as_str()?.parse().ok();
    named(desired).or_else(|| named(reported))
}

/// Where there is nothing to replace.
struct Anew {
    platform: Platform,
    store: Store,
    access_point: String,
    clock: PlatformClock,
    installed: Installed,
}

impl CertificateInstaller for Anew {
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
        let stored = blocking(move || store.replace_remote(&stored));
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
    use serde_json::json;

    use super::*;

    #[test]
    fn the_platforms_wish_comes_before_what_was_reported() {
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
