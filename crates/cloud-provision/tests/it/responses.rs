//! Responses of the platform or of another server in its place, and the resulting errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, Bytes};
use axum::http::header::LOCATION;
use axum::response::{Html, IntoResponse};
use cloud_provision::{MAX_BODY, MalformedResponse, ProvisionError};
use serde_json::{Value, json};

use crate::common::{self, Api, KEY, granted, ok, outcome, with_status};

/// Returns the error for a JSON body at status 200, which must not be retried.
async fn outcome_of(body: Value) -> ProvisionError {
    let (error, requests) = outcome(move || ok(&body)).await;
    assert_eq!(requests, 1, "{error}");
    error
}

fn malformed(error: ProvisionError) -> MalformedResponse {
    match error {
        ProvisionError::Malformed { what, .. } => what,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn refusal_keeps_platform_reason_at_any_status() {
    for (status, error, reason) in [
        (200, json!("unknown device"), "unknown device"),
        (200, json!({"code": 12}), r#"{"code":12}"#),
        (401, json!("key used up"), "key used up"),
        (
            500,
            json!("no such \u{1b}[31mthing\n"),
            r"no such \u{1b}[31mthing",
        ),
        (
            400,
            json!(format!("bad token {KEY}")),
            "bad token [redacted]",
        ),
    ] {
        let body = json!({"registration": {"error": error, "thing": null}});
        let (error, requests) =
            outcome(move || with_status(status, axum::Json(body.clone()))).await;
        assert_eq!(requests, 1, "a refusal is final");
        assert!(!error.is_retryable() && !error.may_have_registered());
        match error {
            ProvisionError::Refused {
                status: actual,
                message,
                ..
            } => {
                assert_eq!((actual, message.as_str()), (status, reason));
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn status_without_reason_maps_to_its_own_error() {
    for status in [401, 403] {
        let (error, requests) = outcome(move || with_status(status, "no")).await;
        assert!(
            matches!(error, ProvisionError::Unauthorized { status: actual, .. } if actual == status),
            "{error}"
        );
        assert_eq!(requests, 1);
    }
    let (error, requests) = outcome(|| with_status(404, Html("<h1>not here</h1>"))).await;
    assert!(
        matches!(error, ProvisionError::Status { status: 404, .. }),
        "{error}"
    );
    assert_eq!(requests, 1);
    let (error, requests) = outcome(|| with_status(503, Html("<h1>later</h1>"))).await;
    assert!(
        matches!(error, ProvisionError::Server { status: 503, .. }) && error.is_retryable(),
        "{error}"
    );
    assert_eq!(requests, 3, "as many attempts as allowed");
    // The status decides, even if the body of an error exceeds the limit.
    let (error, _) = outcome(|| with_status(401, "x".repeat(2 * MAX_BODY))).await;
    assert!(
        matches!(error, ProvisionError::Unauthorized { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn status_511_is_captive_portal() {
    let (error, requests) = outcome(|| with_status(511, Html("<h1>sign in</h1>"))).await;
    assert!(
        matches!(error, ProvisionError::CaptivePortal { .. }),
        "{error}"
    );
    assert!(error.is_retryable() && !error.may_have_registered());
    assert_eq!(requests, 3);
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let elsewhere = Api::start(|_| Some(ok(&granted()))).await;
    let target = elsewhere.url();
    for status in [301, 302, 307, 308] {
        let target = target.clone();
        let (error, requests) =
            outcome(move || with_status(status, ([(LOCATION, target.clone())], ""))).await;
        match &error {
            ProvisionError::Redirected { location, .. } => {
                assert_eq!(location.as_str(), elsewhere.url())
            }
            other => panic!("{other}"),
        }
        assert_eq!(requests, 1);
    }
    assert_eq!(
        elsewhere.requests(),
        0,
        "the key went to an address that is not configured"
    );
}

#[tokio::test]
async fn non_json_and_truncated_responses_are_distinguished() {
    let (error, requests) =
        outcome(|| Html("<!doctype html><title>Welcome to our Wi-Fi</title>").into_response())
            .await;
    assert_eq!(requests, 1);
    assert!(error.to_string().contains("captive portal"), "{error}");
    assert_eq!(malformed(error), MalformedResponse::Html);
    let (error, _) = outcome(|| "<html>".into_response()).await;
    assert_eq!(malformed(error), MalformedResponse::Html);
    let (error, _) = outcome(|| "".into_response()).await;
    assert_eq!(malformed(error), MalformedResponse::Empty);
    let (error, _) = outcome(|| "hello".into_response()).await;
    assert!(matches!(
        malformed(error),
        MalformedResponse::NotJson { .. }
    ));

    let whole = granted().to_string();
    for end in [1, whole.len() / 3, whole.len() - 1] {
        let cut = whole[..end].to_owned();
        let (error, requests) = outcome(move || cut.clone().into_response()).await;
        assert!(error.may_have_registered());
        assert_eq!((malformed(error), requests), (MalformedResponse::CutOff, 1));
    }
}

#[tokio::test]
async fn each_missing_or_mistyped_key_is_named() {
    for path in [
        "registration.thing.iot.endpoint",
        "registration.thing.iot.thing_name",
        "registration.thing.iot.certificates.device_certificate",
        "registration.thing.iot.certificates.root_ca",
        "registration.thing.iot.keyPair.privateKey",
        "registration.thing.iot.keyPair",
        "registration.thing.iot.certificates",
        "registration.thing.iot",
        "registration.thing.remote.endpoint",
        "registration.thing.remote.access_point",
        "registration.thing.remote.cert",
        "registration.thing.remote.pkey",
        "registration.thing.remote",
        "registration.thing",
        "registration",
    ] {
        let mut absent = granted();
        let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
        let parent = at(&mut absent, parent);
        parent.as_object_mut().unwrap().remove(name).unwrap();
        assert_eq!(
            malformed(outcome_of(absent).await),
            MalformedResponse::Missing(path)
        );
        let mut null = granted();
        *at(&mut null, path) = Value::Null;
        assert_eq!(
            malformed(outcome_of(null).await),
            MalformedResponse::Missing(path)
        );
        let mut wrong = granted();
        *at(&mut wrong, path) = json!(7);
        match malformed(outcome_of(wrong).await) {
            MalformedResponse::WrongType { field, found, .. } => {
                assert_eq!((field, found), (path, "a number"));
            }
            other => panic!("{path}: {other}"),
        }
    }
}

fn at<'a>(value: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.')
        .filter(|key| !key.is_empty())
        .fold(value, |value, key| &mut value[key])
}

#[tokio::test]
async fn each_invalid_value_is_named() {
    let (_, stray_key) = common::pair("stray");
    for (path, value) in [
        (
            "registration.thing.iot.endpoint",
            "https://broker.example.com",
        ),
        ("registration.thing.iot.endpoint", "broker.example.com:0"),
        ("registration.thing.iot.thing_name", "a/b#"),
        (
            "registration.thing.iot.certificates.device_certificate",
            "hello",
        ),
        ("registration.thing.iot.certificates.root_ca", ""),
        ("registration.thing.iot.keyPair.privateKey", "hello"),
        ("registration.thing.remote.endpoint", ""),
        (
            "registration.thing.remote.access_point",
            "sn0001.example.com/ui",
        ),
        (
            "registration.thing.remote.access_point",
            "sn0001.example.com:443",
        ),
        (
            "registration.thing.remote.cert",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ),
        (
            "registration.thing.remote.pkey",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ),
    ] {
        let mut answer = granted();
        *at(&mut answer, path) = json!(value);
        match malformed(outcome_of(answer).await) {
            MalformedResponse::Invalid { field, .. }
            | MalformedResponse::DamagedPem { field, .. }
            | MalformedResponse::UnusableKey { field, .. } => assert_eq!(field, path, "{value}"),
            other => panic!("{path}: {other}"),
        }
    }
    for path in [
        "registration.thing.iot.keyPair.privateKey",
        "registration.thing.remote.pkey",
    ] {
        let mut answer = granted();
        *at(&mut answer, path) = json!(stray_key);
        let error = outcome_of(answer).await;
        assert!(
            matches!(error, ProvisionError::KeyMismatch { field, .. } if field == path),
            "{error}"
        );
        let secret = stray_key.lines().nth(1).unwrap();
        assert!(!format!("{error} {error:?}").contains(secret));
    }
}

#[tokio::test]
async fn oversized_body_is_not_read_to_the_end() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 50 * 1024 * 1024 / CHUNK;
    let bytes_sent = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&bytes_sent);
    let (error, requests) = outcome(move || {
        let counter = Arc::clone(&counter);
        let chunks = (0..CHUNKS).map(move |_| {
            counter.fetch_add(CHUNK, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Bytes::from(vec![b' '; CHUNK]))
        });
        Body::from_stream(futures_util::stream::iter(chunks)).into_response()
    })
    .await;
    assert!(
        matches!(
            error,
            ProvisionError::TooLarge {
                limit: MAX_BODY,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(requests, 1);
    // The limit plus the capacity of the socket buffers.
    let read = bytes_sent.load(Ordering::SeqCst);
    assert!(read < CHUNK * CHUNKS / 2, "{read} bytes");

    let (error, _) = outcome(|| vec![b' '; 50 * 1024 * 1024].into_response()).await;
    assert!(matches!(error, ProvisionError::TooLarge { .. }), "{error}");
}
