//! What the service tells by itself, and when the document is fetched for it.

use super::*;

#[test]
fn a_report_sends_only_what_is_new() {
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
fn a_delta_alone_is_believed_and_the_document_fetched_soon_after() {
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
fn nothing_is_fetched_when_all_of_an_update_arrives() {
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
fn the_delta_without_a_version_is_believed_and_confirmed() {
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
fn a_shadow_deleted_and_made_anew_with_versions_from_one() {
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
fn made_anew_while_offline_is_found_although_the_version_is_lower() {
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
fn a_get_of_our_own_is_repeated_with_growing_pauses() {
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
fn a_refused_get_of_our_own_is_repeated_seldom() {
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
fn a_report_is_sent_while_the_document_is_not_known_to_be_right() {
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
fn a_conflict_has_the_document_fetched() {
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
fn made_anew_unnoticed_is_found_by_the_next_update() {
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
