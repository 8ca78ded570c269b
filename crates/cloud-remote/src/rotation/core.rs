//! The core of a rotation: decides when a certificate is requested and when a request is retried.
//!
//! There are two limits. After a failure, the same certificate is requested again with back-off and
//! jitter. And a [rate limit](super::rate_limit) holds for all requests, so that a platform that
//! keeps naming other certificates causes few of them; all but the newest are skipped.
//!
//! Pure: `handle_event(now, event)` returns actions; there is no clock, task or certificate in the
//! core.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::rate_limit::RateLimit;
use crate::backoff::{ROTATION_RETRY, TOKEN_RETRY};
use crate::certificate::serial::CertificateSerial;
use crate::timeouts::RESPONSE_TIMEOUT;

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A timer has fired.
    Tick,
    /// The platform can be reached or not.
    Online(bool),
    /// The platform desires this certificate, or none: then the certificate in use stays.
    Desired(Option<CertificateSerial>),
    /// A certificate arrived, or the request failed.
    Response(Result<(), ()>),
    /// The new certificate is in use, or its installation failed.
    Installed(Result<(), ()>),
}

/// An action for the rotator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Request a certificate.
    Request(CertificateSerial),
    /// Cancel the request: it timed out, or the certificate is not desired any more.
    Cancel { timed_out: bool },
}

#[derive(Debug)]
enum Phase {
    Idle,
    Requested {
        serial: CertificateSerial,
        until: Duration,
    },
    /// Never cancelled: the installation may have stored a part.
    Installing {
        serial: CertificateSerial,
    },
    Waiting {
        until: Duration,
        why: Wait,
    },
}

/// The reason for which the next request waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The last attempt failed.
    Failure,
    /// The rate limit.
    RateLimit,
}

/// The state of the rotation to the desired certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RotationProgress {
    /// The certificate in use is the desired one, or none is desired.
    Idle,
    /// To be requested once the platform can be reached.
    Pending(CertificateSerial),
    /// Being requested or installed.
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
    /// Consecutive requests that were in progress when the session ended.
    cancelled_requests: u32,
    rate_limit: RateLimit,
    desired: Option<CertificateSerial>,
    in_use: CertificateSerial,
}

impl Core {
    /// Creates a core. The seed determines the jitter.
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

    /// Handles an event and returns the resulting actions.
    pub(super) fn handle_event(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.apply(now, event, &mut actions);
        if let Phase::Requested { until, .. } = self.phase
            && now >= until
        {
            actions.push(Action::Cancel { timed_out: true });
            self.failed(now);
        }
        self.start(now, &mut actions);
        actions
    }

    /// Returns when `handle_event` has to be called with [`Event::Tick`].
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

    /// Returns the desired certificate if it is not in use.
    fn wanted(&self) -> Option<CertificateSerial> {
        let desired = self.desired.as_ref();
        desired.filter(|desired| **desired != self.in_use).cloned()
    }

    fn apply(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        match (event, &self.phase) {
            (Event::Online(online), phase) => {
                self.online = online;
                // The response would arrive on the lost connection.
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
            (Event::Response(Ok(())), Phase::Requested { serial, .. }) => {
                self.cancelled_requests = 0;
                self.phase = Phase::Installing {
                    serial: serial.clone(),
                };
            }
            (Event::Response(Err(())), Phase::Requested { .. }) => {
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
            (Event::Tick | Event::Response(_) | Event::Installed(_), _) => {}
        }
    }

    /// Cancels a request, or the wait for the next one.
    fn cancel(&mut self, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Requested { .. }) {
            actions.push(Action::Cancel { timed_out: false });
        }
        self.phase = Phase::Idle;
    }

    /// Handles the end of the session before a response arrived. The first time may be a
    /// coincidence: the request is repeated on the next session. But a broker ends a session for a
    /// request that its policy forbids, and a device that repeats it at once would never stay
    /// connected.
    fn request_cancelled(&mut self, now: Duration) {
        self.cancelled_requests += 1;
        if self.cancelled_requests > 1 {
            let delay = TOKEN_RETRY.delay(self.cancelled_requests - 1, self.rng.random());
            self.wait_after_failure(now + delay);
        }
    }

    fn failed(&mut self, now: Duration) {
        self.failures += 1;
        let delay = ROTATION_RETRY.delay(self.failures, self.rng.random());
        self.wait_after_failure(now + delay);
    }

    fn wait_after_failure(&mut self, until: Duration) {
        self.phase = Phase::Waiting {
            until,
            why: Wait::Failure,
        };
    }

    /// Starts a request that is due.
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
