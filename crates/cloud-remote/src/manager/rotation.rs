//! Getting, checking, storing and serving a new certificate.
//!
//! Checking and storing are one future, apart from asking: once a certificate has come, a lost session does not cut
//! that short.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::{Id, Manager, guarded};
use crate::certificate::{CertificateAnswer, CertificateRequest};
use crate::expiry::ExpiryWatch;
use crate::planner::Event;
use crate::rotation::{self, CheckedCertificate};
use crate::serial::CertificateSerial;
use crate::source::{CertificateSource, CertificateStore, SourceError, StoreError, TokenSource};
use crate::status::{RemoteEvent, RotationError};

/// Storing two small files: a flash card may be slow, but not this slow.
const STORE_LIMIT: Duration = Duration::from_secs(60);

impl<T, C, S> Manager<T, C, S>
where
    T: TokenSource,
    C: CertificateSource,
    S: CertificateStore,
{
    pub(super) fn request_certificate(&mut self, id: Id, serial: CertificateSerial) {
        let source = Arc::clone(&self.parts.certificates);
        let request = CertificateRequest::new(serial.clone());
        tracing::info!(%serial, "asking for a new certificate");
        self.wanted = Some(serial);
        self.certificate_request = Some((
            id,
            Box::pin(guarded(
                async move { source.request_certificate(request).await },
                || SourceError::unavailable("the certificate source panicked"),
            )),
        ));
    }

    pub(super) fn certificate(&mut self, id: Id, result: Result<CertificateAnswer, SourceError>) {
        let result = match result {
            Ok(answer) => {
                self.certificate_arrived = Some(answer.into_certificate());
                Ok(())
            }
            Err(error) => {
                self.rotation_failed(error.into());
                Err(())
            }
        };
        self.step(Event::Certificate { id, result });
    }

    pub(super) fn install(&mut self, id: Id, serial: CertificateSerial) {
        let Some(pem) = self.certificate_arrived.take() else {
            return;
        };
        let store = Arc::clone(&self.parts.store);
        let access_point = self.parts.config.access_point.clone();
        let now = self.parts.clock.now();
        let install = async move {
            let certificate = rotation::check(&pem, &serial, &access_point, now)?;
            let store = guarded(async move { store.store(&pem).await }, || {
                StoreError::new("the certificate store panicked")
            });
            match timeout(STORE_LIMIT, store).await {
                Ok(stored) => stored?,
                Err(_) => return Err(StoreError::new("it took too long").into()),
            }
            Ok(certificate)
        };
        self.installing = Some((id, Box::pin(install)));
    }

    pub(super) fn installed(&mut self, id: Id, result: Result<CheckedCertificate, RotationError>) {
        let result = match result {
            Ok(certificate) => {
                self.parts.served.swap(Arc::clone(&certificate.key));
                self.expiry = ExpiryWatch::default();
                let (serial, not_after) = (certificate.serial.clone(), certificate.not_after);
                tracing::info!(%serial, %not_after, "a new certificate is served");
                self.parts
                    .status
                    .send_modify(|status| status.certificate = certificate.status());
                self.emit(RemoteEvent::CertificateRotated { serial, not_after });
                Ok(())
            }
            Err(error) => {
                self.rotation_failed(error);
                Err(())
            }
        };
        self.step(Event::Installed { id, result });
    }

    /// Gives notice of the certificate's end. Not before a token has come: until then the date may be anything.
    pub(super) fn watch_expiry(&mut self) {
        if self.held.is_none() && !self.parts.clock.is_told() {
            return;
        }
        let status = self.parts.status.borrow().certificate.clone();
        let left = status.not_after - self.parts.clock.now();
        if let Some(days) = self.expiry.due(left) {
            let (serial, not_after) = (status.serial, status.not_after);
            tracing::warn!(%serial, %not_after, days, "the certificate comes near its end");
            self.emit(RemoteEvent::CertificateExpiring {
                serial,
                not_after,
                days,
            });
        }
    }

    pub(super) fn rotation_failed(&mut self, error: RotationError) {
        let Some(serial) = self.wanted.clone() else {
            return;
        };
        tracing::warn!(%serial, %error, "the certificate was not replaced; it will be tried again");
        self.emit(RemoteEvent::RotationFailed {
            serial,
            error: Arc::new(error),
        });
    }
}
