//! The state machine of a shadow client, without I/O or clock: it schedules requests, matches
//! responses, handles timeouts, and decides when to fetch the document.
//!
//! Inputs are the `handle_*` methods, outputs the `poll_*` methods. The [`driver`](crate::driver)
//! runs it.
//!
//! Invariants:
//!
//! - At most one request is in flight; it ends with its response, at its deadline, or by
//!   [`Core::handle_connected`].
//! - Every request accepted by [`Core::handle_request`] ends in exactly one [`Completion`], unless
//!   it is cancelled.
//! - While the replica is behind, an internal `get` is in flight or due.

mod request;
mod responses;
mod resync;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use cloud_net::{LogThrottle, warn_throttled};
use serde_json::{Value, json};

pub(crate) use self::request::{Completion, Request, RequestId, Response, Transmit};
use self::resync::{ConnectBackoff, Resync};
use crate::delta::read_delta;
use crate::document::{Object, patch_to};
use crate::error::RequestError;
use crate::message;
use crate::raw_json::{LeftOut, escape_invalid_utf8};
use crate::replica::Replica;
use crate::topic::{MessageKind, Operation};

/// Maximum queued requests of one shadow. A device has a handful of places that use its shadow; a
/// longer queue means that they send faster than the cloud responds.
pub(crate) const MAX_QUEUED: usize = 16;

/// Timeout, after a reconnect, for the response to a request sent before it. The broker sends
/// queued messages at once.
const LATE_RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Divisor of the time limit for an internal `get`, so that a caller's request queued behind it
/// still gets its turn.
const INTERNAL_GET_SHARE: u32 = 3;

#[derive(Debug)]
struct QueuedRequest {
    id: RequestId,
    request: Request,
    deadline: Instant,
}

#[derive(Debug)]
struct InFlight {
    /// `None`: an internal `get`.
    caller: Option<QueuedRequest>,
    operation: Operation,
    token: String,
    deadline: Instant,
    /// See [`Replica::baseline`].
    baseline: u64,
    /// Messages were lost since, so its response may be out of date.
    stale: bool,
}

/// The state machine; see the module.
#[derive(Debug)]
pub(crate) struct Core {
    replica: Replica,
    queue: VecDeque<QueuedRequest>,
    in_flight: Option<InFlight>,
    resync: Resync,
    connect_backoff: ConnectBackoff,
    completions: VecDeque<Completion>,
    time_limit: Duration,
    token_prefix: String,
    counter: u64,
    too_large_log: LogThrottle,
    malformed_log: LogThrottle,
    left_out_log: LogThrottle,
    resync_log: LogThrottle,
}

impl Core {
    /// Creates a core; `token_prefix` distinguishes this client's requests from those of other
    /// clients of the shadow.
    pub(crate) fn new(token_prefix: String, time_limit: Duration) -> Self {
        Self {
            replica: Replica::new(),
            queue: VecDeque::new(),
            in_flight: None,
            resync: Resync::Idle,
            connect_backoff: ConnectBackoff::default(),
            completions: VecDeque::new(),
            time_limit,
            token_prefix,
            counter: 0,
            too_large_log: LogThrottle::new(),
            malformed_log: LogThrottle::new(),
            left_out_log: LogThrottle::new(),
            resync_log: LogThrottle::new(),
        }
    }

    pub(crate) fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Returns the token of the request in flight.
    pub(crate) fn in_flight(&self) -> Option<&str> {
        self.in_flight
            .as_ref()
            .map(|in_flight| in_flight.token.as_str())
    }

    /// Queues a request.
    pub(crate) fn handle_request(
        &mut self,
        now: Instant,
        request: Request,
    ) -> Result<RequestId, RequestError> {
        if self.queue.len() >= MAX_QUEUED {
            return Err(RequestError::Busy(MAX_QUEUED));
        }
        self.counter += 1;
        let id = RequestId(self.counter);
        let deadline = now + self.time_limit;
        self.queue.push_back(QueuedRequest {
            id,
            request,
            deadline,
        });
        Ok(id)
    }

    /// Cancels a request: it is not sent if it is still queued.
    pub(crate) fn handle_cancel(&mut self, id: RequestId) {
        self.queue.retain(|waiting| waiting.id != id);
    }

    /// Handles a new connection: the document is fetched, at once unless the last connections have
    /// ended during the fetch. A `get` in flight may have lost its response with the last
    /// connection and is sent again; an update is not sent twice, but its response is awaited a
    /// little longer.
    pub(crate) fn handle_connected(&mut self, now: Instant) {
        self.resync = self.connect_backoff.on_connected(now);
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.deadline = in_flight.deadline.min(now + LATE_RESPONSE_TIMEOUT);
        }
        if let Some(in_flight) = self.in_flight.take_if(|it| it.operation == Operation::Get)
            && let Some(waiting) = in_flight.caller
        {
            self.queue.push_front(waiting);
        }
    }

    /// Handles the loss of messages: the document is fetched at once. A `get` in flight continues,
    /// or repeated losses would never let one complete; its response may be out of date, so another
    /// one follows.
    pub(crate) fn handle_messages_lost(&mut self) {
        self.resync = Resync::Now;
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.stale = true;
        }
    }

    /// Handles a failure of the bus to send the request with this token.
    pub(crate) fn handle_send_failure(&mut self, now: Instant, token: &str, error: RequestError) {
        if let Some(in_flight) = self.in_flight.take_if(|it| it.token == token) {
            self.finish(now, in_flight, Err(error));
        }
    }

    /// Handles a message about this shadow.
    pub(crate) fn handle_message(&mut self, now: Instant, kind: MessageKind, payload: &[u8]) {
        if payload.len() > message::MAX_MESSAGE {
            warn_throttled!(
                self.too_large_log,
                ?kind,
                bytes = payload.len(),
                "oversized shadow message ignored"
            );
            return;
        }
        let payload = &*escape_invalid_utf8(payload);
        let mut left_out = LeftOut::default();
        let read = match kind {
            MessageKind::Accepted(operation) => {
                self.accepted(now, operation, payload, &mut left_out)
            }
            MessageKind::Rejected(operation) => {
                self.rejected(now, operation, payload);
                Ok(())
            }
            MessageKind::Delta => {
                read_delta(payload, &mut left_out).map(|delta| self.replica.on_delta(delta))
            }
            MessageKind::Documents => message::parse_documents(payload, &mut left_out)
                .map(|document| self.replica.on_document(document)),
        };
        if !left_out.is_empty() {
            warn_throttled!(self.left_out_log, ?kind, %left_out, "left values out of a shadow message");
        }
        if let Err(error) = read {
            warn_throttled!(self.malformed_log, ?kind, %error, "unreadable shadow message ignored");
        }
        self.plan_resync(now);
    }

    /// Ends the requests whose deadline has passed. Call it at
    /// [`poll_timeout`](Self::poll_timeout); an earlier call does no harm.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if let Some(in_flight) = self.in_flight.take_if(|it| it.deadline <= now) {
            let error = RequestError::TimedOut(in_flight.operation);
            self.finish(now, in_flight, Err(error));
        }
        let completions = &mut self.completions;
        self.queue.retain(|waiting| {
            let in_time = waiting.deadline > now;
            if !in_time {
                let result = Err(RequestError::TimedOut(waiting.request.operation()));
                completions.push_back(Completion {
                    id: waiting.id,
                    result,
                });
            }
            in_time
        });
    }

    /// Returns when to call [`handle_timeout`](Self::handle_timeout) and
    /// [`poll_transmit`](Self::poll_transmit) next.
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let resync = match self.resync {
            Resync::CatchUp(at) | Resync::Retry { at, .. } if self.in_flight.is_none() => Some(at),
            _ => None,
        };
        let deadlines = self.queue.iter().map(|waiting| waiting.deadline);
        let in_flight = self.in_flight.as_ref().map(|it| it.deadline);
        deadlines.chain(in_flight).chain(resync).min()
    }

    /// Returns the next request to publish.
    pub(crate) fn poll_transmit(&mut self, now: Instant) -> Option<Transmit> {
        if self.in_flight.is_some() {
            return None;
        }
        let resync = match self.resync {
            Resync::Idle => false,
            Resync::Now => true,
            Resync::CatchUp(at) | Resync::Retry { at, .. } => at <= now,
        };
        if resync {
            return Some(self.send(
                Operation::Get,
                json!({}),
                now + self.time_limit / INTERNAL_GET_SHARE,
                None,
            ));
        }
        while let Some(waiting) = self.queue.pop_front() {
            let body = match &waiting.request {
                Request::Get | Request::Delete => json!({}),
                Request::Update {
                    state,
                    version: None,
                } => json!({ "state": state }),
                Request::Update { state, version } => json!({ "state": state, "version": version }),
                Request::Report(wanted) => {
                    let news = self.unreported(wanted);
                    if news.is_empty() {
                        self.completions.push_back(Completion {
                            id: waiting.id,
                            result: Ok(Response::Unchanged),
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

    /// Returns the next completed request.
    pub(crate) fn poll_completion(&mut self) -> Option<Completion> {
        self.completions.pop_front()
    }

    fn send(
        &mut self,
        operation: Operation,
        mut body: Value,
        deadline: Instant,
        caller: Option<QueuedRequest>,
    ) -> Transmit {
        self.connect_backoff.requested |= caller.is_none();
        self.counter += 1;
        let token = format!("{}-{}", self.token_prefix, self.counter);
        body["clientToken"] = Value::from(token.as_str());
        self.in_flight = Some(InFlight {
            caller,
            operation,
            token: token.clone(),
            deadline,
            baseline: self.replica.baseline(),
            stale: false,
        });
        Transmit {
            operation,
            token,
            payload: body.to_string().into_bytes(),
        }
    }

    /// Returns the part of `wanted` that is not reported yet, as far as known.
    fn unreported(&self, wanted: &Object) -> Object {
        match self.replica.document() {
            Some(document) if !self.replica.is_behind() && matches!(self.resync, Resync::Idle) => {
                patch_to(wanted, &document.reported)
            }
            _ => wanted.clone(),
        }
    }
}

#[cfg(test)]
mod convergence;
#[cfg(test)]
mod tests;
