//! What only the device itself can find out: whether broker, token service and relay take it.
//!
//! Two sessions of one device would throw each other out. So an instance that runs on this directory is asked how it fares;
//! only where there is none, the device is started as `run` starts it, for as long as this takes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use cloud_facade::config::{LockError, SerialNumber};
use cloud_facade::iot::{Cause, Proxy, SessionState, TlsCause};
use cloud_facade::remote::{Application, RemoteStatus, TunnelStatus};
use cloud_facade::{ClesydeCloud, DeviceSettings, InitializeError};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio::time::timeout;

use super::REMOTE_CERTIFICATE;
use super::report::{Finding, Report};
use crate::commands::doctor::files::DIRECTORY;
use crate::commands::process;
use crate::failure::{Failure, Outcome, chain};
use crate::live::Live;
use crate::moment::rfc3339;

pub(super) const CLIENT_CERTIFICATE: &str = "client_certificate";
pub(super) const SUBSCRIPTIONS: &str = "subscriptions";
pub(super) const TOKEN: &str = "token";
pub(super) const TUNNEL: &str = "tunnel";

/// Two attempts, the second of them on the other port. A broker that is silent is given 20 s to connect and 30 s to subscribe.
const SESSION_LIMIT: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 2;
/// A platform that answers at all does so within a second.
const TOKEN_LIMIT: Duration = Duration::from_secs(15);
/// What the device gives the relay.
const TUNNEL_LIMIT: Duration = Duration::from_secs(30);

/// The device, started to be looked at. To be stopped in every case.
#[derive(Debug)]
pub(super) struct Patient {
    cloud: ClesydeCloud,
    /// What its page says.
    pub(super) mark: String,
}

impl Patient {
    /// Starts the device, unless somebody else has its directory, and then says who.
    pub(super) async fn start(
        sn: SerialNumber,
        base_path: PathBuf,
        proxy: Option<Proxy>,
    ) -> Result<Self, Finding> {
        // Recognised among pages that anybody else might show; no secret.
        let mark = format!("clesyde-cloud doctor {}", std::process::id());
        let page = mark.clone();
        let app = Router::new().fallback(move || std::future::ready(page.clone()));
        // The API is for registering alone.
        let mut settings =
            DeviceSettings::new(sn, base_path, "").with_application(Application::service(app));
        if let Some(proxy) = proxy {
            settings = settings.with_broker_proxy(proxy);
        }
        let cloud = ClesydeCloud::new(settings);
        match cloud.initialize().await {
            Ok(()) => Ok(Self { cloud, mark }),
            Err(InitializeError::Lock(LockError::InUse { directory, pid })) => {
                let who = process(pid);
                Err(Finding::warning(
                    format!(
                        "{who} has {directory:?} and does not tell how it fares, so that nothing from here on was looked at"
                    ),
                    "wait for its end or stop it, and ask again",
                ))
            }
            Err(InitializeError::Lock(LockError::Access(error))) => {
                Err(Finding::bad(chain(&error), DIRECTORY))
            }
            Err(error) => Err(Finding::bad(
                chain(&error),
                "put right what the steps above have found, or register anew with `clesyde-cloud provision --force`",
            )),
        }
    }

    pub(super) async fn stop(&self) {
        self.cloud.stop().await;
    }

    /// Looks at it, step by step, until one does not hold. Says whether all did.
    pub(super) async fn examine(&self, report: &mut Report) -> Outcome<bool> {
        let gone = |error| Failure::because("the device was stopped meanwhile", &error);
        let state = self.cloud.iot().map_err(gone)?.state();
        let (client, subscriptions) = session(state).await;
        report.tell(CLIENT_CERTIFICATE, &client)?;
        if !report.tell(SUBSCRIPTIONS, &subscriptions)? {
            report.tell(TOKEN, &Finding::after(SUBSCRIPTIONS))?;
            report.tell(TUNNEL, &Finding::after(TOKEN))?;
            return Ok(false);
        }
        // Without a certificate there is none, until the platform has sent another.
        let Some(remote) = self.cloud.remote().map_err(gone)? else {
            report.tell(TOKEN, &Finding::after(REMOTE_CERTIFICATE))?;
            report.tell(TUNNEL, &Finding::after(TOKEN))?;
            return Ok(false);
        };
        let mut status = remote.status();
        if !report.tell(TOKEN, &token(&mut status).await)? {
            report.tell(TUNNEL, &Finding::after(TOKEN))?;
            return Ok(false);
        }
        report.tell(TUNNEL, &tunnel(&mut status).await)
    }
}

/// What an instance says that runs already. Says whether all is well.
pub(super) fn ask(live: &Live, report: &mut Report) -> Outcome<bool> {
    let by = |what: &str| Finding::Good(format!("{what}, says process {}, which runs", live.pid));
    let down = |what: &str, reason: &Option<String>| {
        let reason = reason.as_deref().unwrap_or("it has only just begun");
        Finding::bad(
            format!("process {} runs and has no {what}: {reason}", live.pid),
            "see its log; to have each step looked at here, stop it and ask again",
        )
    };
    if live.iot_connected {
        report.tell(CLIENT_CERTIFICATE, &by("accepted"))?;
        report.tell(SUBSCRIPTIONS, &by("granted"))?;
    } else {
        report.tell(CLIENT_CERTIFICATE, &down("session", &live.iot_reason))?;
        report.tell(SUBSCRIPTIONS, &Finding::after(CLIENT_CERTIFICATE))?;
    }
    // A tunnel that is up stays up without messaging.
    if live.remote_connected {
        report.tell(TOKEN, &by("taken"))?;
        report.tell(TUNNEL, &by("open"))
    } else {
        report.tell(TOKEN, &Finding::after(TUNNEL))?;
        report.tell(TUNNEL, &down("tunnel", &live.remote_reason))
    }
}

/// Waits for the session: whether the device is let in, and whether it may subscribe.
async fn session(mut state: watch::Receiver<SessionState>) -> (Finding, Finding) {
    let mut last = None;
    let mut failures = 0;
    let online = async {
        loop {
            match &*state.borrow_and_update() {
                SessionState::Online { .. } => return true,
                SessionState::Waiting { cause, .. } => {
                    last = Some(Arc::clone(cause));
                    failures += 1;
                    let hopeless =
                        !cause.is_retryable() || matches!(**cause, Cause::SubscribeTimeout);
                    if hopeless || failures == ATTEMPTS {
                        return false;
                    }
                }
                _ => {}
            }
            if state.changed().await.is_err() {
                return false;
            }
        }
    };
    if timeout(SESSION_LIMIT, online).await.unwrap_or(false) {
        return (
            Finding::Good("the broker accepts this device".to_owned()),
            Finding::Good("all granted, and ONLINE is out".to_owned()),
        );
    }
    match last.as_deref() {
        Some(
            cause @ (Cause::SubscriptionRefused { .. }
            | Cause::NotPermitted { .. }
            | Cause::SubscribeTimeout),
        ) => (
            Finding::Good("the broker accepts this device".to_owned()),
            Finding::bad(
                cause.to_string(),
                "the platform's policy has to allow this device its topics: tell its operator",
            ),
        ),
        other => {
            let cause = other.map_or_else(
                || format!("no answer within {} s", SESSION_LIMIT.as_secs()),
                ToString::to_string,
            );
            (
                Finding::bad(cause, other.map_or(NO_ANSWER, advice)),
                Finding::after(CLIENT_CERTIFICATE),
            )
        }
    }
}

const NO_ANSWER: &str = "see whether the line is very slow; otherwise tell the platform's operator";

fn advice(cause: &Cause) -> &'static str {
    match cause {
        Cause::Tls(TlsCause::ClientCertificateRejected(_)) | Cause::NotAccepted(_) => {
            "the platform does not know this certificate, or has withdrawn it: register anew with `clesyde-cloud provision --force`"
        }
        Cause::Tls(TlsCause::HandshakeAborted | TlsCause::NotTls) => {
            "let TLS to ports 8883 and 443 through the firewall; if nothing is in its way, the platform may not know this device: register anew with `clesyde-cloud provision --force`"
        }
        Cause::Proxy(_) => "correct --proxy or HTTPS_PROXY, or the proxy's rules",
        Cause::Closed { .. } => {
            "on AWS this is how a policy refuses a topic: report it to the platform's operator; if another device or program \
             uses this identity, stop it"
        }
        cause if cause.is_takeover() => {
            "another device or program uses this identity: stop it (the original library takes no notice of ours), or register anew"
        }
        _ => NO_ANSWER,
    }
}

/// Waits for a token, or for a reason why there is none.
async fn token(status: &mut watch::Receiver<RemoteStatus>) -> Finding {
    let known = status.wait_for(|status| {
        status.token_valid.is_some()
            || matches!(
                status.tunnel,
                TunnelStatus::WaitingForToken { cause: Some(_) }
            )
    });
    let cause = match timeout(TOKEN_LIMIT, known).await {
        Ok(Ok(status)) => match (&status.tunnel, status.token_valid) {
            (TunnelStatus::WaitingForToken { cause: Some(cause) }, None) => cause.clone(),
            (_, valid) => {
                let until = valid.and_then(|valid| OffsetDateTime::from_unix_timestamp(valid).ok());
                let until = until.map_or_else(String::new, |until| {
                    format!(", valid until {}", rfc3339(until))
                });
                return Finding::Good(format!("the platform has sent one{until}"));
            }
        },
        _ => format!(
            "the platform has sent none within {} s",
            TOKEN_LIMIT.as_secs()
        ),
    };
    Finding::bad(
        cause,
        "remote access may not be enabled for this device: tell the platform's operator",
    )
}

/// Waits for the tunnel, or for a reason why there is none.
async fn tunnel(status: &mut watch::Receiver<RemoteStatus>) -> Finding {
    let known = status.wait_for(|status| {
        matches!(
            status.tunnel,
            TunnelStatus::Connected { .. }
                | TunnelStatus::Waiting { .. }
                | TunnelStatus::WaitingForToken { cause: Some(_) }
        )
    });
    let cause = match timeout(TUNNEL_LIMIT, known).await {
        Ok(Ok(status)) => match &status.tunnel {
            TunnelStatus::Waiting { cause, .. }
            | TunnelStatus::WaitingForToken { cause: Some(cause) } => cause.clone(),
            _ => {
                return Finding::Good(
                    "the relay takes the token, and our answer to its challenge".to_owned(),
                );
            }
        },
        _ => format!(
            "the relay has not answered within {} s",
            TUNNEL_LIMIT.as_secs()
        ),
    };
    Finding::bad(
        cause,
        "if it cannot be reached, let outgoing connections to it through the firewall; if it refuses, tell the platform's operator",
    )
}
