//! The task that receives the events of all parts and forwards them to the others.
//!
//! Messaging connects → the shadow is fetched, and remote access may send requests. The shadow
//! desires another certificate → remote access or the client certificate's rotation gets its serial
//! number. A new certificate is in use → the shadow reports it.

mod certificate_reporter;
mod deferred_start;
mod desired;

use std::sync::Arc;

use cloud_iot::{Cause, Session, SessionEvent};
use cloud_net::{LogThrottle, warn_throttled};
use cloud_remote::rotation::RotationOutcome;
use cloud_remote::{RemoteEvent, RotationStatus};
use cloud_shadow::{Delta, ShadowClient};
use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::certificate_reporter::{ReportSender, report_certificates};
use self::desired::{DesiredCertificates, parse_desired};
use crate::certificate_recovery::CertificateRecovery;
use crate::client_certificate::{ClientCertificateRotator, RotatorEvent};
use crate::event::Event;
use crate::hook_runner::{HookPoint, HookRunner};
use crate::remote_access::RemoteSlot;
use crate::shutdown_budget::BUDGET;
use crate::status::Status;
use crate::topics::{CERTIFICATE_KEY, IOT_CERTIFICATE_KEY};

pub(crate) struct Coordinator {
    pub(crate) session: Session,
    pub(crate) shadow: ShadowClient,
    /// Remote access, which the host uses too; a deferred start sets it.
    pub(crate) remote: RemoteSlot,
    /// Notified when messages for the shadow were lost.
    pub(crate) shadow_lost: Arc<Notify>,
    pub(crate) events: broadcast::Sender<Event>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) hooks: HookRunner,
    pub(crate) ended: CancellationToken,
    pub(crate) sources: EventSources,
    pub(crate) rotator: Option<ClientCertificateRotator>,
    pub(crate) recovery: Option<CertificateRecovery>,
    pub(crate) state: CoordinatorState,
}

/// The state that begins with the coordinator.
#[derive(Default)]
pub(crate) struct CoordinatorState {
    desired: DesiredCertificates,
    report: ReportSender,
    /// Running hooks of remote access. They have tasks of their own, so that a slow one does not
    /// delay the coordinator.
    hook_tasks: JoinSet<()>,
    throttles: LogThrottles,
}

/// The rate limits of the log lines that platform, broker and relay can cause.
#[derive(Debug, Default)]
struct LogThrottles {
    overflow: LogThrottle,
    events_missed: LogThrottle,
    expiring: LogThrottle,
    invalid_serial: LogThrottle,
}

/// The receivers of the parts' events. Created before the parts start, so that no event is missed.
pub(crate) struct EventSources {
    pub(crate) session: broadcast::Receiver<SessionEvent>,
    pub(crate) remote: Option<broadcast::Receiver<RemoteEvent>>,
    /// The rotation of the served certificate, or its recovery.
    pub(crate) rotation: Option<watch::Receiver<RotationStatus>>,
    pub(crate) iot_rotation: Option<watch::Receiver<RotationStatus>>,
    /// `None` once the shadow's task has ended.
    pub(crate) delta: Option<watch::Receiver<Delta>>,
}

/// An event of one of the parts.
enum PartEvent {
    Session(SessionEvent),
    /// Events of the session were missed.
    SessionLagged,
    Remote(RemoteEvent),
    RemoteLagged(u64),
    Recovery(RotationOutcome),
    Rotator(RotatorEvent),
    Rotation(RotationStatus),
    IotRotation(RotationStatus),
    Delta(Delta),
    /// Messages for the shadow were lost.
    ShadowLost,
    HookEnded,
}

impl Coordinator {
    /// Runs until `ended` is cancelled. Events sent before the first poll are not lost; see
    /// [`EventSources`].
    pub(crate) async fn run(mut self) {
        let serial = self.certificate_serial();
        self.state
            .report
            .send_modify(|report| report.remote = serial);
        let mut reporter = JoinSet::new();
        reporter.spawn(report_certificates(
            self.shadow.clone(),
            self.session.clone(),
            self.state.report.subscribe(),
        ));
        while let Some(event) = self.next().await {
            self.handle(event).await;
        }
        reporter.shutdown().await;
        self.shut_down().await;
    }

    /// Waits for the next event; `None` at the end. Cancel safe.
    async fn next(&mut self) -> Option<PartEvent> {
        let sources = &mut self.sources;
        Some(tokio::select! {
            () = self.ended.cancelled() => return None,
            event = sources.session.recv() => match event {
                Ok(event) => PartEvent::Session(event),
                Err(RecvError::Lagged(_)) => PartEvent::SessionLagged,
                Err(RecvError::Closed) => return None,
            },
            event = next_remote(&mut sources.remote) => event,
            outcome = next_recovery(&mut self.recovery) => PartEvent::Recovery(outcome),
            event = next_rotator(&mut self.rotator) => PartEvent::Rotator(event),
            status = next_value(&mut sources.rotation) => PartEvent::Rotation(status),
            status = next_value(&mut sources.iot_rotation) => PartEvent::IotRotation(status),
            delta = next_value(&mut sources.delta) => PartEvent::Delta(delta),
            () = self.shadow_lost.notified() => PartEvent::ShadowLost,
            Some(_) = self.state.hook_tasks.join_next() => PartEvent::HookEnded,
        })
    }

    async fn handle(&mut self, event: PartEvent) {
        match event {
            PartEvent::Session(event) => {
                if let Some(rotator) = &mut self.rotator {
                    rotator.session_event(&event);
                }
                self.session_event(event).await;
                self.session_state_changed();
            }
            PartEvent::SessionLagged => {
                if let Some(rotator) = &mut self.rotator {
                    rotator.set_online(false);
                    rotator.set_online(self.session.state().borrow().is_online());
                }
                self.session_events_missed().await;
                self.session_state_changed();
            }
            PartEvent::Remote(event) => self.remote_event(event),
            PartEvent::RemoteLagged(missed) => self.remote_events_missed(missed),
            PartEvent::Recovery(outcome) => self.on_recovery(outcome).await,
            PartEvent::Rotator(event) => {
                self.rotator_event(event);
                // The session may have reconnected before this event arrived.
                self.update_iot_report();
            }
            PartEvent::Rotation(rotation) => self
                .status
                .send_modify(|status| status.certificate_rotation = rotation),
            PartEvent::IotRotation(rotation) => self
                .status
                .send_modify(|status| status.iot_certificate_rotation = rotation),
            PartEvent::Delta(delta) => {
                self.delta(delta);
                self.update_iot_report();
            }
            PartEvent::ShadowLost => self.shadow.resync().await,
            PartEvent::HookEnded => {}
        }
    }

    /// Handles the last events of remote access, and waits for their hooks.
    async fn shut_down(&mut self) {
        while let Some(Ok(event)) = self
            .sources
            .remote
            .as_mut()
            .map(broadcast::Receiver::try_recv)
        {
            self.remote_event(event);
        }
        let hooks = &mut self.state.hook_tasks;
        let all = async { while hooks.join_next().await.is_some() {} };
        if tokio::time::timeout(BUDGET.remote_hooks, all)
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

    async fn session_event(&mut self, event: SessionEvent) {
        match event {
            // The session logs its connections.
            SessionEvent::Connected => self.online().await,
            SessionEvent::Disconnected { reason, retry_in } => {
                let reason = reason.to_string();
                self.offline(reason.clone());
                self.emit(Event::IotDisconnected { reason, retry_in });
            }
            SessionEvent::StoreFailed { error } => {
                let reason = error.to_string();
                self.emit(Event::OutboxStoreFailed { reason });
            }
            SessionEvent::SubscriptionRefused {
                filter,
                reason,
                message,
            } => {
                let filter_text = filter.to_string();
                let cause = Cause::SubscriptionRefused {
                    filter,
                    reason,
                    message,
                };
                self.emit(Event::IotSubscriptionRefused {
                    filter: filter_text,
                    reason: cause.to_string(),
                });
            }
            SessionEvent::SubscriptionDowngraded { filter } => {
                let filter = filter.to_string();
                self.emit(Event::IotSubscriptionDowngraded { filter });
            }
            SessionEvent::RouteFailed { filter, error } => self.emit(Event::IotHandlerFailed {
                filter: filter.to_string(),
                reason: error.to_string(),
            }),
            SessionEvent::RouteMalformed { filter, error, .. } => {
                self.emit(Event::IotHandlerFailed {
                    filter: filter.to_string(),
                    reason: error.to_string(),
                });
            }
            SessionEvent::RouteOverflow { filter, dropped } => {
                let filter = filter.to_string();
                self.emit(Event::IotMessagesDropped { filter, dropped });
                warn_throttled!(
                    self.state.throttles.overflow,
                    dropped,
                    "messages of the platform were dropped because they arrived faster than they were handled"
                );
            }
            _ => {}
        }
    }

    /// Updates what depends on the session's state.
    fn session_state_changed(&mut self) {
        if let Some(recovery) = &mut self.recovery {
            recovery.set_online(self.status.borrow().iot.connected);
        }
        self.update_iot_report();
    }

    /// Reports the client certificate in use, if it is to be reported.
    fn update_iot_report(&self) {
        let rotator = self.rotator.as_ref();
        let Some(serial) = rotator.and_then(ClientCertificateRotator::reportable) else {
            return;
        };
        self.state.report.send_if_modified(|report| {
            let changed = report.iot.as_ref() != Some(&serial);
            report.iot = Some(serial);
            changed
        });
    }

    async fn online(&mut self) {
        self.status.send_modify(|status| status.iot.up());
        self.emit(Event::IotConnected);
        self.shadow.connected().await;
        if let Some(remote) = self.remote.handle() {
            remote.set_messaging_online(true);
        }
    }

    fn offline(&self, reason: String) {
        if let Some(remote) = self.remote.handle() {
            remote.set_messaging_online(false);
        }
        self.status.send_modify(|status| status.iot.down(reason));
    }

    /// Synchronizes with the session's state after missed events. A connection may be another one
    /// than before.
    async fn session_events_missed(&mut self) {
        if self.status.borrow().iot.connected {
            self.offline("the connection was lost".to_owned());
        }
        if self.session.state().borrow().is_online() {
            self.online().await;
        }
    }

    /// Synchronizes with the state of remote access after missed events. Later events repeat the
    /// rest.
    fn remote_events_missed(&self, missed: u64) {
        warn_throttled!(
            self.state.throttles.events_missed,
            missed,
            "events of remote access were missed"
        );
        let Some(remote) = self.remote.handle() else {
            return;
        };
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
        self.certificate(now.certificate.serial.to_string());
    }

    /// Records that remote access serves this certificate.
    fn certificate(&self, serial: String) {
        self.status
            .send_modify(|status| status.certificate_serial = Some(serial.clone()));
        self.state
            .report
            .send_modify(|report| report.remote = Some(serial));
    }

    fn remote_event(&mut self, event: RemoteEvent) {
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
                self.emit(Event::RemoteProbeFailed { reason });
            }
            RemoteEvent::Connected { url } => {
                self.status.send_modify(|status| status.remote.up());
                self.emit(Event::RemoteConnected { url });
                self.run_hooks(HookPoint::RemoteConnected);
            }
            RemoteEvent::ConnectFailed { reason } => {
                self.status
                    .send_modify(|status| status.remote.down(reason.clone()));
                self.emit(Event::RemoteConnectFailed { reason });
            }
            RemoteEvent::Disconnected { reason } => {
                self.status.send_modify(|status| {
                    status.remote.down(reason.clone());
                    status.reachable = None;
                });
                self.emit(Event::RemoteDisconnected { reason });
                self.run_hooks(HookPoint::RemoteDisconnected);
            }
            RemoteEvent::CertificateRotated { serial, not_after } => {
                let serial = serial.to_string();
                self.certificate(serial.clone());
                self.emit(Event::RemoteCertificateRotated { serial, not_after });
            }
            RemoteEvent::CertificateExpiring {
                serial,
                not_after,
                days,
            } => self.emit(Event::RemoteCertificateExpiring {
                serial: serial.to_string(),
                not_after,
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

    fn rotator_event(&self, event: RotatorEvent) {
        match event {
            RotatorEvent::Rotation(RotationOutcome::Rotated(certificate)) => {
                let serial = certificate.serial.to_string();
                self.status
                    .send_modify(|status| status.iot_certificate_serial = Some(serial.clone()));
                self.emit(Event::IotCertificateRotated {
                    serial,
                    not_after: certificate.not_after,
                });
            }
            RotatorEvent::Rotation(RotationOutcome::Failed { serial, error }) => {
                self.emit(Event::IotCertificateRotationFailed {
                    serial: serial.to_string(),
                    reason: error.to_string(),
                });
            }
            RotatorEvent::Expiring(days) => {
                let Some(rotator) = &self.rotator else {
                    return;
                };
                let certificate = rotator.status();
                let (serial, not_after) = (certificate.serial.to_string(), certificate.not_after);
                let until = certificate.not_after_text();
                warn_throttled!(self.state.throttles.expiring, serial, not_after = %until, days, "the client certificate expires soon");
                self.emit(Event::IotCertificateExpiring {
                    serial,
                    not_after,
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
    fn delta(&mut self, delta: Delta) {
        self.update_remote_desired(&delta);
        if let Some(rotator) = &mut self.rotator {
            let state = &mut self.state;
            let serial =
                parse_desired(&delta, IOT_CERTIFICATE_KEY, &state.throttles.invalid_serial);
            if state.desired.iot.update(serial.as_ref()) {
                rotator.set_desired(serial);
            }
        }
        if !delta.is_empty() {
            self.emit(Event::ShadowDeltaReceived {
                state: Value::Object(delta.state),
            });
        }
    }

    fn update_remote_desired(&mut self, delta: &Delta) {
        if let Some(remote) = self.remote.handle() {
            let state = &mut self.state;
            let serial = parse_desired(delta, CERTIFICATE_KEY, &state.throttles.invalid_serial);
            if state.desired.remote.update(serial.as_ref()) {
                remote.set_desired(serial);
            }
        }
    }

    /// Returns the serial number of the served certificate; `None` without remote access.
    pub(crate) fn certificate_serial(&self) -> Option<String> {
        let remote = self.remote.handle()?;
        Some(remote.status().borrow().certificate.serial.to_string())
    }

    fn run_hooks(&mut self, point: HookPoint) {
        if self.hooks.has(point) {
            let hooks = self.hooks.clone();
            self.state
                .hook_tasks
                .spawn(async move { hooks.run(point).await });
        }
    }

    pub(crate) fn emit(&self, event: Event) {
        // An error means that there is no receiver.
        let _ = self.events.send(event);
    }
}

/// Waits for the next value; pending without a sender. Cancel safe.
async fn next_value<T: Clone>(source: &mut Option<watch::Receiver<T>>) -> T {
    if let Some(receiver) = source {
        if receiver.changed().await.is_ok() {
            return receiver.borrow_and_update().clone();
        }
        *source = None;
    }
    std::future::pending().await
}

/// Waits for the next event of remote access; pending without it. Cancel safe.
async fn next_remote(source: &mut Option<broadcast::Receiver<RemoteEvent>>) -> PartEvent {
    if let Some(events) = source {
        match events.recv().await {
            Ok(event) => return PartEvent::Remote(event),
            Err(RecvError::Lagged(missed)) => return PartEvent::RemoteLagged(missed),
            Err(RecvError::Closed) => *source = None,
        }
    }
    std::future::pending().await
}

/// Waits for the next rotation of the client certificate; pending if it cannot be rotated. Cancel
/// safe.
async fn next_rotator(rotator: &mut Option<ClientCertificateRotator>) -> RotatorEvent {
    match rotator {
        Some(rotator) => rotator.next().await,
        None => std::future::pending().await,
    }
}

/// Waits for the next attempt to get a certificate; pending if none is needed. Cancel safe.
async fn next_recovery(recovery: &mut Option<CertificateRecovery>) -> RotationOutcome {
    match recovery {
        Some(recovery) => recovery.next().await,
        None => std::future::pending().await,
    }
}
