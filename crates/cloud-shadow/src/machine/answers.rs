//! What an answer does: to the request that it is for, and to what is known of the document.

use std::time::Instant;

use super::{Answer, Done, InFlight, Machine, Refresh, Waiting};
use crate::error::{Malformed, RejectionCode, RequestError};
use crate::message;
use crate::topic::Operation;

impl Machine {
    /// Takes the request in flight if this is its answer.
    fn answered(&mut self, operation: Operation, payload: &[u8]) -> Option<InFlight> {
        let token = message::client_token(payload)?;
        let ours = self
            .in_flight
            .take_if(|it| it.operation == operation && it.token == token);
        self.connections.answered |= ours.is_some();
        ours
    }

    /// Every client of the shadow receives every answer: one that is not ours is still news.
    pub(super) fn accepted(
        &mut self,
        now: Instant,
        operation: Operation,
        payload: &[u8],
    ) -> Result<(), Malformed> {
        let ours = self.answered(operation, payload);
        let baseline = ours.as_ref().map(|it| it.baseline);
        let mut anew = false;
        let result = match operation {
            Operation::Get => message::parse_document(payload).map(|document| {
                match baseline {
                    Some(baseline) => self.replica.got(document.clone(), baseline),
                    None => self.replica.snapshot(document.clone()),
                }
                Answer::Document(document)
            }),
            Operation::Update => message::parse_patch(payload).map(|patch| {
                let version = patch.version;
                // It comes after all that we had seen when we asked, unless counting has begun anew.
                anew = baseline.is_some_and(|baseline| version <= baseline);
                self.replica.patch(patch);
                Answer::Updated(version)
            }),
            Operation::Delete => message::parse_deleted(payload).map(|version| {
                self.replica.deleted(version);
                Answer::Deleted
            }),
        };
        if anew {
            self.demand();
        }
        match ours {
            Some(ours) => {
                self.finish(now, ours, result.map_err(RequestError::Unreadable));
                Ok(())
            }
            None => result.map(drop),
        }
    }

    /// Has the document fetched, unless that is to be repeated already.
    fn demand(&mut self) {
        if !matches!(self.refresh, Refresh::Retry { .. }) {
            self.refresh = Refresh::Demanded;
        }
    }

    /// Another client's refusal is none of our business.
    pub(super) fn rejected(&mut self, now: Instant, operation: Operation, payload: &[u8]) {
        let Some(ours) = self.answered(operation, payload) else {
            return;
        };
        let error = match message::parse_rejection(operation, payload) {
            Ok(rejection) => {
                if rejection.code == RejectionCode::NotFound && operation != Operation::Update {
                    self.replica.found_none(ours.baseline);
                }
                // Somebody has changed it, and we may not have heard of it.
                if rejection.code == RejectionCode::Conflict {
                    self.demand();
                }
                RequestError::Rejected(rejection)
            }
            Err(error) => RequestError::Unreadable(error),
        };
        self.finish(now, ours, Err(error));
    }

    pub(super) fn finish(
        &mut self,
        now: Instant,
        in_flight: InFlight,
        result: Result<Answer, RequestError>,
    ) {
        match in_flight.caller {
            Some(Waiting { id, .. }) => {
                // An update whose outcome is not known: the document tells.
                let unknown = matches!(
                    result,
                    Err(RequestError::TimedOut(
                        Operation::Update | Operation::Delete
                    ))
                );
                if unknown {
                    self.demand();
                }
                self.done.push_back(Done { id, result });
            }
            None => self.refreshed(now, result, in_flight.overtaken),
        }
        self.plan_refresh(now);
    }
}
