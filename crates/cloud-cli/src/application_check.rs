//! Whether the applications behind the tunnel answer, for people and supervisors: a device can be
//! reachable while its application is not.
//!
//! The results of requests and connections of callers are used. A web application is also tried
//! with connections that send nothing; one with a protocol of its own could be disturbed by those.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cloud_facade::remote::{Upstream, UpstreamFailure};
use cloud_facade::{ClesydeCloud, WeakClesydeCloud};
use cloud_net::{LogThrottle, UntrustedText, info_throttled, warn_throttled};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::ticks::next_tick;
use crate::time_fmt::now;

/// Minimum interval at which the results of requests are read. While the application answers, they
/// are read when they change, so that an idle device wakes rarely.
const INTERVAL: Duration = Duration::from_secs(1);

/// Interval of connections to an application that does not answer, and to one that does.
const DOWN_INTERVAL: Duration = Duration::from_secs(2);
const UP_INTERVAL: Duration = Duration::from_secs(10);

/// A check that was late must not delay the next one.
const TIMER_SLACK: Duration = Duration::from_millis(500);

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

/// The states of the applications behind the tunnel; none for the built-in page. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct ApplicationStates(watch::Receiver<Vec<ApplicationState>>);

impl ApplicationStates {
    /// Returns the state of each application.
    pub(crate) fn all(&self) -> Vec<ApplicationState> {
        self.0.borrow().clone()
    }

    /// Returns the state of the first application with a problem, otherwise of the first.
    pub(crate) fn worst(&self) -> Option<ApplicationState> {
        let states = self.0.borrow();
        let failed = states.iter().find(|state| state.reason.is_some());
        failed.or(states.first()).cloned()
    }

    /// Returns the problem of an application that has one.
    pub(crate) fn problem(&self) -> Option<String> {
        self.worst()?.problem()
    }

    /// States that do not change.
    pub(crate) fn fixed(states: Vec<ApplicationState>) -> Self {
        Self(watch::channel(states).1)
    }
}

/// The changes of the states, one application at a time.
#[derive(Debug)]
pub(crate) struct ApplicationChanges {
    states: ApplicationStates,
    last: Vec<ApplicationState>,
    changed: VecDeque<ApplicationState>,
}

impl ApplicationChanges {
    pub(crate) fn new(states: ApplicationStates) -> Self {
        Self {
            states,
            last: Vec::new(),
            changed: VecDeque::new(),
        }
    }

    /// Returns the next state that has changed.
    ///
    /// # Cancel safety
    /// The newest state is not lost.
    pub(crate) async fn next(&mut self) -> ApplicationState {
        loop {
            if let Some(state) = self.changed.pop_front() {
                return state;
            }
            if self.states.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            let states = self.states.0.borrow_and_update().clone();
            let is_changed =
                |state: &&ApplicationState| state.since.is_some() && !self.last.contains(state);
            self.changed = states.iter().filter(is_changed).cloned().collect();
            self.last = states;
        }
    }
}

/// Checks applications until it is dropped.
#[derive(Debug)]
pub(crate) struct ApplicationChecks {
    cloud: WeakClesydeCloud,
    states: Arc<watch::Sender<Vec<ApplicationState>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl ApplicationChecks {
    pub(crate) fn start(applications: Vec<CheckedApplication>, cloud: &ClesydeCloud) -> Self {
        let mut checks = Self {
            cloud: cloud.downgrade(),
            states: Arc::default(),
            tasks: Vec::new(),
        };
        checks.replace(applications);
        checks
    }

    /// Checks these applications from now on. One that was checked before keeps its state.
    pub(crate) fn replace(&mut self, applications: Vec<CheckedApplication>) {
        self.end();
        self.states.send_modify(|states| {
            let known = std::mem::take(states);
            let state = |application: &CheckedApplication| {
                let address = application.upstream.to_string();
                let known = known.iter().find(|state| state.address == address);
                known.cloned().unwrap_or(ApplicationState {
                    address,
                    answers: None,
                    reason: None,
                    since: None,
                })
            };
            *states = applications.iter().map(state).collect();
        });
        let start = |(index, application): (usize, CheckedApplication)| {
            let task = Task {
                address: application.upstream.to_string(),
                application,
                cloud: self.cloud.clone(),
                index,
                states: Arc::clone(&self.states),
                last_check: None,
                log: LogThrottle::new(),
            };
            tokio::spawn(task.run())
        };
        self.tasks = applications.into_iter().enumerate().map(start).collect();
    }

    pub(crate) fn states(&self) -> ApplicationStates {
        ApplicationStates(self.states.subscribe())
    }

    fn end(&mut self) {
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }
}

impl Drop for ApplicationChecks {
    fn drop(&mut self) {
        self.end();
    }
}

struct Task {
    application: CheckedApplication,
    address: String,
    cloud: WeakClesydeCloud,
    /// The place of its state.
    index: usize,
    states: Arc<watch::Sender<Vec<ApplicationState>>>,
    /// The time and the result of the last connection.
    last_check: Option<(Instant, Option<String>)>,
    log: LogThrottle,
}

impl Task {
    async fn run(mut self) {
        loop {
            let changes = self.changes();
            let (answers, reason) = match self.failed_request() {
                Some(UpstreamFailure::Unreachable) if self.application.is_http => {
                    self.check(Duration::ZERO).await
                }
                Some(failure) => (Some(false), Some(description(failure).to_owned())),
                None if self.application.is_http => {
                    let is_up = self.state().answers == Some(true);
                    self.check(if is_up { UP_INTERVAL } else { DOWN_INTERVAL })
                        .await
                }
                None => (None, None),
            };
            self.update(answers, reason);
            let again = Instant::now() + INTERVAL;
            if answers != Some(false)
                && let Some(mut changes) = changes
            {
                // Changes and the end of remote access are alike: both are looked at.
                let _ = timeout_at(next_tick(UP_INTERVAL), changes.changed()).await;
            }
            sleep_until(again).await;
        }
    }

    /// Returns a receiver of the changes of the results of requests; `None` without remote access.
    fn changes(&self) -> Option<watch::Receiver<()>> {
        let remote = self.cloud.upgrade()?.remote().ok()??;
        Some(remote.upstream_changes())
    }

    /// Returns the last failure of a request that no other has succeeded since.
    fn failed_request(&self) -> Option<UpstreamFailure> {
        let remote = self.cloud.upgrade()?.remote().ok()??;
        let health = remote.upstream_health_of(&self.application.upstream);
        let (failure, at) = health.last_failure?;
        (at.elapsed() < FAILED_REQUEST_VALIDITY).then_some(failure)
    }

    /// Returns whether the application accepts a connection, and why not, unless the last result is
    /// newer than `interval`.
    async fn check(&mut self, interval: Duration) -> (Option<bool>, Option<String>) {
        let now = Instant::now();
        let is_due = self
            .last_check
            .as_ref()
            .is_none_or(|(at, _)| now.duration_since(*at) + TIMER_SLACK >= interval);
        if is_due {
            let reached = self.application.upstream.check_reachable().await;
            let reason = reached
                .err()
                .map(|error| UntrustedText::of(&error).to_string());
            self.last_check = Some((now, reason));
        }
        let reason = self
            .last_check
            .as_ref()
            .and_then(|(_, reason)| reason.clone());
        (Some(reason.is_none()), reason)
    }

    /// Returns the present state.
    fn state(&self) -> ApplicationState {
        let states = self.states.borrow();
        let own = states.get(self.index);
        own.cloned().unwrap_or_else(|| ApplicationState {
            address: self.address.clone(),
            answers: None,
            reason: None,
            since: None,
        })
    }

    fn update(&self, answers: Option<bool>, reason: Option<String>) {
        let before = self.state();
        if before.answers == answers && before.reason == reason {
            return;
        }
        let since = match before.answers == answers {
            true => before.since,
            false => Some(SystemTime::now()),
        };
        let after = ApplicationState {
            address: self.address.clone(),
            answers,
            reason,
            since,
        };
        self.states.send_if_modified(|states| {
            // The place may be another application's, after a change of the settings.
            let own = states.get_mut(self.index);
            let own = own.filter(|state| state.address == self.address);
            own.map(|state| *state = after.clone()).is_some()
        });
        match (before.answers, after.problem()) {
            (None | Some(true), Some(problem)) => warn_throttled!(
                self.log,
                "{problem}; callers get an error until it does: is it running?"
            ),
            (Some(false), None) if answers == Some(true) => {
                info_throttled!(self.log, "the application at {} answers now", self.address);
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
