//! The task that receives the events of all parts and forwards them to the others.
//!
//! Messaging connects → the shadow is fetched, and remote access may send requests. The shadow
//! desires another certificate → remote access or the client certificate's rotation gets its serial
//! number. A new certificate is in use → the shadow reports it.

mod certificate_reporter;
mod deferred_start;
mod desired;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cloud_iot::{SessionEvent, SessionHandle};
use cloud_net::{LogThrottle, info_throttled, warn_throttled};
use cloud_remote::rotation::RotationOutcome;
use cloud_remote::{RemoteEvent, RemoteHandle, RotationStatus};
use cloud_shadow::{Delta, ShadowClient};
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::certificate_reporter::{
    ReportSender, ReportedCertificates, report_certificates, update_iot_report,
};
use self::deferred_start::next_attempt;
use self::desired::{DesiredCertificates, parse_desired};
use crate::client_certificate::{ClientCertificateRotator, RotatorEvent};
use crate::event::Event;
use crate::hooks::{HookPoint, Hooks};
use crate::recovery::CertificateRecovery;
use crate::remote_access::RemoteSlot;
use crate::status::Status;
use crate::topics::{CERTIFICATE_KEY, IOT_CERTIFICATE_KEY};

/// Time limit for the hooks of remote access after everything else has stopped.
const HOOK_SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(500);

pub(crate) struct Coordinator {
    pub(crate) session: SessionHandle,
    pub(crate) shadow: ShadowClient,
    pub(crate) remote: Option<RemoteHandle>,
    /// The handle as the host sees it; a deferred start sets it.
    pub(crate) shared_remote: RemoteSlot,
    /// Notified when messages for the shadow were lost.
    pub(crate) shadow_lost: Arc<Notify>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) hooks: Hooks,
    pub(crate) ended: CancellationToken,
    pub(crate) throttles: LogThrottles,
}

/// The rate limits of the log lines that platform, broker and relay can cause.
#[derive(Debug, Default)]
pub(crate) struct LogThrottles {
    connected: LogThrottle,
    disconnected: LogThrottle,
    overflow: LogThrottle,
    events_missed: LogThrottle,
    expiring: LogThrottle,
    invalid_serial: LogThrottle,
}

impl Coordinator {
    /// Runs until `ended` is cancelled. Events sent before the first poll are not lost; see
    /// [`EventSources`].
    pub(crate) async fn run(
        mut self,
        mut sources: EventSources,
        mut rotator: Option<ClientCertificateRotator>,
        mut recovery: Option<CertificateRecovery>,
    ) {
        let report = watch::channel(ReportedCertificates {
            remote: self.certificate_serial(),
            iot: None,
        })
        .0;
        let mut reporter = JoinSet::new();
        reporter.spawn(report_certificates(
            self.shadow.clone(),
            self.session.clone(),
            report.subscribe(),
        ));
        let mut desired = DesiredCertificates::default();
        // Hooks of remote access run in tasks of their own, so that a slow one does not delay this
        // task.
        let mut hooks = JoinSet::new();
        loop {
            tokio::select! {
                () = self.ended.cancelled() => break,
                event = sources.session.recv() => {
                    match event {
                        Ok(event) => {
                            if let Some(rotator) = &mut rotator {
                                rotator.session_event(&event);
                            }
                            self.session_event(event).await;
                        }
                        Err(RecvError::Lagged(_)) => {
                            if let Some(rotator) = &mut rotator {
                                rotator.set_online(false);
                                rotator.set_online(self.session.state().borrow().is_online());
                            }
                            self.session_events_missed().await;
                        }
                        Err(RecvError::Closed) => break,
                    }
                    if let Some(recovery) = &mut recovery {
                        recovery.set_online(self.status.borrow().iot.connected);
                    }
                    update_iot_report(&report, &rotator);
                }
                outcome = next_attempt(&mut recovery) => {
                    self.on_recovery(outcome, &mut recovery, &mut sources, &mut desired, &report).await;
                }
                news = next_rotator_event(&mut rotator) => {
                    self.rotator_event(news, &rotator);
                    // The session may have reconnected before this event arrived.
                    update_iot_report(&report, &rotator);
                }
                event = next(&mut sources.remote) => match event {
                    Ok(event) => self.remote_event(event, &report, &mut hooks),
                    Err(RecvError::Lagged(missed)) => self.remote_events_missed(missed, &report),
                    Err(RecvError::Closed) => sources.remote = None,
                },
                rotation = next_status(&mut sources.rotation) => {
                    self.status.send_modify(|status| status.certificate_rotation = rotation);
                }
                rotation = next_status(&mut sources.iot_rotation) => {
                    self.status.send_modify(|status| status.iot_certificate_rotation = rotation);
                }
                changed = sources.delta.changed(), if !sources.deltas_closed => match changed {
                    Ok(()) => {
                        let delta = sources.delta.borrow_and_update().clone();
                        self.delta(delta, &mut desired, &mut rotator);
                        update_iot_report(&report, &rotator);
                    }
                    // The session is stopping.
                    Err(_) => sources.deltas_closed = true,
                },
                () = self.shadow_lost.notified() => self.shadow.resync().await,
                Some(_) = hooks.join_next() => {}
            }
        }
        reporter.shutdown().await;
        // The last events and their hooks.
        while let Some(Ok(event)) = sources.remote.as_mut().map(broadcast::Receiver::try_recv) {
            self.remote_event(event, &report, &mut hooks);
        }
        let all = async { while hooks.join_next().await.is_some() {} };
        if tokio::time::timeout(HOOK_SHUTDOWN_TIMEOUT, all)
            .await
            .is_err()
        {
            tracing::warn!(
                left = hooks.len(),
                "hooks of remote access timed out and were cancelled"
            );
        }
        hooks.shutdown().await;
    }

    async fn session_event(&self, event: SessionEvent) {
        match event {
            SessionEvent::Connected => self.online().await,
            SessionEvent::Disconnected { reason, retry_in } => {
                let reason = reason.to_string();
                info_throttled!(
                    self.throttles.disconnected,
                    reason,
                    ?retry_in,
                    "not connected to the broker"
                );
                self.offline(reason.clone());
                self.emit(Event::IotDisconnected { reason, retry_in });
            }
            SessionEvent::StoreFailed { error } => {
                let reason = error.to_string();
                self.emit(Event::OutboxNotStored { reason });
            }
            SessionEvent::RouteOverflow { dropped, .. } => {
                warn_throttled!(
                    self.throttles.overflow,
                    dropped,
                    "messages of the platform were dropped because they arrived faster than they were handled"
                );
            }
            _ => {}
        }
    }

    async fn online(&self) {
        info_throttled!(self.throttles.connected, "connected to the broker");
        self.status.send_modify(|status| status.iot.up());
        self.emit(Event::IotConnected);
        self.shadow.connected().await;
        if let Some(remote) = &self.remote {
            remote.set_messaging_online(true);
        }
    }

    fn offline(&self, reason: String) {
        if let Some(remote) = &self.remote {
            remote.set_messaging_online(false);
        }
        self.status.send_modify(|status| status.iot.down(reason));
    }

    /// Synchronizes with the session's state after missed events. A connection may be another one
    /// than before.
    async fn session_events_missed(&self) {
        if self.status.borrow().iot.connected {
            self.offline("the connection was lost".to_owned());
        }
        if self.session.state().borrow().is_online() {
            self.online().await;
        }
    }

    /// Synchronizes with the state of remote access after missed events. Later events repeat the
    /// rest.
    fn remote_events_missed(&self, missed: u64, report: &ReportSender) {
        warn_throttled!(
            self.throttles.events_missed,
            missed,
            "events of remote access were missed"
        );
        let Some(remote) = &self.remote else { return };
        let now = remote.status().borrow().clone();
        self.status.send_modify(
            |status| match (now.is_connected(), status.remote.connected) {
                (true, false) => status.remote.up(),
                (false, true) => {
                    status.remote.down("the tunnel was lost".to_owned());
                    status.reachable = None;
                }
                _ => {}
            },
        );
        self.certificate(now.certificate.serial.to_string(), report);
    }

    /// Records that remote access serves this certificate.
    fn certificate(&self, serial: String, report: &ReportSender) {
        self.status
            .send_modify(|status| status.certificate_serial = Some(serial.clone()));
        report.send_modify(|report| report.remote = Some(serial));
    }

    fn remote_event(&self, event: RemoteEvent, report: &ReportSender, hooks: &mut JoinSet<()>) {
        match event {
            RemoteEvent::TokenReceived { valid } => self.emit(Event::RemoteTokenReceived { valid }),
            RemoteEvent::TokenFailed { error } => {
                let reason = error.to_string();
                self.status.send_modify(|status| {
                    if !status.remote.connected {
                        status.remote.down(reason.clone());
                    }
                });
                self.emit(Event::RemoteTokenFailed { reason });
            }
            RemoteEvent::TunnelRenewed => self.emit(Event::RemoteTunnelRenewed),
            RemoteEvent::Reachable => {
                self.status
                    .send_modify(|status| status.reachable = Some(true));
                self.emit(Event::RemoteReachable);
            }
            RemoteEvent::ProbeFailed { reason } => {
                self.status
                    .send_modify(|status| status.reachable = Some(false));
                self.emit(Event::RemoteUnreachable { reason });
            }
            RemoteEvent::Connected { url } => {
                self.status.send_modify(|status| status.remote.up());
                self.emit(Event::RemoteConnected { url });
                self.run_hooks(HookPoint::RemoteConnected, hooks);
            }
            RemoteEvent::ConnectFailed { reason } => {
                self.status
                    .send_modify(|status| status.remote.down(reason.clone()));
                self.emit(Event::RemoteDisconnected { reason });
            }
            RemoteEvent::Disconnected { reason } => {
                self.status.send_modify(|status| {
                    status.remote.down(reason.clone());
                    status.reachable = None;
                });
                self.emit(Event::RemoteDisconnected { reason });
                self.run_hooks(HookPoint::RemoteDisconnected, hooks);
            }
            RemoteEvent::CertificateRotated { serial, not_after } => {
                let serial = serial.to_string();
                self.certificate(serial.clone(), report);
                self.emit(Event::RemoteCertificateRotated {
                    serial,
                    not_after: SystemTime::from(not_after),
                });
            }
            RemoteEvent::CertificateExpiring {
                serial,
                not_after,
                days,
            } => self.emit(Event::RemoteCertificateExpiring {
                serial: serial.to_string(),
                not_after: SystemTime::from(not_after),
                days,
            }),
            RemoteEvent::RotationFailed { serial, error } => {
                self.emit(Event::RemoteCertificateRotationFailed {
                    serial: serial.to_string(),
                    reason: error.to_string(),
                });
            }
            _ => {}
        }
    }

    fn rotator_event(&self, news: RotatorEvent, rotator: &Option<ClientCertificateRotator>) {
        match news {
            RotatorEvent::Rotation(RotationOutcome::Rotated(certificate)) => {
                let serial = certificate.serial.to_string();
                self.status
                    .send_modify(|status| status.iot_certificate_serial = Some(serial.clone()));
                self.emit(Event::IotCertificateRotated {
                    serial,
                    not_after: SystemTime::from(certificate.not_after),
                });
            }
            RotatorEvent::Rotation(RotationOutcome::Failed { serial, error }) => {
                self.emit(Event::IotCertificateRotationFailed {
                    serial: serial.to_string(),
                    reason: error.to_string(),
                });
            }
            RotatorEvent::Expiring(days) => {
                let Some(certificate) = rotator.as_ref().map(ClientCertificateRotator::status)
                else {
                    return;
                };
                let (serial, not_after) = (certificate.serial.to_string(), certificate.not_after);
                let until = certificate.not_after_text();
                warn_throttled!(self.throttles.expiring, serial, not_after = %until, days, "the client certificate expires soon");
                self.emit(Event::IotCertificateExpiring {
                    serial,
                    not_after: SystemTime::from(not_after),
                    days,
                });
            }
            RotatorEvent::Rotation(_) => {}
        }
    }

    /// Processes a delta. A delta contains only differences, so a certificate that is missing in it
    /// has been installed or is no longer desired. The two cases look the same, and a new
    /// certificate may be about to be used: this does not mean the current certificate is desired.
    /// An empty delta is not reported to the host.
    fn delta(
        &self,
        delta: Delta,
        desired: &mut DesiredCertificates,
        rotator: &mut Option<ClientCertificateRotator>,
    ) {
        self.update_remote_desired(&delta, desired);
        if let Some(rotator) = rotator {
            let desired_serial =
                parse_desired(&delta, IOT_CERTIFICATE_KEY, &self.throttles.invalid_serial);
            if desired.iot.update(desired_serial.as_ref()) {
                match desired_serial {
                    Some(serial) => rotator.desired(serial),
                    None => rotator.undesired(),
                }
            }
        }
        if !delta.is_empty() {
            self.emit(Event::ShadowDelta {
                state: Value::Object(delta.state),
            });
        }
    }

    fn update_remote_desired(&self, delta: &Delta, desired: &mut DesiredCertificates) {
        if let Some(remote) = &self.remote {
            let desired_serial =
                parse_desired(delta, CERTIFICATE_KEY, &self.throttles.invalid_serial);
            if desired.remote.update(desired_serial.as_ref()) {
                remote.set_desired(desired_serial);
            }
        }
    }

    /// Returns the serial number of the served certificate; `None` without remote access.
    pub(crate) fn certificate_serial(&self) -> Option<String> {
        self.remote
            .as_ref()
            .map(|remote| remote.status().borrow().certificate.serial.to_string())
    }

    fn run_hooks(&self, point: HookPoint, running: &mut JoinSet<()>) {
        if self.hooks.count(point) > 0 {
            let hooks = self.hooks.clone();
            running.spawn(async move { hooks.run(point).await });
        }
    }

    pub(crate) fn emit(&self, event: Event) {
        // An error means that there is no receiver.
        let _ = self.events.send(event);
    }
}

/// The receivers of the parts' events. Created before the parts start, so that no event is missed.
pub(crate) struct EventSources {
    pub(crate) session: broadcast::Receiver<SessionEvent>,
    pub(crate) remote: Option<broadcast::Receiver<RemoteEvent>>,
    /// The rotation of the served certificate, or its recovery.
    pub(crate) rotation: Option<watch::Receiver<RotationStatus>>,
    pub(crate) iot_rotation: Option<watch::Receiver<RotationStatus>>,
    pub(crate) delta: watch::Receiver<Delta>,
    /// Whether the shadow's task has ended.
    pub(crate) deltas_closed: bool,
}

/// Waits for the next status of a rotation; pending without one. Cancel safe.
async fn next_status(rotation: &mut Option<watch::Receiver<RotationStatus>>) -> RotationStatus {
    if let Some(receiver) = rotation {
        if receiver.changed().await.is_ok() {
            return receiver.borrow_and_update().clone();
        }
        *rotation = None;
    }
    std::future::pending().await
}

async fn next_rotator_event(rotator: &mut Option<ClientCertificateRotator>) -> RotatorEvent {
    match rotator {
        Some(rotator) => rotator.next().await,
        None => std::future::pending().await,
    }
}

async fn next(
    source: &mut Option<broadcast::Receiver<RemoteEvent>>,
) -> Result<RemoteEvent, RecvError> {
    match source {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}
