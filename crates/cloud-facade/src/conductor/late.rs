//! Remote access that begins later than the rest, once there is a certificate to serve with.

use std::time::{Duration, SystemTime};

use cloud_remote::rotation::RotationOutcome;
use cloud_remote::{CertificateStatus, RotationStatus};

use super::report::Report;
use super::wish::Wishes;
use super::{Conductor, Ears};
use crate::event::Event;
use crate::recovery::Recovery;

/// For one that was stopped before it was used: it has nothing open.
const STOP: Duration = Duration::from_millis(500);

/// What came of the next attempt to get a certificate; waits for ever where none is needed. Cancel safe.
pub(super) async fn next_attempt(recovery: &mut Option<Recovery>) -> RotationOutcome {
    match recovery {
        Some(recovery) => recovery.next().await,
        None => std::future::pending().await,
    }
}

impl Conductor {
    /// A certificate has come, and remote access begins with it; or it has not, and is asked for again.
    pub(super) async fn recovered(
        &mut self,
        outcome: RotationOutcome,
        recovery: &mut Option<Recovery>,
        ears: &mut Ears,
        wishes: &mut Wishes,
        report: &Report,
    ) {
        match outcome {
            RotationOutcome::Rotated(certificate) => {
                let installed = recovery.take().and_then(|it| it.installed());
                let (Some(credentials), Some(plan)) = (installed, self.shared_remote.plan()) else {
                    return;
                };
                match plan.start(credentials).await {
                    Ok(handle) => {
                        ears.remote = Some(handle.events());
                        ears.rotation = Some(handle.rotation_status());
                        self.status.send_modify(|status| {
                            status.certificate_rotation = RotationStatus::Idle
                        });
                        self.remote = Some(handle.clone());
                        if let Err(unwanted) = self.shared_remote.begin(handle) {
                            // An error means that it took longer.
                            let _ = unwanted.stop(STOP).await;
                            return;
                        }
                        self.begun(certificate, ears, wishes, report);
                    }
                    Err(error) => {
                        let reason = error.to_string();
                        tracing::error!(reason, "remote access cannot be started");
                        self.status
                            .send_modify(|status| status.remote.down(reason.clone()));
                        self.tell(Event::RemoteDisconnected { reason });
                    }
                }
            }
            RotationOutcome::Failed { serial, error } => {
                self.tell(Event::RemoteCertificateFailed {
                    serial: serial.to_string(),
                    reason: error.to_string(),
                })
            }
            _ => {}
        }
    }

    /// From here on all is as if it had begun with the rest.
    fn begun(
        &self,
        certificate: CertificateStatus,
        ears: &mut Ears,
        wishes: &mut Wishes,
        report: &Report,
    ) {
        let serial = certificate.serial.to_string();
        tracing::info!(serial, "remote access begins with a new certificate");
        self.certificate(serial.clone(), report);
        self.tell(Event::RemoteCertificate {
            serial,
            not_after: SystemTime::from(certificate.not_after),
        });
        if let Some(remote) = &self.remote {
            remote.set_messaging_online(self.status.borrow().iot.connected);
        }
        let delta = ears.delta.borrow().clone();
        self.remote_wish(&delta, wishes);
    }
}
