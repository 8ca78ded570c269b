//! Messages of the service, and when they cause a get.

use super::*;

#[test]
fn report_sends_only_changes() {
    let mut harness = Harness::with_desired(json!({}));
    harness.submit(Request::Report(object(
        json!({"a": 1, "b": {"c": 1, "d": 1}}),
    )));
    harness.respond_all();
    harness.submit(Request::Report(object(
        json!({"a": 1, "b": {"c": 2, "d": 1}, "e": null}),
    )));
    let sent = harness.respond_all();
    assert_eq!(sent[0]["state"], json!({"reported": {"b": {"c": 2}}}));
    harness.done();

    harness.submit(Request::Report(object(json!({"a": 1}))));
    assert_eq!(harness.respond_all(), Vec::<Value>::new());
    assert!(matches!(harness.one_result(), Ok(Response::Unchanged)));
}

#[test]
fn lone_delta_is_applied_and_confirmed_by_get() {
    let mut harness = Harness::with_desired(json!({}));
    let messages = harness
        .cloud
        .update(&json!({"desired": {"a": 1}}), &Value::Null);
    let delta: Vec<_> = messages
        .into_iter()
        .filter(|(kind, _)| *kind == MessageKind::Delta)
        .collect();
    harness.deliver(&delta);
    assert_eq!(harness.delta(), json!({"a": 1}));
    assert_eq!(harness.transmit(), None);
    assert_eq!(harness.sleep(), CATCH_UP_DELAY);
    assert_eq!(harness.respond_all().len(), 1);
    assert_eq!(
        harness.core.replica().document().cloned(),
        harness.cloud.document()
    );
    assert_eq!(harness.core.poll_timeout(), None);
}

#[test]
fn complete_update_needs_no_get() {
    let mut harness = Harness::with_desired(json!({}));
    let messages = harness
        .cloud
        .update(&json!({"desired": {"a": 1}}), &Value::Null);
    for message in messages.iter().rev() {
        harness.deliver(std::slice::from_ref(message));
    }
    assert_eq!(harness.core.poll_timeout(), None);
    assert_eq!(
        harness.core.replica().document().cloned(),
        harness.cloud.document()
    );
}

#[test]
fn stale_messages_are_dropped() {
    let mut harness = Harness::with_desired(json!({"a": 1}));
    let old = harness
        .cloud
        .update(&json!({"desired": {"a": 2}}), &Value::Null);
    let new = harness
        .cloud
        .update(&json!({"desired": {"a": 3}}), &Value::Null);
    harness.deliver(&new);
    harness.deliver(&old);
    harness.deliver(&old);
    assert_eq!(harness.delta(), json!({"a": 3}));
    assert_eq!(
        harness.core.replica().document().cloned(),
        harness.cloud.document()
    );
}

#[test]
fn delta_without_version_is_applied_and_confirmed() {
    let mut harness = Harness::with_desired(json!({}));
    harness.cloud.form = DeltaForm::Nested;
    let messages = harness
        .cloud
        .update(&json!({"desired": {"a": 1}}), &Value::Null);
    let delta: Vec<_> = messages
        .into_iter()
        .filter(|(kind, _)| *kind == MessageKind::Delta)
        .collect();
    harness.deliver(&delta);
    assert_eq!(harness.delta(), json!({"a": 1}));
    // The device acts on it and reports; then the same message arrives again, late.
    harness.submit(Request::Report(object(json!({"a": 1}))));
    harness.respond_all();
    harness.deliver(&delta);
    harness.sleep();
    harness.respond_all();
    assert_eq!(harness.delta(), json!({}));
}

#[test]
fn recreated_shadow_restarts_versions() {
    let mut harness = Harness::with_desired(json!({"a": 1}));
    for n in 2..6 {
        let messages = harness
            .cloud
            .update(&json!({"desired": {"a": n}}), &Value::Null);
        harness.deliver(&messages);
    }
    let deleted = harness.cloud.delete(&Value::Null);
    harness.deliver(&deleted);
    assert_eq!(harness.core.replica().document(), None);
    assert_eq!(harness.delta(), json!({}));

    harness.cloud.version = 0;
    let messages = harness
        .cloud
        .update(&json!({"desired": {"b": 1}}), &Value::Null);
    harness.deliver(&messages);
    harness.sleep();
    harness.respond_all();
    assert_eq!(harness.delta(), json!({"b": 1}));
    assert_eq!(harness.core.replica().document().unwrap().version, 1);

    // From here on the new versions count.
    let messages = harness
        .cloud
        .update(&json!({"desired": {"b": 2}}), &Value::Null);
    harness.deliver(&messages);
    assert_eq!(harness.delta(), json!({"b": 2}));
}

#[test]
fn recreated_shadow_with_lower_version_is_found() {
    let mut harness = Harness::with_desired(json!({"a": 1}));
    let messages = harness
        .cloud
        .update(&json!({"desired": {"a": 2}}), &Value::Null);
    harness.deliver(&messages);
    harness.cloud.delete(&Value::Null);
    harness.cloud.version = 0;
    harness
        .cloud
        .update(&json!({"desired": {"c": 1}}), &Value::Null);
    harness.core.handle_connected(harness.now);
    harness.respond_all();
    assert_eq!(harness.delta(), json!({"c": 1}));
}

#[test]
fn internal_get_retries_with_backoff() {
    let mut harness = Harness::new();
    harness.core.handle_connected(harness.now);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        assert!(harness.transmit().is_some());
        assert_eq!(harness.sleep(), LIMIT / INTERNAL_GET_SHARE);
        pauses.push(harness.sleep());
    }
    assert_eq!(pauses[..3], [2, 4, 8].map(Duration::from_secs));
    assert_eq!(pauses[9], MAX_RETRY_DELAY);
    harness.core.handle_connected(harness.now);
    assert!(harness.transmit().is_some(), "a connection ends the delay");
}

#[test]
fn rejected_internal_get_retries_slowly() {
    let mut harness = Harness::new();
    harness.core.handle_connected(harness.now);
    let token = harness.transmit().unwrap().token;
    let body = json!({"code": 403, "message": "Forbidden", "clientToken": token}).to_string();
    harness.core.handle_message(
        harness.now,
        MessageKind::Rejected(Operation::Get),
        body.as_bytes(),
    );
    assert_eq!(harness.sleep(), MAX_RETRY_DELAY);
    assert!(harness.done().is_empty());
}

#[test]
fn report_is_sent_while_replica_is_stale() {
    let report = || Request::Report(object(json!({"sn": "42"})));
    let mut harness = Harness::with_desired(json!({}));
    harness.submit(report());
    harness.respond_all();
    harness.done();
    // Deleted while offline, and then the get fails.
    harness.cloud.delete(&Value::Null);
    harness.core.handle_connected(harness.now);
    let get = harness.transmit().unwrap();
    let error = RequestError::Bus(crate::bus::BusError::temporary("full"));
    harness
        .core
        .handle_send_failure(harness.now, &get.token, error);
    harness.submit(report());
    harness.respond_all();
    assert!(matches!(harness.one_result(), Ok(Response::Updated(_))));
}

#[test]
fn version_conflict_triggers_get() {
    let mut harness = Harness::with_desired(json!({"a": 1}));
    // An update of another client, whose messages are lost.
    let others = json!({"desired": {"a": 2}});
    harness.cloud.update(&others, &Value::Null);
    let version = harness.core.replica().document().unwrap().version;
    harness.submit(Request::Update {
        state: json!({"reported": {"x": 1}}),
        version: Some(version),
    });
    harness.respond_all();
    assert!(harness.one_result().unwrap_err().is_conflict());
    assert_eq!(
        harness.core.replica().document().cloned(),
        harness.cloud.document()
    );
}

#[test]
fn recreated_shadow_is_found_by_next_update() {
    let mut harness = Harness::with_desired(json!({"a": 1}));
    for n in 2..8 {
        let others = json!({"desired": {"a": n}});
        let messages = harness.cloud.update(&others, &Value::Null);
        harness.deliver(&messages);
    }
    harness.cloud = FakeCloud::new(DeltaForm::Aws);
    let others = json!({"desired": {"b": 1}});
    harness.cloud.update(&others, &Value::Null);
    harness.submit(update(json!({"x": 1})));
    harness.respond_all();
    assert!(harness.one_result().is_ok());
    while harness.core.poll_timeout().is_some() {
        harness.sleep();
        harness.respond_all();
    }
    assert_eq!(
        harness.core.replica().document().cloned(),
        harness.cloud.document()
    );
}
