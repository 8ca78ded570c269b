//! Deferred start of remote access, once there is a valid certificate.

use cloud_remote::rotation::RotationOutcome;
use cloud_remote::{CertificateStatus, RemoteAccess, RotationStatus};

use super::Coordinator;
use crate::event::Event;
use crate::shutdown_budget::BUDGET;

impl Coordinator {
    /// Starts remote access with a recovered certificate, or reports the failure; the recovery
    /// retries.
    pub(super) async fn on_recovery(&mut self, outcome: RotationOutcome) {
        match outcome {
            RotationOutcome::Rotated(certificate) => {
                let installed = self.recovery.take().and_then(|it| it.installed());
                let (Some(credentials), Some(params)) = (installed, self.remote.params()) else {
                    return;
                };
                match params.start(credentials).await {
                    Ok(handle) => self.remote_started(handle, certificate).await,
                    Err(error) => {
                        let reason = error.to_string();
                        tracing::error!(reason, "could not start remote access");
                        self.status
                            .send_modify(|status| status.remote.down(reason.clone()));
                        self.emit(Event::RemoteConnectFailed { reason });
                    }
                }
            }
            RotationOutcome::Failed { serial, error } => {
                self.emit(Event::RemoteCertificateRotationFailed {
                    serial: serial.to_string(),
                    reason: error.to_string(),
                })
            }
            _ => {}
        }
    }

    /// Brings remote access into the state of a normal start.
    async fn remote_started(&mut self, handle: RemoteAccess, certificate: CertificateStatus) {
        let (events, rotation) = (handle.events(), handle.rotation_status());
        if let Err(rejected) = self.remote.set_started(handle) {
            // An error means that it timed out.
            let _ = rejected.stop(BUDGET.unused_remote).await;
            return;
        }
        self.sources.remote = Some(events);
        self.sources.rotation = Some(rotation);
        self.status
            .send_modify(|status| status.certificate_rotation = RotationStatus::Idle);
        let serial = certificate.serial.to_string();
        tracing::info!(serial, "starting remote access with a new certificate");
        self.certificate(serial.clone());
        self.emit(Event::RemoteCertificateRotated {
            serial,
            not_after: certificate.not_after,
        });
        if let Some(remote) = self.remote.handle() {
            remote.set_messaging_online(self.status.borrow().iot.connected);
        }
        let delta = self.sources.delta.as_ref();
        if let Some(delta) = delta.map(|delta| delta.borrow().clone()) {
            self.update_remote_desired(&delta);
        }
    }
}
