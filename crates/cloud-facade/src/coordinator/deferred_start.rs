//! Deferred start of remote access, once there is a valid certificate.

use std::time::{Duration, SystemTime};

use cloud_remote::rotation::RotationOutcome;
use cloud_remote::{CertificateStatus, RotationStatus};

use super::certificate_reporter::ReportSender;
use super::desired::DesiredCertificates;
use super::{Coordinator, EventSources};
use crate::event::Event;
use crate::recovery::CertificateRecovery;

/// Time limit for stopping remote access before its first use: it has no connections.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);

/// Waits for the next attempt to get a certificate; pending if none is needed. Cancel safe.
pub(super) async fn next_attempt(recovery: &mut Option<CertificateRecovery>) -> RotationOutcome {
    match recovery {
        Some(recovery) => recovery.next().await,
        None => std::future::pending().await,
    }
}

impl Coordinator {
    /// Starts remote access with a recovered certificate, or reports the failure; the recovery
    /// retries.
    pub(super) async fn on_recovery(
        &mut self,
        outcome: RotationOutcome,
        recovery: &mut Option<CertificateRecovery>,
        sources: &mut EventSources,
        desired: &mut DesiredCertificates,
        report: &ReportSender,
    ) {
        match outcome {
            RotationOutcome::Rotated(certificate) => {
                let installed = recovery.take().and_then(|it| it.installed());
                let (Some(credentials), Some(params)) = (installed, self.shared_remote.params())
                else {
                    return;
                };
                match params.start(credentials).await {
                    Ok(handle) => {
                        sources.remote = Some(handle.events());
                        sources.rotation = Some(handle.rotation_status());
                        self.status.send_modify(|status| {
                            status.certificate_rotation = RotationStatus::Idle
                        });
                        self.remote = Some(handle.clone());
                        if let Err(rejected) = self.shared_remote.set_started(handle) {
                            // An error means that it timed out.
                            let _ = rejected.stop(STOP_TIMEOUT).await;
                            return;
                        }
                        self.finish_deferred_start(certificate, sources, desired, report);
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        tracing::error!(reason, "could not start remote access");
                        self.status
                            .send_modify(|status| status.remote.down(reason.clone()));
                        self.emit(Event::RemoteDisconnected { reason });
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
    fn finish_deferred_start(
        &self,
        certificate: CertificateStatus,
        sources: &mut EventSources,
        desired: &mut DesiredCertificates,
        report: &ReportSender,
    ) {
        let serial = certificate.serial.to_string();
        tracing::info!(serial, "starting remote access with a new certificate");
        self.certificate(serial.clone(), report);
        self.emit(Event::RemoteCertificateRotated {
            serial,
            not_after: SystemTime::from(certificate.not_after),
        });
        if let Some(remote) = &self.remote {
            remote.set_messaging_online(self.status.borrow().iot.connected);
        }
        let delta = sources.delta.borrow().clone();
        self.update_remote_desired(&delta, desired);
    }
}
