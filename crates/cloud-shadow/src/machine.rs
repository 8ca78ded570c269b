//! The decisions of a shadow client, without input, output or clock: which request is sent when, which answer belongs to
//! which, what has waited too long, and when the document has to be fetched.
//!
//! Messages and times go in (`handle_*`), what to send and what to tell comes out (`poll_*`). The shell around it is
//! [`task`](crate::task).
//!
//! Invariants:
//!
//! - At most one request is in flight; it ends with its answer, at its deadline, or by [`Machine::connected`].
//! - Every request that was accepted by [`Machine::submit`] ends in exactly one [`Done`], unless it was cancelled.
//! - While the replica is behind, a `get` of the machine's own is in flight or due.
//!
//! Protocol: `docs/protocol.md`, "Shadows".

mod answers;
mod refresh;
mod request;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use cloud_net::{LogThrottle, warn_throttled};
use serde_json::{Value, json};

use self::refresh::{Connections, Refresh};
pub(crate) use self::request::{Answer, Done, Request, RequestId, Transmit};
use crate::delta::parse_delta;
use crate::document::{Object, patch_towards};
use crate::error::RequestError;
use crate::message;
use crate::replica::Replica;
use crate::topic::{MessageKind, Operation};

/// Requests of one shadow that may wait for their turn. A device has a handful of places that touch its shadow; more
/// than this waiting means that they ask faster than the cloud answers.
pub(crate) const MAX_WAITING: usize = 16;

/// How long an answer that went out on the last connection is waited for on the next one. The broker sends what it has kept
/// for the device at once.
const LATE_ANSWER: Duration = Duration::from_secs(5);

/// A `get` of our own is given up after this part of the time limit, so that a request of a caller that waits behind it
/// still gets its turn.
const OWN_PART: u32 = 3;

#[derive(Debug)]
struct Waiting {
    id: RequestId,
    request: Request,
    deadline: Instant,
}

#[derive(Debug)]
struct InFlight {
    /// `None`: a `get` of the machine's own.
    caller: Option<Waiting>,
    operation: Operation,
    token: String,
    deadline: Instant,
    /// See [`Replica::baseline`].
    baseline: u64,
    /// Messages were lost since, so its answer may be out of date.
    overtaken: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Machine {
    replica: Replica,
    waiting: VecDeque<Waiting>,
    in_flight: Option<InFlight>,
    refresh: Refresh,
    connections: Connections,
    done: VecDeque<Done>,
    time_limit: Duration,
    token_prefix: String,
    counter: u64,
    too_large_log: LogThrottle,
    malformed_log: LogThrottle,
    refresh_log: LogThrottle,
}

impl Machine {
    /// `token_prefix` tells this client's requests from those of any other client of the same shadow.
    pub(crate) fn new(token_prefix: String, time_limit: Duration) -> Self {
        Self {
            replica: Replica::new(),
            waiting: VecDeque::new(),
            in_flight: None,
            refresh: Refresh::Idle,
            connections: Connections::default(),
            done: VecDeque::new(),
            time_limit,
            token_prefix,
            counter: 0,
            too_large_log: LogThrottle::new(),
            malformed_log: LogThrottle::new(),
            refresh_log: LogThrottle::new(),
        }
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The token of the request in flight.
    pub(crate) fn in_flight(&self) -> Option<&str> {
        self.in_flight
            .as_ref()
            .map(|in_flight| in_flight.token.as_str())
    }

    /// Takes a request over, to be sent when its turn comes.
    pub(crate) fn submit(
        &mut self,
        now: Instant,
        request: Request,
    ) -> Result<RequestId, RequestError> {
        if self.waiting.len() >= MAX_WAITING {
            return Err(RequestError::Busy(MAX_WAITING));
        }
        self.counter += 1;
        let id = RequestId(self.counter);
        let deadline = now + self.time_limit;
        self.waiting.push_back(Waiting {
            id,
            request,
            deadline,
        });
        Ok(id)
    }

    /// Nobody waits for this request any more. If it is not sent yet it never will be.
    pub(crate) fn cancel(&mut self, id: RequestId) {
        self.waiting.retain(|waiting| waiting.id != id);
    }

    /// A connection was made: the document is fetched, at once unless the last ones have ended over that. A `get` in flight may
    /// have lost its answer with the last connection and starts over; an update is not sent twice, its answer is waited for a
    /// little longer.
    pub(crate) fn connected(&mut self, now: Instant) {
        self.refresh = self.connections.next(now);
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.deadline = in_flight.deadline.min(now + LATE_ANSWER);
        }
        if let Some(in_flight) = self.in_flight.take_if(|it| it.operation == Operation::Get)
            && let Some(waiting) = in_flight.caller
        {
            self.waiting.push_front(waiting);
        }
    }

    /// Messages were lost: the document is fetched at once. A `get` in flight goes on, or many losses one after the other would
    /// keep every one from its end; but what its answer says may have changed since, so another follows it.
    pub(crate) fn messages_lost(&mut self) {
        self.refresh = Refresh::Demanded;
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.overtaken = true;
        }
    }

    /// The message bus did not take the request with this token.
    pub(crate) fn handle_send_failure(&mut self, now: Instant, token: &str, error: RequestError) {
        if let Some(in_flight) = self.in_flight.take_if(|it| it.token == token) {
            self.finish(now, in_flight, Err(error));
        }
    }

    /// A message about this shadow has arrived.
    pub(crate) fn handle_message(&mut self, now: Instant, kind: MessageKind, payload: &[u8]) {
        if payload.len() > message::MAX_MESSAGE {
            warn_throttled!(
                self.too_large_log,
                ?kind,
                bytes = payload.len(),
                "shadow message too large, ignored"
            );
            return;
        }
        let read = match kind {
            MessageKind::Accepted(operation) => self.accepted(now, operation, payload),
            MessageKind::Rejected(operation) => {
                self.rejected(now, operation, payload);
                Ok(())
            }
            MessageKind::Delta => {
                parse_delta(payload).map(|delta| self.replica.delta_arrived(delta))
            }
            MessageKind::Documents => {
                message::parse_documents(payload).map(|document| self.replica.snapshot(document))
            }
        };
        if let Err(error) = read {
            warn_throttled!(self.malformed_log, ?kind, %error, "shadow message cannot be read, ignored");
        }
        self.plan_refresh(now);
    }

    /// Ends what has reached its deadline. To be called at [`poll_timeout`](Self::poll_timeout); earlier does no harm.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(in_flight) = self.in_flight.take_if(|it| it.deadline <= now) {
            let error = RequestError::TimedOut(in_flight.operation);
            self.finish(now, in_flight, Err(error));
        }
        let done = &mut self.done;
        self.waiting.retain(|waiting| {
            let in_time = waiting.deadline > now;
            if !in_time {
                let result = Err(RequestError::TimedOut(waiting.request.operation()));
                done.push_back(Done {
                    id: waiting.id,
                    result,
                });
            }
            in_time
        });
    }

    /// When [`handle_timeout`](Self::handle_timeout) or [`poll_transmit`](Self::poll_transmit) next has something to do,
    /// if nothing else happens before.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let refresh = match self.refresh {
            Refresh::CatchUp(at) | Refresh::Retry { at, .. } if self.in_flight.is_none() => {
                Some(at)
            }
            _ => None,
        };
        let deadlines = self.waiting.iter().map(|waiting| waiting.deadline);
        let in_flight = self.in_flight.as_ref().map(|it| it.deadline);
        deadlines.chain(in_flight).chain(refresh).min()
    }

    /// The next request to publish, if its turn has come.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if self.in_flight.is_some() {
            return None;
        }
        let refresh = match self.refresh {
            Refresh::Idle => false,
            Refresh::Demanded => true,
            Refresh::CatchUp(at) | Refresh::Retry { at, .. } => at <= now,
        };
        if refresh {
            return Some(self.send(
                Operation::Get,
                json!({}),
                now + self.time_limit / OWN_PART,
                None,
            ));
        }
        while let Some(waiting) = self.waiting.pop_front() {
            let body = match &waiting.request {
                Request::Get | Request::Delete => json!({}),
                Request::Update {
                    state,
                    version: None,
                } => json!({ "state": state }),
                Request::Update { state, version } => json!({ "state": state, "version": version }),
                Request::Report(wanted) => {
                    let news = self.news(wanted);
                    if news.is_empty() {
                        self.done.push_back(Done {
                            id: waiting.id,
                            result: Ok(Answer::Unchanged),
                        });
                        continue;
                    }
                    json!({ "state": { "reported": news } })
                }
            };
            return Some(self.send(
                waiting.request.operation(),
                body,
                waiting.deadline,
                Some(waiting),
            ));
        }
        None
    }

    /// The next request that has ended.
    pub(crate) fn poll_done(&mut self) -> Option<Done> {
        self.done.pop_front()
    }

    fn send(
        &mut self,
        operation: Operation,
        mut body: Value,
        deadline: Instant,
        caller: Option<Waiting>,
    ) -> Transmit {
        self.connections.asked |= caller.is_none();
        self.counter += 1;
        let token = format!("{}-{}", self.token_prefix, self.counter);
        body["clientToken"] = Value::from(token.as_str());
        self.in_flight = Some(InFlight {
            caller,
            operation,
            token: token.clone(),
            deadline,
            baseline: self.replica.baseline(),
            overtaken: false,
        });
        Transmit {
            operation,
            token,
            payload: body.to_string().into_bytes(),
        }
    }

    /// What of `wanted` is not reported yet, as far as that is known.
    fn news(&self, wanted: &Object) -> Object {
        match self.replica.document() {
            Some(document)
                if !self.replica.is_behind() && matches!(self.refresh, Refresh::Idle) =>
            {
                patch_towards(wanted, &document.reported)
            }
            _ => wanted.clone(),
        }
    }
}

#[cfg(test)]
mod convergence;
#[cfg(test)]
mod tests;
