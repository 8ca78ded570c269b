//! The service as a whole, message by message.

use serde_json::{Map, Value, json};

use super::*;

const CONFIG: &str = "$aws/things/SN1/shadow/name/config";
const NOW: u64 = 1_700_000_000;

fn config() -> ShadowId {
    ShadowId::named("SN1", "config")
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

/// Sends a request to the named shadow `config`; answers with topics cut to what follows its
/// prefix.
fn send(service: &mut ShadowService, operation: &str, payload: &Value) -> Vec<(String, Value)> {
    let payload = if payload.is_null() {
        String::new()
    } else {
        payload.to_string()
    };
    read(service.handle(&format!("{CONFIG}/{operation}"), payload.as_bytes(), NOW))
}

fn read(publications: Vec<Publication>) -> Vec<(String, Value)> {
    publications
        .into_iter()
        .map(|(topic, payload)| {
            let topic = topic
                .strip_prefix(&format!("{CONFIG}/"))
                .expect("of this shadow")
                .to_owned();
            (topic, serde_json::from_slice(&payload).expect("JSON"))
        })
        .collect()
}

fn topics(answers: &[(String, Value)]) -> Vec<&str> {
    answers.iter().map(|(topic, _)| topic.as_str()).collect()
}

#[test]
fn get_is_404_until_first_update() {
    let mut service = ShadowService::default();
    let answers = send(&mut service, "get", &json!({"clientToken": "t"}));
    assert_eq!(
        answers,
        [(
            "get/rejected".to_owned(),
            json!({"code": 404, "message": "No shadow exists with name: 'config'", "timestamp": NOW, "clientToken": "t"})
        )]
    );

    let answers = send(
        &mut service,
        "update",
        &json!({"state": {"reported": {"a": 1}}}),
    );
    assert_eq!(topics(&answers), ["update/accepted", "update/documents"]);
    assert_eq!(
        answers[0].1,
        json!({"state": {"reported": {"a": 1}}, "metadata": {"reported": {"a": {"timestamp": NOW}}}, "timestamp": NOW, "version": 1})
    );
    assert_eq!(answers[1].1.get("previous"), None);
}

#[test]
fn an_update_is_answered_with_accepted_delta_and_documents() {
    let mut service = ShadowService::default();
    send(
        &mut service,
        "update",
        &json!({"state": {"reported": {"a": 1, "b": {"c": 1}}}}),
    );
    let answers = send(
        &mut service,
        "update",
        &json!({"state": {"desired": {"a": 1, "b": {"c": 2}}}, "clientToken": "t", "version": 1}),
    );
    assert_eq!(
        topics(&answers),
        ["update/accepted", "update/delta", "update/documents"]
    );
    assert_eq!(
        answers[1].1,
        json!({
            "state": {"b": {"c": 2}}, "metadata": {"b": {"c": {"timestamp": NOW}}},
            "timestamp": NOW, "version": 2, "clientToken": "t",
        })
    );
    assert_eq!(answers[2].1["previous"]["version"], 1);
    assert_eq!(answers[2].1["current"]["version"], 2);
    assert_eq!(
        answers[2].1["current"]["state"]["desired"],
        json!({"a": 1, "b": {"c": 2}})
    );
    assert!(answers.iter().all(|(_, body)| body["clientToken"] == "t"));
}

#[test]
fn a_get_has_both_sections_and_the_delta() {
    let mut service = ShadowService::default();
    service
        .set_desired(&config(), object(json!({"remoteCertSn": "42"})), NOW)
        .unwrap();
    let answers = send(&mut service, "get", &Value::Null);
    assert_eq!(
        answers,
        [(
            "get/accepted".to_owned(),
            json!({
                "state": {"desired": {"remoteCertSn": "42"}, "delta": {"remoteCertSn": "42"}},
                "metadata": {"desired": {"remoteCertSn": {"timestamp": NOW}}},
                "timestamp": NOW, "version": 1,
            })
        )]
    );

    let reported = json!({"state": {"reported": {"remoteCertSn": "42"}}});
    assert_eq!(
        topics(&send(&mut service, "update", &reported)),
        ["update/accepted", "update/documents"]
    );
    let answers = send(&mut service, "get", &Value::Null);
    assert_eq!(answers[0].1["state"].get("delta"), None);
}

#[test]
fn seed_delta_has_desired_and_delta() {
    let mut service = ShadowService::new(DeltaForm::Seed);
    service
        .set_desired(&config(), object(json!({"other": 1})), NOW)
        .unwrap();
    send(
        &mut service,
        "update",
        &json!({"state": {"reported": {"other": 1}}}),
    );
    let answers = read(
        service
            .set_desired(&config(), object(json!({"remoteCertSn": "42"})), NOW)
            .unwrap(),
    );
    assert_eq!(
        answers[1],
        (
            "update/delta".to_owned(),
            json!({"state": {"desired": {"other": 1, "remoteCertSn": "42"}, "delta": {"remoteCertSn": "42"}}})
        )
    );
}

#[test]
fn a_stale_version_is_refused_and_changes_nothing() {
    let mut service = ShadowService::default();
    send(
        &mut service,
        "update",
        &json!({"state": {"desired": {"a": 1}}}),
    );
    let before = service.document(&config()).cloned();
    for version in [0, 2] {
        let answers = send(
            &mut service,
            "update",
            &json!({"state": {"desired": {"a": 2}}, "version": version}),
        );
        assert_eq!(topics(&answers), ["update/rejected"]);
        assert_eq!(answers[0].1["code"], 409);
    }
    assert_eq!(service.document(&config()).cloned(), before);
}

#[test]
fn the_version_goes_on_counting_over_a_delete() {
    let mut service = ShadowService::default();
    send(
        &mut service,
        "update",
        &json!({"state": {"desired": {"a": 1}}}),
    );
    let answers = send(&mut service, "delete", &json!({"clientToken": "d"}));
    assert_eq!(
        answers,
        [(
            "delete/accepted".to_owned(),
            json!({"timestamp": NOW, "version": 1, "clientToken": "d"})
        )]
    );
    assert_eq!(service.document(&config()), None);
    assert_eq!(send(&mut service, "delete", &Value::Null)[0].1["code"], 404);

    let answers = send(
        &mut service,
        "update",
        &json!({"state": {"desired": {"b": 1}}}),
    );
    assert_eq!(answers[0].1["version"], 2);
    let document = service.document(&config()).unwrap();
    assert_eq!(document.desired(), &object(json!({"b": 1})));
}

#[test]
fn clearing_a_section_leaves_the_other_one() {
    let mut service = ShadowService::default();
    send(
        &mut service,
        "update",
        &json!({"state": {"desired": {"a": 1}, "reported": {"a": 2}}}),
    );
    let answers = send(&mut service, "update", &json!({"state": {"desired": null}}));
    assert_eq!(answers[0].1["state"], json!({"desired": null}));
    assert_eq!(topics(&answers), ["update/accepted", "update/documents"]);
    let document = service.document(&config()).unwrap();
    assert!(document.desired().is_empty());
    assert_eq!(document.reported(), &object(json!({"a": 2})));
}

#[test]
fn a_document_may_not_grow_over_8_kb_bit_by_bit() {
    let mut service = ShadowService::default();
    let part = "x".repeat(4000);
    send(
        &mut service,
        "update",
        &json!({"state": {"desired": {"a": part}}}),
    );
    send(
        &mut service,
        "update",
        &json!({"state": {"desired": {"b": part}}}),
    );
    let answers = send(
        &mut service,
        "update",
        &json!({"state": {"desired": {"c": part}}}),
    );
    assert_eq!(topics(&answers), ["update/rejected"]);
    assert_eq!(answers[0].1["code"], 413);
    assert_eq!(service.document(&config()).unwrap().version(), 2);
}

#[test]
fn unreadable_requests_are_rejected_with_their_code() {
    let mut service = ShadowService::default();
    for (payload, code) in [
        (&b"{\"state\""[..], 400),
        (b"\xff\xfe", 415),
        (&[b'x'; 9000], 413),
        (br#"{"state":{"desired":{"a":[null]}}}"#, 400),
    ] {
        let answers = read(service.handle(&format!("{CONFIG}/update"), payload, NOW));
        assert_eq!(topics(&answers), ["update/rejected"]);
        assert_eq!(answers[0].1["code"], code);
    }
    let bad_name = "$aws/things/SN1/shadow/name/a b/get";
    let answers = service.handle(bad_name, b"", NOW);
    assert_eq!(answers[0].0, format!("{bad_name}/rejected"));
}

#[test]
fn shadows_of_a_thing_are_apart_and_bounded() {
    let mut service = ShadowService::default();
    let classic = ShadowId::classic("SN1");
    service
        .set_desired(&classic, object(json!({"a": 1})), NOW)
        .unwrap();
    assert_eq!(service.document(&config()), None);
    for n in 1..MAX_SHADOWS_PER_THING {
        let id = ShadowId::named("SN1", format!("s{n}"));
        service.set_desired(&id, object(json!({})), NOW).unwrap();
    }
    assert_eq!(
        service.set_desired(&config(), object(json!({})), NOW),
        Err(Rejection::Full)
    );
    let other_thing = ShadowId::named("SN2", "config");
    assert!(
        service
            .set_desired(&other_thing, object(json!({})), NOW)
            .is_ok()
    );
}

#[test]
fn other_topics_are_not_ours() {
    let mut service = ShadowService::default();
    assert!(service.handle("c/d/SN1/status", b"{}", NOW).is_empty());
    assert!(
        service
            .handle(&format!("{CONFIG}/get/accepted"), b"{}", NOW)
            .is_empty()
    );
    assert!(ShadowService::is_request(&format!("{CONFIG}/get")));
    assert!(!ShadowService::is_request(&format!(
        "{CONFIG}/update/delta"
    )));
}

#[test]
fn content_of_a_delete_is_ignored() {
    let large = vec![b' '; 9000];
    for content in [
        &b"not JSON"[..],
        b"\xff",
        b"[1]",
        b"{\"clientToken\":7}",
        &large,
    ] {
        let mut service = ShadowService::default();
        send(
            &mut service,
            "update",
            &json!({"state": {"desired": {"a": 1}}}),
        );
        let answers = service.handle(&format!("{CONFIG}/delete"), content, NOW);
        assert!(answers[0].0.ends_with("/delete/accepted"), "{content:?}");
    }
}

#[test]
fn rejection_for_size_has_the_client_token() {
    let mut service = ShadowService::default();
    let state = json!({"desired": {"a": "x".repeat(9000)}});
    let answers = send(
        &mut service,
        "update",
        &json!({"clientToken": "t", "state": state}),
    );
    assert_eq!(
        (&answers[0].1["code"], &answers[0].1["clientToken"]),
        (&json!(413), &json!("t"))
    );
}
