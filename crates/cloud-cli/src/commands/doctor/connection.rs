//! The steps that need the device's own session: client certificate, subscriptions, token and
//! tunnel.
//!
//! Two sessions of one device would disconnect each other. So a running instance on this directory
//! is queried; only without one the device is started, as `run` starts it, for the duration of
//! these steps.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use cloud_facade::config::{LockError, SerialNumber};
use cloud_facade::iot::{Cause, Proxy, SessionState, TlsCause};
use cloud_facade::remote::{RemoteStatus, TunnelStatus};
use cloud_facade::{ClesydeCloud, InitializeError};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use super::files::DIRECTORY_ADVICE;
use super::report::{CheckResult, Report};
use super::steps::{CLIENT_CERTIFICATE, REMOTE_CERTIFICATE, SUBSCRIPTIONS, TOKEN, TUNNEL};
use crate::commands::describe_process;
use crate::control_socket::InstanceStatus;
use crate::error::{CliError, Result, chain};
use crate::time_fmt::rfc3339;

/// Two attempts, the second on the other port. An attempt has 20 s to connect and 30 s to
/// subscribe.
const SESSION_TIMEOUT: Duration = Duration::from_secs(60);
const ATTEMPTS: u32 = 2;
/// The platform answers within a second.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(15);
/// The device's own time limit for the relay.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(30);

/// The device, started for the checks. Stop it in every case.
#[derive(Debug)]
pub(super) struct DeviceProbe {
    cloud: ClesydeCloud,
    /// The text of its page.
    pub(super) marker: String,
}

impl DeviceProbe {
    /// Starts the device.
    ///
    /// # Errors
    /// The result of the step that failed; it names the process that locks the directory, if one
    /// does.
    pub(super) async fn start(
        sn: SerialNumber,
        base_path: PathBuf,
        proxy: Option<Proxy>,
    ) -> Result<Self, CheckResult> {
        // Distinguishes this page from any other; not a secret.
        let marker = format!("clesyde-cloud doctor {}", std::process::id());
        let page = marker.clone();
        let app = Router::new().fallback(move || std::future::ready(page.clone()));
        // Only registration uses the API.
        let mut settings = ClesydeCloud::builder(sn, base_path, "").application(app);
        if let Some(proxy) = proxy {
            settings = settings.proxy(proxy);
        }
        let cloud = settings.build();
        match cloud.initialize().await {
            Ok(()) => Ok(Self { cloud, marker }),
            Err(InitializeError::Lock(LockError::InUse { directory, pid })) => {
                let process = describe_process(pid);
                Err(CheckResult::warning(
                    format!(
                        "{process} locks {directory:?} and does not report its status, so the remaining steps were skipped"
                    ),
                    "stop it or wait until it ends, then run `doctor` again",
                ))
            }
            Err(InitializeError::Lock(LockError::Access(error))) => {
                Err(CheckResult::failed(chain(&error), DIRECTORY_ADVICE))
            }
            Err(error) => Err(CheckResult::failed(
                chain(&error),
                "fix the problems of the steps above, or register again with `clesyde-cloud provision --force`",
            )),
        }
    }

    pub(super) async fn stop(&self) {
        self.cloud.stop().await;
    }

    /// Runs the steps until one fails. Returns whether all passed.
    pub(super) async fn check(&self, report: &mut Report) -> Result<bool> {
        let stopped = |error| CliError::with_cause("the device was stopped", &error);
        let iot = self.cloud.iot().map_err(stopped)?;
        let (client, mut granted) = session(iot.state()).await;
        let refused = iot.refused_subscriptions();
        let refused: Vec<_> = refused.iter().map(ToString::to_string).collect();
        if matches!(granted, CheckResult::Passed(_)) {
            granted = subscriptions(&refused, granted);
        }
        report.record(CLIENT_CERTIFICATE, &client)?;
        if !report.record(SUBSCRIPTIONS, &granted)? {
            report.record(TOKEN, &CheckResult::requires(SUBSCRIPTIONS))?;
            report.record(TUNNEL, &CheckResult::requires(TOKEN))?;
            return Ok(false);
        }
        // Without a certificate, remote access starts only once the platform sends another one.
        let Some(remote) = self.cloud.remote().map_err(stopped)? else {
            report.record(TOKEN, &CheckResult::requires(REMOTE_CERTIFICATE))?;
            report.record(TUNNEL, &CheckResult::requires(TOKEN))?;
            return Ok(false);
        };
        let mut status = remote.status();
        if !report.record(TOKEN, &token(&mut status).await)? {
            report.record(TUNNEL, &CheckResult::requires(TOKEN))?;
            return Ok(false);
        }
        report.record(TUNNEL, &tunnel(&mut status).await)
    }
}

/// Returns the results of the steps in a running instance, which knows them. `refused` are the
/// filters that the broker refuses.
pub(crate) fn check_instance(
    instance: &InstanceStatus,
    refused: &[String],
) -> [(&'static str, CheckResult); 4] {
    let by = |state: &str| {
        CheckResult::Passed(format!(
            "{state}, according to the running process {}",
            instance.pid
        ))
    };
    let down = |missing: &str, reason: &Option<String>| {
        let reason = reason.as_deref().unwrap_or("it has just started");
        CheckResult::failed(
            format!(
                "process {} runs and has no {missing}: {reason}",
                instance.pid
            ),
            "see its log; to check each step here, stop it and run `doctor` again",
        )
    };
    let (client, subscriptions) = if instance.iot_connected {
        (by("accepted"), subscriptions(refused, by("granted")))
    } else {
        (
            down("session", &instance.iot_reason),
            CheckResult::requires(CLIENT_CERTIFICATE),
        )
    };
    // An open tunnel stays open without messaging.
    let (token, tunnel) = if instance.remote_connected {
        (by("accepted"), by("open"))
    } else {
        (
            CheckResult::requires(TUNNEL),
            down("tunnel", &instance.remote_reason),
        )
    };
    [
        (CLIENT_CERTIFICATE, client),
        (SUBSCRIPTIONS, subscriptions),
        (TOKEN, token),
        (TUNNEL, tunnel),
    ]
}

/// Records the results that a running instance has sent. Returns whether the tunnel is open.
pub(super) fn record_instance(answer: &Value, report: &mut Report) -> Result<bool> {
    let mut open = false;
    for step in [CLIENT_CERTIFICATE, SUBSCRIPTIONS, TOKEN, TUNNEL] {
        let lines = answer["checks"].as_array().into_iter().flatten();
        let line = lines.into_iter().find(|line| line["step"] == step);
        let unknown = || CheckResult::Skipped("the running instance does not report it".to_owned());
        let result = line
            .and_then(CheckResult::from_json)
            .unwrap_or_else(unknown);
        open = report.record(step, &result)?;
    }
    Ok(open)
}

/// Returns the result of the subscriptions of a session that is online.
fn subscriptions(refused: &[String], granted: CheckResult) -> CheckResult {
    if refused.is_empty() {
        return granted;
    }
    CheckResult::warning(
        format!("online, but the broker refuses {}", refused.join(", ")),
        POLICY_ADVICE,
    )
}

/// Waits for the session; returns the results of client certificate and subscriptions.
async fn session(mut state: watch::Receiver<SessionState>) -> (CheckResult, CheckResult) {
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
    if timeout(SESSION_TIMEOUT, online).await.unwrap_or(false) {
        return (
            CheckResult::Passed("the broker accepts this device".to_owned()),
            CheckResult::Passed("all granted, and ONLINE is published".to_owned()),
        );
    }
    match last.as_deref() {
        Some(
            cause @ (Cause::SubscriptionRefused { .. }
            | Cause::NotPermitted { .. }
            | Cause::SubscribeTimeout),
        ) => (
            CheckResult::Passed("the broker accepts this device".to_owned()),
            CheckResult::failed(cause.to_string(), POLICY_ADVICE),
        ),
        other => {
            let cause = other.map_or_else(
                || format!("no answer within {} s", SESSION_TIMEOUT.as_secs()),
                ToString::to_string,
            );
            (
                CheckResult::failed(cause, other.map_or(NO_ANSWER, advice)),
                CheckResult::requires(CLIENT_CERTIFICATE),
            )
        }
    }
}

const POLICY_ADVICE: &str =
    "the platform's policy has to allow this device its topics: contact the platform's operator";

const NO_ANSWER: &str =
    "check whether the network is very slow; otherwise contact the platform's operator";

fn advice(cause: &Cause) -> &'static str {
    match cause {
        Cause::Tls(TlsCause::ClientCertificateRejected(_)) | Cause::NotAccepted { .. } => {
            "the platform does not know this certificate, has revoked it, or its policy does not permit this device: register again with `clesyde-cloud provision --force`"
        }
        Cause::Tls(TlsCause::HandshakeAborted | TlsCause::NotTls) => {
            "allow TLS to ports 8883 and 443 in the firewall; if nothing blocks it, the platform may not know this device: register again with `clesyde-cloud provision --force`"
        }
        Cause::Proxy(_) => "correct --proxy or HTTPS_PROXY, or the proxy's rules",
        Cause::Closed { .. } => {
            "on AWS this is how a policy refuses a topic: report it to the platform's operator; if another device or program \
             uses this identity, stop it"
        }
        cause if cause.is_takeover() => {
            "another device or program uses this identity: stop it (the original library ignores the lock), or register again"
        }
        _ => NO_ANSWER,
    }
}

/// Waits for a token or an error.
async fn token(status: &mut watch::Receiver<RemoteStatus>) -> CheckResult {
    let known = status.wait_for(|status| {
        status.token_valid.is_some()
            || matches!(
                status.tunnel,
                TunnelStatus::WaitingForToken { cause: Some(_) }
            )
    });
    let cause = match timeout(TOKEN_TIMEOUT, known).await {
        Ok(Ok(status)) => match (&status.tunnel, status.token_valid) {
            (TunnelStatus::WaitingForToken { cause: Some(cause) }, None) => cause.clone(),
            (_, valid) => {
                let until = valid.map_or_else(String::new, |until| {
                    format!(", valid until {}", rfc3339(until))
                });
                return CheckResult::Passed(format!("the platform sent one{until}"));
            }
        },
        _ => format!(
            "the platform sent none within {} s",
            TOKEN_TIMEOUT.as_secs()
        ),
    };
    CheckResult::failed(
        cause,
        "remote access may not be enabled for this device: contact the platform's operator",
    )
}

/// Waits for the tunnel or an error.
async fn tunnel(status: &mut watch::Receiver<RemoteStatus>) -> CheckResult {
    let known = status.wait_for(|status| {
        matches!(
            status.tunnel,
            TunnelStatus::Connected { .. }
                | TunnelStatus::Waiting { .. }
                | TunnelStatus::WaitingForToken { cause: Some(_) }
        )
    });
    let cause = match timeout(TUNNEL_TIMEOUT, known).await {
        Ok(Ok(status)) => match &status.tunnel {
            TunnelStatus::Waiting { cause, .. }
            | TunnelStatus::WaitingForToken { cause: Some(cause) } => cause.clone(),
            _ => {
                return CheckResult::Passed(
                    "the relay accepts the token and the response to its challenge".to_owned(),
                );
            }
        },
        _ => format!(
            "the relay did not answer within {} s",
            TUNNEL_TIMEOUT.as_secs()
        ),
    };
    CheckResult::failed(
        cause,
        "if it is unreachable, allow outgoing connections to it in the firewall or the proxy; if it refuses, contact the platform's operator",
    )
}
