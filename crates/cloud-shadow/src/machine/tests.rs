//! The machine by examples: who is answered what, and when.

mod following;

use serde_json::json;

use super::refresh::{CATCH_UP, RETRY_MAX};
use super::*;
use crate::test_support::{FakeCloud, Form, object};

const LIMIT: Duration = Duration::from_secs(30);

struct World {
    machine: Machine,
    cloud: FakeCloud,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self {
            machine: Machine::new("test".to_owned(), LIMIT),
            cloud: FakeCloud::new(Form::Aws),
            now: Instant::now(),
        }
    }

    /// One that is connected and has the document `{"desired": desired}` at version 1.
    fn with_desired(desired: Value) -> Self {
        let mut world = Self::new();
        world
            .cloud
            .update(&json!({ "desired": desired }), &Value::Null);
        world.machine.connected(world.now);
        world.answer_all();
        world
    }

    fn submit(&mut self, request: Request) -> RequestId {
        self.machine.submit(self.now, request).unwrap()
    }

    fn transmit(&mut self) -> Option<Transmit> {
        self.machine.poll_transmit(self.now)
    }

    fn deliver(&mut self, messages: &[(MessageKind, Vec<u8>)]) {
        for (kind, payload) in messages {
            self.machine.handle_message(self.now, *kind, payload);
        }
    }

    /// The cloud carries out whatever the machine sends; returns the payloads of the requests.
    fn answer_all(&mut self) -> Vec<Value> {
        let mut sent = Vec::new();
        while let Some(transmit) = self.transmit() {
            sent.push(serde_json::from_slice(&transmit.payload).unwrap());
            let answers = self.cloud.handle(transmit.operation, &transmit.payload);
            self.deliver(&answers);
        }
        sent
    }

    fn done(&mut self) -> Vec<(RequestId, Result<Answer, RequestError>)> {
        std::iter::from_fn(|| self.machine.poll_done())
            .map(|done| (done.id, done.result))
            .collect()
    }

    fn one_result(&mut self) -> Result<Answer, RequestError> {
        let mut done = self.done();
        assert_eq!(done.len(), 1, "{done:?}");
        done.remove(0).1
    }

    /// Lets time pass until the machine wants to do something.
    fn sleep(&mut self) -> Duration {
        let at = self.machine.poll_timeout().expect("nothing is planned");
        let slept = at.saturating_duration_since(self.now);
        self.now = self.now.max(at);
        self.machine.handle_timeout(self.now);
        slept
    }

    fn delta(&self) -> Value {
        Value::Object(self.machine.replica().delta().state.clone())
    }
}

fn update(reported: Value) -> Request {
    Request::Update {
        state: json!({ "reported": reported }),
        version: None,
    }
}

/// A broker ends a connection for a request that its rules forbid. Other uses of the connection must get their time.
#[test]
fn get_backs_off_when_connections_keep_failing() {
    let mut world = World::new();
    let mut delays = Vec::new();
    for _ in 0..12 {
        world.machine.connected(world.now);
        let mut slept = Duration::ZERO;
        while world.transmit().is_none() {
            slept += world.sleep();
        }
        delays.push(slept);
        // It may take so long until there is another one that the get has ended meanwhile.
        world.now += LIMIT;
        world.machine.handle_timeout(world.now);
    }
    assert_eq!(delays[..2], [Duration::ZERO; 2], "once may be chance");
    assert!(
        delays[2] > Duration::ZERO && delays[11] == RETRY_MAX,
        "{delays:?}"
    );
    // An answer shows that it was not for the get.
    world.machine.connected(world.now);
    while world.answer_all().is_empty() {
        world.sleep();
    }
    for _ in 0..2 {
        world.machine.connected(world.now);
        assert!(world.transmit().is_some());
    }
}

#[test]
fn offline_change_is_found_after_connecting() {
    let mut world = World::with_desired(json!({"remoteCertSn": "1"}));
    // Offline: none of these messages arrives.
    world
        .cloud
        .update(&json!({"desired": {"remoteCertSn": "2"}}), &Value::Null);
    world.machine.connected(world.now);
    world.answer_all();
    assert_eq!(world.delta(), json!({"remoteCertSn": "2"}));
    assert_eq!(
        world.machine.replica().document().cloned(),
        world.cloud.document()
    );
}

#[test]
fn first_update_creates_the_shadow() {
    let mut world = World::new();
    world.machine.connected(world.now);
    world.answer_all();
    assert_eq!(world.machine.replica().document(), None);
    assert_eq!(world.machine.poll_timeout(), None);
    assert!(world.done().is_empty());

    let id = world.submit(update(json!({"a": 1})));
    world.answer_all();
    assert!(matches!(world.done()[..], [(done, Ok(Answer::Updated(1)))] if done == id));
    assert_eq!(
        world.machine.replica().document().cloned(),
        world.cloud.document()
    );
}

#[test]
fn requests_are_sent_one_at_a_time_in_order() {
    let mut world = World::new();
    let ids = [1, 2, 3].map(|n| world.submit(update(json!({ "a": n }))));
    let first = world.transmit().unwrap();
    assert_eq!(world.transmit(), None);
    let answers = world.cloud.handle(first.operation, &first.payload);
    world.deliver(&answers);
    world.answer_all();
    let order: Vec<_> = world.done().into_iter().map(|(id, _)| id).collect();
    assert_eq!(order, ids);
    assert_eq!(
        world.cloud.document().unwrap().reported,
        object(json!({"a": 3}))
    );
}

#[test]
fn queue_is_bounded() {
    let mut world = World::new();
    for _ in 0..MAX_WAITING {
        world.submit(Request::Get);
    }
    let refused = world.machine.submit(world.now, Request::Get);
    assert!(matches!(refused, Err(RequestError::Busy(MAX_WAITING))));
    assert!(refused.unwrap_err().is_retryable());
}

#[test]
fn rejection_carries_its_code() {
    let mut world = World::with_desired(json!({}));
    let state = json!({"reported": {"a": 1}});
    world.submit(Request::Update {
        state,
        version: Some(9),
    });
    world.answer_all();
    let error = world.one_result().unwrap_err();
    assert!(error.is_conflict(), "{error:?}");
    assert!(!error.is_retryable());

    world.submit(Request::Delete);
    world.answer_all();
    assert!(matches!(world.one_result(), Ok(Answer::Deleted)));
    world.submit(Request::Delete);
    world.answer_all();
    assert!(world.one_result().unwrap_err().is_not_found());
}

#[test]
fn unreadable_response_fails_only_its_request() {
    let mut world = World::new();
    world.submit(Request::Get);
    let token = world.transmit().unwrap().token;
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
        world
            .machine
            .handle_message(world.now, kind, body.as_bytes());
        assert!(world.done().is_empty(), "{body}");
    }
    let body = json!({"state": 5, "clientToken": token}).to_string();
    world
        .machine
        .handle_message(world.now, accepted, body.as_bytes());
    assert!(matches!(
        world.one_result(),
        Err(RequestError::Unreadable(_))
    ));
}

#[test]
fn update_timeout_triggers_get() {
    let mut world = World::with_desired(json!({}));
    world.submit(update(json!({"a": 1})));
    let lost = world.transmit().unwrap();
    world.cloud.handle(lost.operation, &lost.payload);
    assert_eq!(world.sleep(), LIMIT);
    assert!(matches!(
        world.one_result(),
        Err(RequestError::TimedOut(Operation::Update))
    ));
    assert_eq!(world.answer_all().len(), 1);
    assert_eq!(
        world.machine.replica().document().cloned(),
        world.cloud.document()
    );
}

#[test]
fn queued_request_times_out_unsent() {
    let mut world = World::new();
    world.submit(update(json!({"a": 1})));
    let _unanswered = world.transmit().unwrap();
    world.submit(update(json!({"a": 2})));
    world.sleep();
    assert_eq!(world.done().len(), 2);
    let next = world.transmit().unwrap();
    assert_eq!(next.operation, Operation::Get);
}

#[test]
fn cancelled_request_is_not_sent() {
    let mut world = World::new();
    let first = world.submit(update(json!({"a": 1})));
    let second = world.submit(update(json!({"a": 2})));
    world.machine.cancel(second);
    world.answer_all();
    assert!(matches!(world.done()[..], [(id, Ok(_))] if id == first));
    assert_eq!(world.cloud.version, 1);
}

#[test]
fn get_restarts_after_reconnect() {
    let mut world = World::with_desired(json!({"a": 1}));
    world.submit(Request::Get);
    let lost = world.transmit().unwrap();
    world.machine.connected(world.now);
    let sent = world.answer_all();
    assert_eq!(sent.len(), 2, "one of the machine's own, and the caller's");
    assert!(
        sent.iter()
            .all(|request| request["clientToken"] != lost.token)
    );
    assert!(matches!(world.one_result(), Ok(Answer::Document(_))));
}

#[test]
fn late_update_response_is_accepted() {
    let mut world = World::with_desired(json!({}));
    world.submit(update(json!({"a": 1})));
    let sent = world.transmit().unwrap();
    let answers = world.cloud.handle(sent.operation, &sent.payload);
    world.machine.connected(world.now);
    assert_eq!(world.transmit(), None);
    world.deliver(&answers);
    assert!(matches!(world.one_result(), Ok(Answer::Updated(2))));
    assert_eq!(world.transmit().unwrap().operation, Operation::Get);
}

#[test]
fn lost_update_does_not_block_get() {
    let mut world = World::with_desired(json!({}));
    world.submit(update(json!({"a": 1})));
    let _lost = world.transmit().unwrap();
    world.machine.connected(world.now);
    assert_eq!(world.transmit(), None);
    assert_eq!(world.sleep(), LATE_ANSWER);
    assert!(matches!(
        world.one_result(),
        Err(RequestError::TimedOut(Operation::Update))
    ));
    assert_eq!(world.answer_all().len(), 1);
}

#[test]
fn get_completes_despite_lost_messages() {
    let mut world = World::with_desired(json!({"a": 1}));
    world.machine.messages_lost();
    let get = world.transmit().unwrap();
    for _ in 0..100 {
        world.machine.messages_lost();
        assert_eq!(world.transmit(), None);
    }
    let answers = world.cloud.handle(get.operation, &get.payload);
    world.deliver(&answers);
    assert_eq!(world.answer_all().len(), 1, "it may be out of date");
    assert_eq!(world.transmit(), None);

    // The same for a caller's.
    world.submit(Request::Get);
    let get = world.transmit().unwrap();
    world.machine.messages_lost();
    let answers = world.cloud.handle(get.operation, &get.payload);
    world.deliver(&answers);
    assert!(matches!(world.one_result(), Ok(Answer::Document(_))));
    assert_eq!(world.answer_all().len(), 1);
}

#[test]
fn bus_error_fails_request_and_sends_next() {
    let mut world = World::new();
    world.submit(Request::Get);
    world.submit(Request::Delete);
    let token = world.transmit().unwrap().token;
    world
        .machine
        .handle_send_failure(world.now, "somebody else's", RequestError::Closed);
    assert_eq!(world.transmit(), None);
    world
        .machine
        .handle_send_failure(world.now, &token, RequestError::Closed);
    assert!(matches!(world.one_result(), Err(RequestError::Closed)));
    assert_eq!(world.transmit().unwrap().operation, Operation::Delete);
}
