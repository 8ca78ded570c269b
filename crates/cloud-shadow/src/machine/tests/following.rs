//! What the service tells by itself, and when the document is fetched for it.

use super::*;

#[test]
fn report_sends_only_changes() {
    let mut world = World::with_desired(json!({}));
    world.submit(Request::Report(object(
        json!({"a": 1, "b": {"c": 1, "d": 1}}),
    )));
    world.answer_all();
    world.submit(Request::Report(object(
        json!({"a": 1, "b": {"c": 2, "d": 1}, "e": null}),
    )));
    let sent = world.answer_all();
    assert_eq!(sent[0]["state"], json!({"reported": {"b": {"c": 2}}}));
    world.done();

    world.submit(Request::Report(object(json!({"a": 1}))));
    assert_eq!(world.answer_all(), Vec::<Value>::new());
    assert!(matches!(world.one_result(), Ok(Answer::Unchanged)));
}

#[test]
fn lone_delta_is_applied_and_confirmed_by_get() {
    let mut world = World::with_desired(json!({}));
    let messages = world
        .cloud
        .update(&json!({"desired": {"a": 1}}), &Value::Null);
    let delta: Vec<_> = messages
        .into_iter()
        .filter(|(kind, _)| *kind == MessageKind::Delta)
        .collect();
    world.deliver(&delta);
    assert_eq!(world.delta(), json!({"a": 1}));
    assert_eq!(world.transmit(), None);
    assert_eq!(world.sleep(), CATCH_UP);
    assert_eq!(world.answer_all().len(), 1);
    assert_eq!(
        world.machine.replica().document().cloned(),
        world.cloud.document()
    );
    assert_eq!(world.machine.poll_timeout(), None);
}

#[test]
fn complete_update_needs_no_get() {
    let mut world = World::with_desired(json!({}));
    let messages = world
        .cloud
        .update(&json!({"desired": {"a": 1}}), &Value::Null);
    for message in messages.iter().rev() {
        world.deliver(std::slice::from_ref(message));
    }
    assert_eq!(world.machine.poll_timeout(), None);
    assert_eq!(
        world.machine.replica().document().cloned(),
        world.cloud.document()
    );
}

#[test]
fn stale_messages_are_dropped() {
    let mut world = World::with_desired(json!({"a": 1}));
    let old = world
        .cloud
        .update(&json!({"desired": {"a": 2}}), &Value::Null);
    let new = world
        .cloud
        .update(&json!({"desired": {"a": 3}}), &Value::Null);
    world.deliver(&new);
    world.deliver(&old);
    world.deliver(&old);
    assert_eq!(world.delta(), json!({"a": 3}));
    assert_eq!(
        world.machine.replica().document().cloned(),
        world.cloud.document()
    );
}

#[test]
fn delta_without_version_is_applied_and_confirmed() {
    let mut world = World::with_desired(json!({}));
    world.cloud.form = Form::Nested;
    let messages = world
        .cloud
        .update(&json!({"desired": {"a": 1}}), &Value::Null);
    let delta: Vec<_> = messages
        .into_iter()
        .filter(|(kind, _)| *kind == MessageKind::Delta)
        .collect();
    world.deliver(&delta);
    assert_eq!(world.delta(), json!({"a": 1}));
    // The device acts on it and reports; then the same message comes again, late.
    world.submit(Request::Report(object(json!({"a": 1}))));
    world.answer_all();
    world.deliver(&delta);
    world.sleep();
    world.answer_all();
    assert_eq!(world.delta(), json!({}));
}

#[test]
fn recreated_shadow_restarts_versions() {
    let mut world = World::with_desired(json!({"a": 1}));
    for n in 2..6 {
        let messages = world
            .cloud
            .update(&json!({"desired": {"a": n}}), &Value::Null);
        world.deliver(&messages);
    }
    let deleted = world.cloud.delete(&Value::Null);
    world.deliver(&deleted);
    assert_eq!(world.machine.replica().document(), None);
    assert_eq!(world.delta(), json!({}));

    world.cloud.version = 0;
    let messages = world
        .cloud
        .update(&json!({"desired": {"b": 1}}), &Value::Null);
    world.deliver(&messages);
    world.sleep();
    world.answer_all();
    assert_eq!(world.delta(), json!({"b": 1}));
    assert_eq!(world.machine.replica().document().unwrap().version, 1);

    // From here on the new count holds.
    let messages = world
        .cloud
        .update(&json!({"desired": {"b": 2}}), &Value::Null);
    world.deliver(&messages);
    assert_eq!(world.delta(), json!({"b": 2}));
}

#[test]
fn recreated_shadow_with_lower_version_is_found() {
    let mut world = World::with_desired(json!({"a": 1}));
    let messages = world
        .cloud
        .update(&json!({"desired": {"a": 2}}), &Value::Null);
    world.deliver(&messages);
    world.cloud.delete(&Value::Null);
    world.cloud.version = 0;
    world
        .cloud
        .update(&json!({"desired": {"c": 1}}), &Value::Null);
    world.machine.connected(world.now);
    world.answer_all();
    assert_eq!(world.delta(), json!({"c": 1}));
}

#[test]
fn internal_get_retries_with_backoff() {
    let mut world = World::new();
    world.machine.connected(world.now);
    let mut pauses = Vec::new();
    for _ in 0..10 {
        assert!(world.transmit().is_some());
        assert_eq!(world.sleep(), LIMIT / OWN_PART);
        pauses.push(world.sleep());
    }
    assert_eq!(pauses[..3], [2, 4, 8].map(Duration::from_secs));
    assert_eq!(pauses[9], RETRY_MAX);
    world.machine.connected(world.now);
    assert!(world.transmit().is_some(), "a connection ends the pause");
}

#[test]
fn rejected_internal_get_retries_slowly() {
    let mut world = World::new();
    world.machine.connected(world.now);
    let token = world.transmit().unwrap().token;
    let body = json!({"code": 403, "message": "Forbidden", "clientToken": token}).to_string();
    world.machine.handle_message(
        world.now,
        MessageKind::Rejected(Operation::Get),
        body.as_bytes(),
    );
    assert_eq!(world.sleep(), RETRY_MAX);
    assert!(world.done().is_empty());
}

#[test]
fn report_is_sent_while_replica_is_stale() {
    let report = || Request::Report(object(json!({"sn": "42"})));
    let mut world = World::with_desired(json!({}));
    world.submit(report());
    world.answer_all();
    world.done();
    // Deleted while we were offline, and then the document cannot be fetched.
    world.cloud.delete(&Value::Null);
    world.machine.connected(world.now);
    let get = world.transmit().unwrap();
    let error = RequestError::Bus(crate::bus::BusError::temporary("full"));
    world
        .machine
        .handle_send_failure(world.now, &get.token, error);
    world.submit(report());
    world.answer_all();
    assert!(matches!(world.one_result(), Ok(Answer::Updated(_))));
}

#[test]
fn version_conflict_triggers_get() {
    let mut world = World::with_desired(json!({"a": 1}));
    // Somebody else's update, of which the messages are lost.
    let others = json!({"desired": {"a": 2}});
    world.cloud.update(&others, &Value::Null);
    let version = world.machine.replica().document().unwrap().version;
    world.submit(Request::Update {
        state: json!({"reported": {"x": 1}}),
        version: Some(version),
    });
    world.answer_all();
    assert!(world.one_result().unwrap_err().is_conflict());
    assert_eq!(
        world.machine.replica().document().cloned(),
        world.cloud.document()
    );
}

#[test]
fn recreated_shadow_is_found_by_next_update() {
    let mut world = World::with_desired(json!({"a": 1}));
    for n in 2..8 {
        let others = json!({"desired": {"a": n}});
        let messages = world.cloud.update(&others, &Value::Null);
        world.deliver(&messages);
    }
    world.cloud = FakeCloud::new(Form::Aws);
    let others = json!({"desired": {"b": 1}});
    world.cloud.update(&others, &Value::Null);
    world.submit(update(json!({"x": 1})));
    world.answer_all();
    assert!(world.one_result().is_ok());
    while world.machine.poll_timeout().is_some() {
        world.sleep();
        world.answer_all();
    }
    assert_eq!(
        world.machine.replica().document().cloned(),
        world.cloud.document()
    );
}
