//! Decides when a certificate is requested, and when again.
//!
//! Two limits hold. After a failure the same certificate is requested again after a delay that grows and has jitter. And a
//! [rate limit](super::rate_limit) holds for all requests, so that a platform that keeps naming other certificates causes few
//! of them; what is named meanwhile is skipped, but for the newest.
//!
//! Pure: `handle_event(now, event)` returns actions; there is no clock, no task and no certificate in here.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::rate_limit::RateLimit;
use crate::backoff::{ROTATION_RETRY, TOKEN_RETRY};
use crate::certificate::serial::CertificateSerial;
use crate::timeouts::RESPONSE_TIMEOUT;

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Time has passed.
    Tick,
    /// The platform can be asked, or cannot.
    Online(bool),
    /// The platform wishes for this certificate, or for none: whichever is in use by then is to stay.
    Desired(Option<CertificateSerial>),
    /// A certificate came, or the request failed.
    Answered(Result<(), ()>),
    /// The certificate that came is in use, or was not good.
    Installed(Result<(), ()>),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Ask for a certificate.
    Request(CertificateSerial),
    /// Give the request up: no answer came in time, or none is wanted any more.
    Cancel { timed_out: bool },
}

#[derive(Debug)]
enum Phase {
    Idle,
    Requested {
        serial: CertificateSerial,
        until: Duration,
    },
    /// Never given up here: it may have stored half of it.
    Installing {
        serial: CertificateSerial,
    },
    Waiting {
        until: Duration,
        why: Wait,
    },
}

/// Why the next request is not made yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The last attempt failed.
    Failure,
    /// The rate limit.
    RateLimit,
}

/// How far the rotation to the desired certificate is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RotationProgress {
    /// The certificate in use is the desired one, or none is desired.
    Idle,
    /// To be requested once the platform can be asked.
    Pending(CertificateSerial),
    /// Requested, or being installed.
    Active(CertificateSerial),
    /// To be requested at that time.
    Waiting {
        serial: CertificateSerial,
        until: Duration,
        why: Wait,
    },
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Core {
    rng: StdRng,
    online: bool,
    phase: Phase,
    failures: u32,
    /// Requests in a row that were under way when the platform could not be asked any more.
    cancelled_requests: u32,
    rate_limit: RateLimit,
    desired: Option<CertificateSerial>,
    in_use: CertificateSerial,
}

impl Core {
    /// The seed decides the jitter.
    pub(super) fn new(in_use: CertificateSerial, seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            online: false,
            phase: Phase::Idle,
            failures: 0,
            cancelled_requests: 0,
            rate_limit: RateLimit::default(),
            desired: None,
            in_use,
        }
    }

    /// Takes note of what has happened and says what to do about it.
    pub(super) fn handle_event(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.note(now, event, &mut actions);
        if let Phase::Requested { until, .. } = self.phase
            && now >= until
        {
            actions.push(Action::Cancel { timed_out: true });
            self.failed(now);
        }
        self.start(now, &mut actions);
        actions
    }

    /// When `handle_event` has to be called again even if nothing happens.
    pub(super) fn poll_timeout(&self) -> Option<Duration> {
        match self.phase {
            Phase::Requested { until, .. } => Some(until),
            Phase::Waiting { until, .. } if self.online => Some(until),
            Phase::Waiting { .. } | Phase::Idle | Phase::Installing { .. } => None,
        }
    }

    pub(super) fn progress(&self) -> RotationProgress {
        match &self.phase {
            Phase::Requested { serial, .. } | Phase::Installing { serial } => {
                RotationProgress::Active(serial.clone())
            }
            Phase::Idle | Phase::Waiting { .. } => match (self.wanted(), &self.phase) {
                (None, _) => RotationProgress::Idle,
                (Some(serial), &Phase::Waiting { until, why }) if self.online => {
                    RotationProgress::Waiting { serial, until, why }
                }
                (Some(serial), _) => RotationProgress::Pending(serial),
            },
        }
    }

    /// The certificate that is desired and not in use.
    fn wanted(&self) -> Option<CertificateSerial> {
        let desired = self.desired.as_ref();
        desired.filter(|desired| **desired != self.in_use).cloned()
    }

    fn note(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        match (event, &self.phase) {
            (Event::Online(online), phase) => {
                self.online = online;
                // The answer would come on the connection that is gone.
                if !online && matches!(phase, Phase::Requested { .. }) {
                    self.cancel(actions);
                    self.request_cancelled(now);
                }
            }
            (Event::Desired(desired), phase) => {
                if self.desired != desired {
                    let installing = matches!(phase, Phase::Installing { .. });
                    self.desired = desired;
                    self.failures = 0;
                    self.cancelled_requests = 0;
                    if !installing {
                        self.cancel(actions);
                    }
                }
            }
            (Event::Answered(Ok(())), Phase::Requested { serial, .. }) => {
                self.cancelled_requests = 0;
                self.phase = Phase::Installing {
                    serial: serial.clone(),
                };
            }
            (Event::Answered(Err(())), Phase::Requested { .. }) => {
                self.cancelled_requests = 0;
                self.failed(now);
            }
            (Event::Installed(Ok(())), Phase::Installing { serial }) => {
                self.in_use = serial.clone();
                self.failures = 0;
                self.phase = Phase::Idle;
            }
            (Event::Installed(Err(())), Phase::Installing { serial }) => {
                if self.desired.as_ref() == Some(serial) {
                    self.failed(now);
                } else {
                    self.phase = Phase::Idle;
                }
            }
            (Event::Tick | Event::Answered(_) | Event::Installed(_), _) => {}
        }
    }

    /// Gives up a request, or the wait for the next one.
    fn cancel(&mut self, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Requested { .. }) {
            actions.push(Action::Cancel { timed_out: false });
        }
        self.phase = Phase::Idle;
    }

    /// The session has ended before an answer came. Once may be chance: then it is asked again on the next one. But a
    /// broker ends a session for a request that its rules forbid, and then whatever else needs the session would never have
    /// it for long. What it is given here is enough.
    fn request_cancelled(&mut self, now: Duration) {
        self.cancelled_requests += 1;
        if self.cancelled_requests > 1 {
            let delay = TOKEN_RETRY.delay(self.cancelled_requests - 1, &mut self.rng);
            self.wait_after_failure(now + delay);
        }
    }

    fn failed(&mut self, now: Duration) {
        self.failures += 1;
        let delay = ROTATION_RETRY.delay(self.failures, &mut self.rng);
        self.wait_after_failure(now + delay);
    }

    fn wait_after_failure(&mut self, until: Duration) {
        self.phase = Phase::Waiting {
            until,
            why: Wait::Failure,
        };
    }

    /// What is due now.
    fn start(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let may_request = match self.phase {
            Phase::Idle => true,
            Phase::Waiting { until, .. } => now >= until,
            Phase::Requested { .. } | Phase::Installing { .. } => false,
        };
        if !(self.online && may_request) {
            return;
        }
        let Some(serial) = self.wanted() else {
            self.phase = Phase::Idle;
            return;
        };
        let until = self.rate_limit.next(now);
        if now < until {
            self.phase = Phase::Waiting {
                until,
                why: Wait::RateLimit,
            };
            return;
        }
        self.rate_limit.take(now);
        self.phase = Phase::Requested {
            serial: serial.clone(),
            until: now + RESPONSE_TIMEOUT,
        };
        actions.push(Action::Request(serial));
    }
}

#[cfg(test)]
mod tests;
