//! Whether the application behind the tunnel answers, for people and supervisors: a device can be
//! reachable while its application is not.
//!
//! The results of requests and connections of callers are used. A web application is also tried
//! with connections that send nothing; one with a protocol of its own could be disturbed by those.

use std::time::{Duration, SystemTime};

use cloud_facade::remote::{Upstream, UpstreamFailure};
use cloud_facade::{ClesydeCloud, WeakClesydeCloud};
use cloud_net::{LogThrottle, UntrustedText, info_throttled, warn_throttled};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::time_fmt::now;

/// Interval at which the results of requests are read.
const INTERVAL: Duration = Duration::from_secs(1);

/// Interval of connections to an application that does not answer, and to one that does.
const DOWN_INTERVAL: Duration = Duration::from_secs(2);
const UP_INTERVAL: Duration = Duration::from_secs(10);

/// How long a failed request counts if no other follows: connections do not show its cause.
const FAILED_REQUEST_VALIDITY: Duration = Duration::from_secs(60);

/// An application to check.
#[derive(Debug, Clone)]
pub(crate) struct CheckedApplication {
    pub(crate) upstream: Upstream,
    /// Whether it takes HTTP.
    pub(crate) is_http: bool,
}

/// The state of an application.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApplicationState {
    pub(crate) address: String,
    /// Whether it answers, if that is known.
    pub(crate) answers: Option<bool>,
    /// Why it does not answer.
    pub(crate) reason: Option<String>,
    /// The time of the last change of `answers`.
    pub(crate) since: Option<SystemTime>,
}

impl ApplicationState {
    /// Returns the problem as the end of a sentence.
    pub(crate) fn problem(&self) -> Option<String> {
        let reason = self.reason.as_ref()?;
        Some(format!(
            "the application at {} does not answer: {reason}",
            self.address
        ))
    }

    /// Returns the JSON event for the state.
    pub(crate) fn json(&self) -> Value {
        json!({
            "event": "application",
            "address": self.address,
            "answers": self.answers,
            "reason": self.reason,
            "ts": now(),
        })
    }
}

/// Returns the next state; never without an application.
///
/// # Cancel safety
/// The newest state is not lost.
pub(crate) async fn next_state(
    state: &mut Option<watch::Receiver<ApplicationState>>,
) -> ApplicationState {
    if let Some(state) = state
        && state.changed().await.is_ok()
    {
        return state.borrow_and_update().clone();
    }
    std::future::pending().await
}

/// Checks an application until it is dropped.
#[derive(Debug)]
pub(crate) struct ApplicationCheck {
    state: watch::Receiver<ApplicationState>,
    task: JoinHandle<()>,
}

impl ApplicationCheck {
    pub(crate) fn start(application: CheckedApplication, cloud: &ClesydeCloud) -> Self {
        let (sender, state) = watch::channel(ApplicationState {
            address: application.upstream.to_string(),
            answers: None,
            reason: None,
            since: None,
        });
        let task = Task {
            application,
            cloud: cloud.downgrade(),
            state: sender,
            last_check: None,
            log: LogThrottle::new(),
        };
        let task = tokio::spawn(task.run());
        Self { state, task }
    }

    pub(crate) fn state(&self) -> watch::Receiver<ApplicationState> {
        self.state.clone()
    }
}

impl Drop for ApplicationCheck {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    application: CheckedApplication,
    cloud: WeakClesydeCloud,
    state: watch::Sender<ApplicationState>,
    /// The time and the result of the last connection.
    last_check: Option<(Instant, Option<String>)>,
    log: LogThrottle,
}

impl Task {
    async fn run(mut self) {
        loop {
            let (answers, reason) = match self.failed_request() {
                Some(UpstreamFailure::Unreachable) if self.application.is_http => {
                    self.check(Duration::ZERO).await
                }
                Some(failure) => (Some(false), Some(description(failure).to_owned())),
                None if self.application.is_http => {
                    let is_up = self.state.borrow().answers == Some(true);
                    self.check(if is_up { UP_INTERVAL } else { DOWN_INTERVAL })
                        .await
                }
                None => (None, None),
            };
            self.update(answers, reason);
            sleep(INTERVAL).await;
        }
    }

    /// Returns the last failure of a request that no other has succeeded since.
    fn failed_request(&self) -> Option<UpstreamFailure> {
        let remote = self.cloud.upgrade()?.remote().ok()??;
        let (failure, at) = remote.upstream_health().last_failure?;
        (at.elapsed() < FAILED_REQUEST_VALIDITY).then_some(failure)
    }

    /// Returns whether the application accepts a connection, and why not, unless the last result is
    /// newer than `interval`.
    async fn check(&mut self, interval: Duration) -> (Option<bool>, Option<String>) {
        let is_due = self
            .last_check
            .as_ref()
            .is_none_or(|(at, _)| at.elapsed() >= interval);
        if is_due {
            let reached = self.application.upstream.check_reachable().await;
            let reason = reached
                .err()
                .map(|error| UntrustedText::of(&error).to_string());
            self.last_check = Some((Instant::now(), reason));
        }
        let reason = self
            .last_check
            .as_ref()
            .and_then(|(_, reason)| reason.clone());
        (Some(reason.is_none()), reason)
    }

    fn update(&self, answers: Option<bool>, reason: Option<String>) {
        let before = self.state.borrow().answers;
        self.state.send_if_modified(|state| {
            let is_new = state.answers != answers || state.reason != reason;
            if state.answers != answers {
                state.answers = answers;
                state.since = Some(SystemTime::now());
            }
            state.reason = reason;
            is_new
        });
        let state = self.state.borrow();
        match (before, state.problem()) {
            (None | Some(true), Some(problem)) => warn_throttled!(
                self.log,
                "{problem}; callers get an error until it does: is it running?"
            ),
            (Some(false), None) if answers == Some(true) => {
                info_throttled!(self.log, "the application at {} answers now", state.address);
            }
            _ => {}
        }
    }
}

fn description(failure: UpstreamFailure) -> &'static str {
    match failure {
        UpstreamFailure::Unreachable => "it accepts no connection",
        UpstreamFailure::Silent => "it takes requests and sends no response",
        _ => "its responses are not HTTP/1.1, or end early",
    }
}
