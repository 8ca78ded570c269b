//! Examples of the core's behaviour.

mod resync;

use serde_json::json;

use super::resync::{CATCH_UP_DELAY, MAX_RETRY_DELAY};
use super::*;
use crate::test_support::{DeltaForm, FakeCloud, object};

const LIMIT: Duration = Duration::from_secs(30);

struct Harness {
    core: Core,
    cloud: FakeCloud,
    now: Instant,
}

impl Harness {
    fn new() -> Self {
        Self {
            core: Core::new("test".to_owned(), LIMIT),
            cloud: FakeCloud::new(DeltaForm::Aws),
            now: Instant::now(),
        }
    }

    /// A connected harness with the document `{"desired": desired}` at version 1.
    fn with_desired(desired: Value) -> Self {
        let mut harness = Self::new();
        harness
            .cloud
            .update(&json!({ "desired": desired }), &Value::Null);
        harness.core.handle_connected(harness.now);
        harness.respond_all();
        harness
    }

    fn submit(&mut self, request: Request) -> RequestId {
        self.core.handle_request(self.now, request).unwrap()
    }

    fn transmit(&mut self) -> Option<Transmit> {
        self.core.poll_transmit(self.now)
    }

    fn deliver(&mut self, messages: &[(MessageKind, Vec<u8>)]) {
        for (kind, payload) in messages {
            self.core.handle_message(self.now, *kind, payload);
        }
    }

    /// The cloud executes all requests of the core; returns their payloads.
    fn respond_all(&mut self) -> Vec<Value> {
        let mut sent = Vec::new();
        while let Some(transmit) = self.transmit() {
            sent.push(serde_json::from_slice(&transmit.payload).unwrap());
            let responses = self.cloud.handle(transmit.operation, &transmit.payload);
            self.deliver(&responses);
        }
        sent
    }

    fn done(&mut self) -> Vec<(RequestId, Result<Response, RequestError>)> {
        std::iter::from_fn(|| self.core.poll_completion())
            .map(|done| (done.id, done.result))
            .collect()
    }

    fn one_result(&mut self) -> Result<Response, RequestError> {
        let mut done = self.done();
        assert_eq!(done.len(), 1, "{done:?}");
        done.remove(0).1
    }

    /// Advances the clock to the core's next deadline.
    fn sleep(&mut self) -> Duration {
        let at = self.core.poll_timeout().expect("no deadline");
        let slept = at.saturating_duration_since(self.now);
        self.now = self.now.max(at);
        self.core.handle_timeout(self.now);
        slept
    }

    fn delta(&self) -> Value {
        Value::Object(self.core.replica().delta().state.clone())
    }
}

fn update(reported: Value) -> Request {
    Request::Update {
        state: json!({ "reported": reported }),
        version: None,
    }
}

/// A broker closes a connection for a request that its policy forbids. Other users of the
/// connection must get their time.
#[test]
fn get_backs_off_when_connections_keep_failing() {
    let mut harness = Harness::new();
    let mut delays = Vec::new();
    for _ in 0..12 {
        harness.core.handle_connected(harness.now);
        let mut slept = Duration::ZERO;
        while harness.transmit().is_none() {
            slept += harness.sleep();
        }
        delays.push(slept);
        // The next connection may take so long that the get has timed out meanwhile.
        harness.now += LIMIT;
        harness.core.handle_timeout(harness.now);
    }
    assert_eq!(
        delays[..2],
        [Duration::ZERO; 2],
        "a single failure may be chance"
    );
    assert!(
        delays[2] > Duration::ZERO && delays[11] == MAX_RETRY_DELAY,
        "{delays:?}"
    );
    // A response shows that the get is not the cause.
    harness.core.handle_connected(harness.now);
    while harness.respond_all().is_empty() {
        harness.sleep();
    }
    for _ in 0..2 {
        harness.core.handle_connected(harness.now);
        assert!(harness.transmit().is_some());
    }
}

#[test]
fn offline_change_is_found_after_connecting() {
    let mut harness = Harness::with_desired(json!({"remoteCertSn": "1"}));
    // Offline: none of these messages arrives.
    harness
        .cloud
        .update(&json!({"desired": {"remoteCertSn": "2"}}), &Value::Null);
    harness.core.handle_connected(harness.now);
    harness.respond_all();
    assert_eq!(harness.delta(), json!({"remoteCertSn": "2"}));
    assert_eq!(
        harness.core.replica().document().cloned(),
        harness.cloud.document()
    );
}

#[test]
fn first_update_creates_the_shadow() {
    let mut harness = Harness::new();
    harness.core.handle_connected(harness.now);
    harness.respond_all();
    assert_eq!(harness.core.replica().document(), None);
    assert_eq!(harness.core.poll_timeout(), None);
    assert!(harness.done().is_empty());

    let id = harness.submit(update(json!({"a": 1})));
    harness.respond_all();
    assert!(matches!(harness.done()[..], [(done, Ok(Response::Updated(1)))] if done == id));
    assert_eq!(
        harness.core.replica().document().cloned(),
        harness.cloud.document()
    );
}

#[test]
fn requests_are_sent_one_at_a_time_in_order() {
    let mut harness = Harness::new();
    let ids = [1, 2, 3].map(|n| harness.submit(update(json!({ "a": n }))));
    let first = harness.transmit().unwrap();
    assert_eq!(harness.transmit(), None);
    let responses = harness.cloud.handle(first.operation, &first.payload);
    harness.deliver(&responses);
    harness.respond_all();
    let order: Vec<_> = harness.done().into_iter().map(|(id, _)| id).collect();
    assert_eq!(order, ids);
    assert_eq!(
        harness.cloud.document().unwrap().reported,
        object(json!({"a": 3}))
    );
}

#[test]
fn queue_is_bounded() {
    let mut harness = Harness::new();
    for _ in 0..MAX_QUEUED {
        harness.submit(Request::Get);
    }
    let refused = harness.core.handle_request(harness.now, Request::Get);
    assert!(matches!(refused, Err(RequestError::Busy(MAX_QUEUED))));
    assert!(refused.unwrap_err().is_retryable());
}

#[test]
fn rejection_carries_its_code() {
    let mut harness = Harness::with_desired(json!({}));
    let state = json!({"reported": {"a": 1}});
    harness.submit(Request::Update {
        state,
        version: Some(9),
    });
    harness.respond_all();
    let error = harness.one_result().unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    assert!(!error.is_retryable());

    harness.submit(Request::Delete);
    harness.respond_all();
    assert!(matches!(harness.one_result(), Ok(Response::Deleted)));
    harness.submit(Request::Delete);
    harness.respond_all();
    assert!(harness.one_result().unwrap_err().is_not_found());
}

#[test]
fn unreadable_response_fails_only_its_request() {
    let mut harness = Harness::new();
    harness.submit(Request::Get);
    let token = harness.transmit().unwrap().token;
    let accepted = MessageKind::Accepted(Operation::Get);
    for (kind, body) in [
        (accepted, "{".to_owned()),
        (
            accepted,
            r#"{"state": {}, "version": 1, "clientToken": "other-2"}"#.to_owned(),
        ),
        (
            MessageKind::Accepted(Operation::Delete),
            json!({ "clientToken": token }).to_string(),
        ),
        (MessageKind::Delta, "[]".to_owned()),
    ] {
        harness
            .core
            .handle_message(harness.now, kind, body.as_bytes());
        assert!(harness.done().is_empty(), "{body}");
    }
    let body = json!({"state": 5, "clientToken": token}).to_string();
    harness
        .core
        .handle_message(harness.now, accepted, body.as_bytes());
    assert!(matches!(
        harness.one_result(),
        Err(RequestError::Unreadable(_))
    ));
}

#[test]
fn update_timeout_triggers_get() {
    let mut harness = Harness::with_desired(json!({}));
    harness.submit(update(json!({"a": 1})));
    let lost = harness.transmit().unwrap();
    harness.cloud.handle(lost.operation, &lost.payload);
    assert_eq!(harness.sleep(), LIMIT);
    assert!(matches!(
        harness.one_result(),
        Err(RequestError::TimedOut(Operation::Update))
    ));
    assert_eq!(harness.respond_all().len(), 1);
    assert_eq!(
        harness.core.replica().document().cloned(),
        harness.cloud.document()
    );
}

#[test]
fn queued_request_times_out_unsent() {
    let mut harness = Harness::new();
    harness.submit(update(json!({"a": 1})));
    let _unanswered = harness.transmit().unwrap();
    harness.submit(update(json!({"a": 2})));
    harness.sleep();
    assert_eq!(harness.done().len(), 2);
    let next = harness.transmit().unwrap();
    assert_eq!(next.operation, Operation::Get);
}

#[test]
fn cancelled_request_is_not_sent() {
    let mut harness = Harness::new();
    let first = harness.submit(update(json!({"a": 1})));
    let second = harness.submit(update(json!({"a": 2})));
    harness.core.handle_cancel(second);
    harness.respond_all();
    assert!(matches!(harness.done()[..], [(id, Ok(_))] if id == first));
    assert_eq!(harness.cloud.version, 1);
}

#[test]
fn get_restarts_after_reconnect() {
    let mut harness = Harness::with_desired(json!({"a": 1}));
    harness.submit(Request::Get);
    let lost = harness.transmit().unwrap();
    harness.core.handle_connected(harness.now);
    let sent = harness.respond_all();
    assert_eq!(sent.len(), 2, "an internal one, and the caller's");
    assert!(
        sent.iter()
            .all(|request| request["clientToken"] != lost.token)
    );
    assert!(matches!(harness.one_result(), Ok(Response::Document(_))));
}

#[test]
fn late_update_response_is_accepted() {
    let mut harness = Harness::with_desired(json!({}));
    harness.submit(update(json!({"a": 1})));
    let sent = harness.transmit().unwrap();
    let responses = harness.cloud.handle(sent.operation, &sent.payload);
    harness.core.handle_connected(harness.now);
    assert_eq!(harness.transmit(), None);
    harness.deliver(&responses);
    assert!(matches!(harness.one_result(), Ok(Response::Updated(2))));
    assert_eq!(harness.transmit().unwrap().operation, Operation::Get);
}

#[test]
fn lost_update_does_not_block_get() {
    let mut harness = Harness::with_desired(json!({}));
    harness.submit(update(json!({"a": 1})));
    let _lost = harness.transmit().unwrap();
    harness.core.handle_connected(harness.now);
    assert_eq!(harness.transmit(), None);
    assert_eq!(harness.sleep(), LATE_RESPONSE_TIMEOUT);
    assert!(matches!(
        harness.one_result(),
        Err(RequestError::TimedOut(Operation::Update))
    ));
    assert_eq!(harness.respond_all().len(), 1);
}

#[test]
fn get_completes_despite_lost_messages() {
    let mut harness = Harness::with_desired(json!({"a": 1}));
    harness.core.handle_messages_lost();
    let get = harness.transmit().unwrap();
    for _ in 0..100 {
        harness.core.handle_messages_lost();
        assert_eq!(harness.transmit(), None);
    }
    let responses = harness.cloud.handle(get.operation, &get.payload);
    harness.deliver(&responses);
    assert_eq!(
        harness.respond_all().len(),
        1,
        "the first response may be out of date"
    );
    assert_eq!(harness.transmit(), None);

    // The same for a caller's get.
    harness.submit(Request::Get);
    let get = harness.transmit().unwrap();
    harness.core.handle_messages_lost();
    let responses = harness.cloud.handle(get.operation, &get.payload);
    harness.deliver(&responses);
    assert!(matches!(harness.one_result(), Ok(Response::Document(_))));
    assert_eq!(harness.respond_all().len(), 1);
}

#[test]
fn bus_error_fails_request_and_sends_next() {
    let mut harness = Harness::new();
    harness.submit(Request::Get);
    harness.submit(Request::Delete);
    let token = harness.transmit().unwrap().token;
    harness
        .core
        .handle_send_failure(harness.now, "unknown-token", RequestError::Closed);
    assert_eq!(harness.transmit(), None);
    harness
        .core
        .handle_send_failure(harness.now, &token, RequestError::Closed);
    assert!(matches!(harness.one_result(), Err(RequestError::Closed)));
    assert_eq!(harness.transmit().unwrap().operation, Operation::Delete);
}
