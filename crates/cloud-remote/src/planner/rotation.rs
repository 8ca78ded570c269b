//! The certificate's machine: what became of a request and of an installation.

use std::time::Duration;

use super::backoff::ROTATION_RETRY;
use super::{Action, Id, Planner, RotationPhase};

impl Planner {
    pub(super) fn certificate_answer(
        &mut self,
        now: Duration,
        id: Id,
        result: Result<(), ()>,
        actions: &mut Vec<Action>,
    ) {
        let RotationPhase::Asked {
            id: current,
            serial,
            ..
        } = &self.rotation
        else {
            return;
        };
        if *current != id {
            return;
        }
        if result.is_ok() {
            let serial = serial.clone();
            actions.push(Action::Install(id, serial.clone()));
            self.rotation = RotationPhase::Installing { id, serial };
        } else {
            self.rotation_failed(now);
        }
    }

    pub(super) fn installed(&mut self, now: Duration, id: Id, result: Result<(), ()>) {
        let RotationPhase::Installing {
            id: current,
            serial,
        } = &self.rotation
        else {
            return;
        };
        if *current != id {
            return;
        }
        if result.is_ok() {
            self.served = serial.clone();
            self.rotation_failures = 0;
            self.rotation = RotationPhase::Idle;
        } else if self.desired.as_ref() == Some(serial) {
            self.rotation_failed(now);
        } else {
            self.rotation = RotationPhase::Idle;
        }
    }

    pub(super) fn rotation_failed(&mut self, now: Duration) {
        self.rotation_failures += 1;
        let until = now + ROTATION_RETRY.delay(self.rotation_failures, &mut self.rng);
        self.rotation = RotationPhase::Waiting { until };
    }

    /// Gives up a request, or the wait for the next one. An installation is never cut short.
    pub(super) fn abandon_certificate(&mut self, actions: &mut Vec<Action>) {
        match self.rotation {
            RotationPhase::Asked { id, .. } => {
                actions.push(Action::AbandonCertificate {
                    id,
                    timed_out: false,
                });
                self.rotation = RotationPhase::Idle;
            }
            RotationPhase::Waiting { .. } => self.rotation = RotationPhase::Idle,
            RotationPhase::Idle | RotationPhase::Installing { .. } => {}
        }
    }
}
