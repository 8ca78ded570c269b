//! Handling of responses.

use std::time::Instant;

use super::{Completion, Core, InFlight, QueuedRequest, Response, Resync};
use crate::error::{Malformed, RejectionCode, RequestError};
use crate::message;
use crate::raw_json::LeftOut;
use crate::topic::Operation;

impl Core {
    /// Takes the request in flight if this is its response.
    fn take_own_request(&mut self, operation: Operation, payload: &[u8]) -> Option<InFlight> {
        let token = message::client_token(payload)?;
        let own = self
            .in_flight
            .take_if(|it| it.operation == operation && it.token == token);
        self.connect_backoff.responded |= own.is_some();
        own
    }

    /// Handles an accepted request. Every client of the shadow receives every response: those of
    /// other clients update the replica as well.
    pub(super) fn accepted(
        &mut self,
        now: Instant,
        operation: Operation,
        payload: &[u8],
        left_out: &mut LeftOut,
    ) -> Result<(), Malformed> {
        let own = self.take_own_request(operation, payload);
        let baseline = own.as_ref().map(|it| it.baseline);
        let mut recreated = false;
        let result = match operation {
            Operation::Get => message::parse_document(payload, left_out).map(|document| {
                match baseline {
                    Some(baseline) => self.replica.on_get(document.clone(), baseline),
                    None => self.replica.on_document(document.clone()),
                }
                Response::Document(document)
            }),
            Operation::Update => message::parse_patch(payload, left_out).map(|patch| {
                let version = patch.version;
                // Its version is above all versions seen before the request, unless versions have
                // restarted.
                recreated = baseline.is_some_and(|baseline| version <= baseline);
                self.replica.on_patch(patch);
                Response::Updated(version)
            }),
            Operation::Delete => message::parse_deleted(payload).map(|version| {
                self.replica.on_deleted(version);
                Response::Deleted
            }),
        };
        if recreated {
            self.request_resync();
        }
        match own {
            Some(own) => {
                self.finish(now, own, result.map_err(RequestError::Unreadable));
                Ok(())
            }
            None => result.map(drop),
        }
    }

    /// Requests the document, unless a retry is scheduled.
    fn request_resync(&mut self) {
        if !matches!(self.resync, Resync::Retry { .. }) {
            self.resync = Resync::Now;
        }
    }

    /// Handles a rejected request; rejections of other clients are ignored.
    pub(super) fn rejected(&mut self, now: Instant, operation: Operation, payload: &[u8]) {
        let Some(own) = self.take_own_request(operation, payload) else {
            return;
        };
        let error = match message::parse_rejection(operation, payload) {
            Ok(rejection) => {
                if rejection.code == RejectionCode::NotFound && operation != Operation::Update {
                    self.replica.on_not_found(own.baseline);
                }
                // Another client has changed it, and its messages may be lost.
                if rejection.code == RejectionCode::Conflict {
                    self.request_resync();
                }
                RequestError::Rejected(rejection)
            }
            Err(error) => RequestError::Unreadable(error),
        };
        self.finish(now, own, Err(error));
    }

    pub(super) fn finish(
        &mut self,
        now: Instant,
        in_flight: InFlight,
        result: Result<Response, RequestError>,
    ) {
        match in_flight.caller {
            Some(QueuedRequest { id, .. }) => {
                // The outcome of the update is unknown: the document shows it.
                let unknown = matches!(
                    result,
                    Err(RequestError::TimedOut(
                        Operation::Update | Operation::Delete
                    ))
                );
                if unknown {
                    self.request_resync();
                }
                self.completions.push_back(Completion { id, result });
            }
            None => self.on_resync_done(now, result, in_flight.stale),
        }
        self.plan_resync(now);
    }
}
