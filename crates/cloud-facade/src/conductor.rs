//! The one task that listens to all parts and tells each what it needs to know of the others.
//!
//! Messaging is up → the shadow is fetched and remote access may ask. The shadow wants another certificate → remote access
//! gets it, or the keeper of the client certificate. A new certificate is in use → the shadow is told. It decides nothing
//! beyond that.

mod late;
mod report;
mod wish;

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

use self::late::next_attempt;
use self::report::{Certificates, Report, report_certificates, report_iot};
use self::wish::{Wishes, wished};
use crate::broker_certificate::{IOT_CERTIFICATE_KEY, Keeper, News};
use crate::event::Event;
use crate::hooks::{Hooks, Moment};
use crate::recovery::Recovery;
use crate::remote_access::Remote;
use crate::status::Status;

/// The key of the shadow that names the certificate, in `desired` and in `reported`.
pub(crate) const CERTIFICATE_KEY: &str = "remoteCertSn";

/// What the hooks of remote access have left once everything else has been stopped.
const LAST_HOOKS: Duration = Duration::from_millis(500);

pub(crate) struct Conductor {
    pub(crate) session: SessionHandle,
    pub(crate) shadow: ShadowClient,
    pub(crate) remote: Option<RemoteHandle>,
    /// The same for the host; what is started later is put there.
    pub(crate) shared_remote: Remote,
    /// Told when messages for the shadow were lost.
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

impl Conductor {
    /// Runs until `ended`. What the parts say before this is first polled is not lost, because the receivers were made before
    /// they could say anything; see [`Ears`].
    pub(crate) async fn run(
        mut self,
        mut ears: Ears,
        mut keeper: Option<Keeper>,
        mut recovery: Option<Recovery>,
    ) {
        let report = watch::channel(Certificates {
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
        let mut wishes = Wishes::default();
        // Hooks of remote access run beside this task, so that a slow one does not hold it up.
        let mut hooks = JoinSet::new();
        loop {
            tokio::select! {
                () = self.ended.cancelled() => break,
                event = ears.session.recv() => {
                    match event {
                        Ok(event) => {
                            if let Some(keeper) = &mut keeper {
                                keeper.session_event(&event);
                            }
                            self.session_event(event).await;
                        }
                        Err(RecvError::Lagged(_)) => {
                            if let Some(keeper) = &mut keeper {
                                keeper.set_online(false);
                                keeper.set_online(self.session.state().borrow().is_online());
                            }
                            self.session_events_missed().await;
                        }
                        Err(RecvError::Closed) => break,
                    }
                    if let Some(recovery) = &mut recovery {
                        recovery.set_online(self.status.borrow().iot.connected);
                    }
                    report_iot(&report, &keeper);
                }
                outcome = next_attempt(&mut recovery) => {
                    self.recovered(outcome, &mut recovery, &mut ears, &mut wishes, &report).await;
                }
                news = next_news(&mut keeper) => {
                    self.keeper_news(news, &keeper);
                    // The session may have moved before this was heard of.
                    report_iot(&report, &keeper);
                }
                event = next(&mut ears.remote) => match event {
                    Ok(event) => self.remote_event(event, &report, &mut hooks),
                    Err(RecvError::Lagged(missed)) => self.remote_events_missed(missed, &report),
                    Err(RecvError::Closed) => ears.remote = None,
                },
                rotation = next_status(&mut ears.rotation) => {
                    self.status.send_modify(|status| status.certificate_rotation = rotation);
                }
                rotation = next_status(&mut ears.iot_rotation) => {
                    self.status.send_modify(|status| status.iot_certificate_rotation = rotation);
                }
                changed = ears.delta.changed(), if !ears.no_more_deltas => match changed {
                    Ok(()) => {
                        let delta = ears.delta.borrow_and_update().clone();
                        self.delta(delta, &mut wishes, &mut keeper);
                        report_iot(&report, &keeper);
                    }
                    // The session is being stopped.
                    Err(_) => ears.no_more_deltas = true,
                },
                () = self.shadow_lost.notified() => self.shadow.resync().await,
                Some(_) = hooks.join_next() => {}
            }
        }
        reporter.shutdown().await;
        // The last words, and what the host wants to do about them.
        while let Some(Ok(event)) = ears.remote.as_mut().map(broadcast::Receiver::try_recv) {
            self.remote_event(event, &report, &mut hooks);
        }
        let all = async { while hooks.join_next().await.is_some() {} };
        if tokio::time::timeout(LAST_HOOKS, all).await.is_err() {
            tracing::warn!(
                left = hooks.len(),
                "hooks of remote access took too long and were ended"
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
                self.tell(Event::IotDisconnected { reason, retry_in });
            }
            SessionEvent::StoreFailed { error } => {
                let reason = error.to_string();
                self.tell(Event::OutboxNotStored { reason });
            }
            SessionEvent::RouteOverflow { dropped, .. } => {
                warn_throttled!(
                    self.throttles.overflow,
                    dropped,
                    "messages of the platform came faster than they were handled"
                );
            }
            _ => {}
        }
    }

    async fn online(&self) {
        info_throttled!(self.throttles.connected, "connected to the broker");
        self.status.send_modify(|status| status.iot.up());
        self.tell(Event::IotConnected);
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

    /// Events of the session were missed: go by its state. If there is a connection it may be another one than before.
    async fn session_events_missed(&self) {
        if self.status.borrow().iot.connected {
            self.offline("the connection was lost".to_owned());
        }
        if self.session.state().borrow().is_online() {
            self.online().await;
        }
    }

    /// Events of remote access were missed: go by its state. What is told by the events still to come is told again.
    fn remote_events_missed(&self, missed: u64, report: &Report) {
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

    /// This certificate is served now.
    fn certificate(&self, serial: String, report: &Report) {
        self.status
            .send_modify(|status| status.certificate_serial = Some(serial.clone()));
        report.send_modify(|report| report.remote = Some(serial));
    }

    fn remote_event(&self, event: RemoteEvent, report: &Report, hooks: &mut JoinSet<()>) {
        match event {
            RemoteEvent::TokenReceived { valid } => self.tell(Event::RemoteToken { valid }),
            RemoteEvent::TokenFailed { error } => {
                let reason = error.to_string();
                self.status.send_modify(|status| {
                    if !status.remote.connected {
                        status.remote.down(reason.clone());
                    }
                });
                self.tell(Event::RemoteTokenFailed { reason });
            }
            RemoteEvent::TunnelRenewed => self.tell(Event::RemoteRenewed),
            RemoteEvent::Reachable => {
                self.status
                    .send_modify(|status| status.reachable = Some(true));
                self.tell(Event::RemoteReachable);
            }
            RemoteEvent::ProbeFailed { reason } => {
                self.status
                    .send_modify(|status| status.reachable = Some(false));
                self.tell(Event::RemoteUnreachable { reason });
            }
            RemoteEvent::Connected { url } => {
                self.status.send_modify(|status| status.remote.up());
                self.tell(Event::RemoteConnected { url });
                self.run_hooks(Moment::RemoteConnected, hooks);
            }
            RemoteEvent::ConnectFailed { reason } => {
                self.status
                    .send_modify(|status| status.remote.down(reason.clone()));
                self.tell(Event::RemoteDisconnected { reason });
            }
            RemoteEvent::Disconnected { reason } => {
                self.status.send_modify(|status| {
                    status.remote.down(reason.clone());
                    status.reachable = None;
                });
                self.tell(Event::RemoteDisconnected { reason });
                self.run_hooks(Moment::RemoteDisconnected, hooks);
            }
            RemoteEvent::CertificateRotated { serial, not_after } => {
                let serial = serial.to_string();
                self.certificate(serial.clone(), report);
                self.tell(Event::RemoteCertificate {
                    serial,
                    not_after: SystemTime::from(not_after),
                });
            }
            RemoteEvent::CertificateExpiring {
                serial,
                not_after,
                days,
            } => self.tell(Event::RemoteCertificateExpiring {
                serial: serial.to_string(),
                not_after: SystemTime::from(not_after),
                days,
            }),
            RemoteEvent::RotationFailed { serial, error } => {
                self.tell(Event::RemoteCertificateFailed {
                    serial: serial.to_string(),
                    reason: error.to_string(),
                });
            }
            _ => {}
        }
    }

    fn keeper_news(&self, news: News, keeper: &Option<Keeper>) {
        match news {
            News::Rotation(RotationOutcome::Rotated(certificate)) => {
                let serial = certificate.serial.to_string();
                self.status
                    .send_modify(|status| status.iot_certificate_serial = Some(serial.clone()));
                self.tell(Event::IotCertificate {
                    serial,
                    not_after: SystemTime::from(certificate.not_after),
                });
            }
            News::Rotation(RotationOutcome::Failed { serial, error }) => {
                self.tell(Event::IotCertificateFailed {
                    serial: serial.to_string(),
                    reason: error.to_string(),
                });
            }
            News::Expiring(days) => {
                let Some(certificate) = keeper.as_ref().map(Keeper::status) else {
                    return;
                };
                let (serial, not_after) = (certificate.serial.to_string(), certificate.not_after);
                let until = certificate.not_after_text();
                warn_throttled!(self.throttles.expiring, serial, not_after = %until, days, "the client certificate comes near its end");
                self.tell(Event::IotCertificateExpiring {
                    serial,
                    not_after: SystemTime::from(not_after),
                    days,
                });
            }
            News::Rotation(_) => {}
        }
    }

    /// A delta is all that is still to be done, so a wish that it does not hold any more is met or taken back. Which of the
    /// two is not told, and a new certificate may be on its way into use: that is no wish for the one in use now. An empty
    /// delta is for the parts alone: it asks nothing of the host.
    fn delta(&self, delta: Delta, wishes: &mut Wishes, keeper: &mut Option<Keeper>) {
        self.remote_wish(&delta, wishes);
        if let Some(keeper) = keeper {
            let wish = wished(&delta, IOT_CERTIFICATE_KEY, &self.throttles.invalid_serial);
            if wishes.iot.note(wish.as_ref()) {
                match wish {
                    Some(serial) => keeper.desired(serial),
                    None => keeper.undesired(),
                }
            }
        }
        if !delta.is_empty() {
            self.tell(Event::ShadowDelta {
                state: Value::Object(delta.state),
            });
        }
    }

    fn remote_wish(&self, delta: &Delta, wishes: &mut Wishes) {
        if let Some(remote) = &self.remote {
            let wish = wished(delta, CERTIFICATE_KEY, &self.throttles.invalid_serial);
            if wishes.remote.note(wish.as_ref()) {
                remote.set_desired(wish);
            }
        }
    }

    /// The certificate that is served; none without remote access.
    pub(crate) fn certificate_serial(&self) -> Option<String> {
        self.remote
            .as_ref()
            .map(|remote| remote.status().borrow().certificate.serial.to_string())
    }

    fn run_hooks(&self, moment: Moment, running: &mut JoinSet<()>) {
        if self.hooks.count(moment) > 0 {
            let hooks = self.hooks.clone();
            running.spawn(async move { hooks.run(moment).await });
        }
    }

    pub(crate) fn tell(&self, event: Event) {
        // An error means that nobody listens.
        let _ = self.events.send(event);
    }
}

/// Where the conductor hears the parts. Made before the parts are told to do anything, so that nothing is missed.
pub(crate) struct Ears {
    pub(crate) session: broadcast::Receiver<SessionEvent>,
    pub(crate) remote: Option<broadcast::Receiver<RemoteEvent>>,
    /// Of the certificate that is served, or that is to be recovered.
    pub(crate) rotation: Option<watch::Receiver<RotationStatus>>,
    pub(crate) iot_rotation: Option<watch::Receiver<RotationStatus>>,
    pub(crate) delta: watch::Receiver<Delta>,
    /// The shadow's task has ended.
    pub(crate) no_more_deltas: bool,
}

/// The next status of a rotation; pending without one. Cancel safe.
async fn next_status(rotation: &mut Option<watch::Receiver<RotationStatus>>) -> RotationStatus {
    if let Some(receiver) = rotation {
        if receiver.changed().await.is_ok() {
            return receiver.borrow_and_update().clone();
        }
        *rotation = None;
    }
    std::future::pending().await
}

async fn next_news(keeper: &mut Option<Keeper>) -> News {
    match keeper {
        Some(keeper) => keeper.next().await,
        None => std::future::pending().await,
    }
}

async fn next(
    ear: &mut Option<broadcast::Receiver<RemoteEvent>>,
) -> Result<RemoteEvent, RecvError> {
    match ear {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}
