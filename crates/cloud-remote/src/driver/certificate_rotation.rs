//! Certificate rotation of the access point: verifies, stores and serves new certificates, and
//! reports an expiry in advance.

use std::sync::Arc;

use cloud_net::warn_throttled;
use tokio::time::timeout;

use super::Driver;
use crate::certificate::expiry::ExpiryWatch;
use crate::certificate::serial::CertificateSerial;
use crate::certificate::verify::verify_server;
use crate::certificate::{
    CertificatePem, CertificateRequest, CertificateResponse, CertificateStatus,
};
use crate::clock::PlatformClock;
use crate::rotation::{CertificateInstaller, RotationError, RotationOutcome, STORE_TIMEOUT};
use crate::server::tls::CurrentCertificate;
use crate::status::RemoteEvent;
use crate::traits::{CertificateSource, CertificateStore, SourceError, StoreError, TokenSource};

/// Installs certificates for the access point.
pub(crate) struct ServerCertificateInstaller<C, S> {
    pub(crate) source: C,
    pub(crate) store: S,
    pub(crate) served: Arc<CurrentCertificate>,
    pub(crate) access_point: String,
    pub(crate) clock: PlatformClock,
}

impl<C: CertificateSource, S: CertificateStore> CertificateInstaller
    for ServerCertificateInstaller<C, S>
{
    async fn request(
        &self,
        serial: &CertificateSerial,
    ) -> Result<CertificateResponse, SourceError> {
        let request = CertificateRequest::new(serial.clone());
        self.source.request_certificate(request).await
    }

    async fn install(
        &self,
        certificate: CertificatePem,
        wanted: &CertificateSerial,
    ) -> Result<CertificateStatus, RotationError> {
        let checked = verify_server(&certificate, wanted, &self.access_point, &self.clock)?;
        match timeout(STORE_TIMEOUT, self.store.store(&certificate)).await {
            Ok(stored) => stored?,
            Err(_) => return Err(StoreError::new("storing took too long").into()),
        }
        self.served.swap(Arc::clone(&checked.key));
        Ok(checked.status())
    }
}

impl<T, C, S> Driver<T, C, S>
where
    T: TokenSource,
    C: CertificateSource,
    S: CertificateStore,
{
    pub(super) fn rotation_outcome(&mut self, outcome: RotationOutcome) {
        match outcome {
            RotationOutcome::Rotated(certificate) => {
                self.expiry = ExpiryWatch::default();
                let (serial, not_after) = (certificate.serial.clone(), certificate.not_after);
                self.context
                    .status
                    .send_modify(|status| status.certificate = certificate);
                self.emit(RemoteEvent::CertificateRotated { serial, not_after });
            }
            RotationOutcome::Failed { serial, error } => self.emit(RemoteEvent::RotationFailed {
                serial,
                error: Arc::new(error),
            }),
        }
    }

    /// Reports an expiry in advance. Waits for the first token: until then, the date is unreliable.
    pub(super) fn watch_expiry(&mut self) {
        if self.token.is_none() && !self.context.clock.is_set() {
            return;
        }
        let status = self.context.status.borrow().certificate.clone();
        let left = status.not_after.duration_since(self.context.clock.now());
        if let Some(days) = self.expiry.due(left.unwrap_or_default()) {
            let until = status.not_after_text();
            let (serial, not_after) = (status.serial, status.not_after);
            warn_throttled!(self.throttles.expiry, %serial, not_after = %until, days, "the certificate expires soon");
            self.emit(RemoteEvent::CertificateExpiring {
                serial,
                not_after,
                days,
            });
        }
    }
}
