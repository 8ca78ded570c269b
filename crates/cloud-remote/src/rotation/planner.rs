//! Decides when a certificate is asked for, and when again.
//!
//! Pure: `step(now, event)` returns actions; there is no clock, no task and no certificate in here.

use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::backoff::{ROTATION_RETRY, TOKEN_RETRY};
use crate::planner::ANSWER_LIMIT;
use crate::serial::CertificateSerial;

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
    Abandon { timed_out: bool },
}

#[derive(Debug)]
enum Phase {
    Idle,
    Asked {
        serial: CertificateSerial,
        until: Duration,
    },
    /// Never given up here: it may have stored half of it.
    Installing {
        serial: CertificateSerial,
    },
    Waiting {
        until: Duration,
    },
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Planner {
    rng: StdRng,
    online: bool,
    phase: Phase,
    failures: u32,
    /// Requests in a row that were under way when the platform could not be asked any more.
    abandons: u32,
    desired: Option<CertificateSerial>,
    in_use: CertificateSerial,
}

impl Planner {
    /// The seed decides the jitter.
    pub(super) fn new(in_use: CertificateSerial, seed: u64) -> Self {
        Self {
            rng: StdRng::seed_from_u64(seed),
            online: false,
            phase: Phase::Idle,
            failures: 0,
            abandons: 0,
            desired: None,
            in_use,
        }
    }

    /// Takes note of what has happened and says what to do about it.
    pub(super) fn step(&mut self, now: Duration, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.note(now, event, &mut actions);
        if let Phase::Asked { until, .. } = self.phase
            && now >= until
        {
            actions.push(Action::Abandon { timed_out: true });
            self.failed(now);
        }
        self.start(now, &mut actions);
        actions
    }

    /// When `step` has to be called again even if nothing happens.
    pub(super) fn next_wake(&self) -> Option<Duration> {
        match self.phase {
            Phase::Asked { until, .. } => Some(until),
            Phase::Waiting { until } if self.online => Some(until),
            Phase::Waiting { .. } | Phase::Idle | Phase::Installing { .. } => None,
        }
    }

    fn note(&mut self, now: Duration, event: Event, actions: &mut Vec<Action>) {
        match (event, &self.phase) {
            (Event::Online(online), phase) => {
                self.online = online;
                // The answer would come on the connection that is gone.
                if !online && matches!(phase, Phase::Asked { .. }) {
                    self.abandon(actions);
                    self.abandoned(now);
                }
            }
            (Event::Desired(desired), phase) => {
                if self.desired != desired {
                    let installing = matches!(phase, Phase::Installing { .. });
                    self.desired = desired;
                    self.failures = 0;
                    self.abandons = 0;
                    if !installing {
                        self.abandon(actions);
                    }
                }
            }
            (Event::Answered(Ok(())), Phase::Asked { serial, .. }) => {
                self.abandons = 0;
                self.phase = Phase::Installing {
                    serial: serial.clone(),
                };
            }
            (Event::Answered(Err(())), Phase::Asked { .. }) => {
                self.abandons = 0;
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
    fn abandon(&mut self, actions: &mut Vec<Action>) {
        if matches!(self.phase, Phase::Asked { .. }) {
            actions.push(Action::Abandon { timed_out: false });
        }
        self.phase = Phase::Idle;
    }

    /// The session has ended before an answer came. Once may be chance: then it is asked again at once on the next one. But a
    /// broker ends a session for a request that its rules forbid, and then whatever else needs the session would never have
    /// it for long. What it is given here is enough.
    fn abandoned(&mut self, now: Duration) {
        self.abandons += 1;
        if self.abandons > 1 {
            let until = now + TOKEN_RETRY.delay(self.abandons - 1, &mut self.rng);
            self.phase = Phase::Waiting { until };
        }
    }

    fn failed(&mut self, now: Duration) {
        self.failures += 1;
        let until = now + ROTATION_RETRY.delay(self.failures, &mut self.rng);
        self.phase = Phase::Waiting { until };
    }

    /// What is due now.
    fn start(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let may_ask = match self.phase {
            Phase::Idle => true,
            Phase::Waiting { until } => now >= until,
            Phase::Asked { .. } | Phase::Installing { .. } => false,
        };
        if !(self.online && may_ask) {
            return;
        }
        let wish = self.desired.clone();
        let Some(serial) = wish.filter(|desired| *desired != self.in_use) else {
            self.phase = Phase::Idle;
            return;
        };
        self.phase = Phase::Asked {
            serial: serial.clone(),
            until: now + ANSWER_LIMIT,
        };
        actions.push(Action::Request(serial));
    }
}

#[cfg(test)]
mod tests;
