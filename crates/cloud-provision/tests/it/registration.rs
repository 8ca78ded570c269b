//! Registration with a real HTTP server: requests, results, and retries.

use std::time::{Duration, Instant, SystemTime};

use axum::http::header::{DATE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use cloud_provision::{BuildError, Client, ProvisionError, SerialNumberError};
use serde_json::json;

use crate::common::{self, Api, KEY, granted, key, ok, outcome, quick, with_status};

#[tokio::test]
async fn request_and_result_match_the_protocol() {
    let answer = granted();
    let sent = answer.clone();
    let api = Api::start(move |_| Some(ok(&sent))).await;
    let client = quick(Client::builder(&format!("{}/v1/", api.url())))
        .build()
        .unwrap();
    let provisioned = client.register("SN0001", &key()).await.unwrap();

    let request = api.received(0);
    assert_eq!(
        (request.method.as_str(), request.uri.path()),
        ("POST", "/v1/device/register")
    );
    assert_eq!(request.headers["content-type"], "application/json");
    assert_eq!(
        request.body,
        format!(r#"{{"sn":"SN0001","token":"{KEY}"}}"#)
    );
    assert_eq!(api.requests(), 1);

    let thing = &answer["registration"]["thing"];
    assert_eq!(provisioned.iot.endpoint, thing["iot"]["endpoint"]);
    assert_eq!(provisioned.iot.thing_name, thing["iot"]["thing_name"]);
    assert_eq!(
        provisioned.iot.device_certificate,
        thing["iot"]["certificates"]["device_certificate"]
    );
    assert_eq!(
        provisioned.iot.root_ca,
        thing["iot"]["certificates"]["root_ca"]
    );
    assert_eq!(
        provisioned.iot.private_key.expose_secret(),
        thing["iot"]["keyPair"]["privateKey"]
    );
    assert_eq!(provisioned.remote.endpoint, thing["remote"]["endpoint"]);
    assert_eq!(
        provisioned.remote.access_point,
        thing["remote"]["access_point"]
    );
    assert_eq!(
        provisioned.remote.certificate_chain,
        thing["remote"]["cert"]
    );
    assert_eq!(
        provisioned.remote.private_key.expose_secret(),
        thing["remote"]["pkey"]
    );
    assert!(!format!("{provisioned:#?}").contains("PRIVATE KEY"));
}

#[tokio::test]
async fn absent_error_and_unknown_keys_are_accepted() {
    let mut answer = granted();
    answer["registration"]
        .as_object_mut()
        .unwrap()
        .remove("error");
    answer["more"] = json!([1, 2]);
    answer["registration"]["thing"]["iot"]["more"] = json!({"a": null});
    let api = Api::start(move |_| Some(ok(&answer))).await;
    api.client().register("SN0001", &key()).await.unwrap();
}

#[tokio::test]
async fn pkcs1_and_sec1_keys_are_accepted() {
    let mut answer = granted();
    let iot = &mut answer["registration"]["thing"]["iot"];
    iot["certificates"]["device_certificate"] = json!(include_str!("../data/pkcs1.cert.pem"));
    iot["keyPair"]["privateKey"] = json!(include_str!("../data/pkcs1.key.pem"));
    let remote = &mut answer["registration"]["thing"]["remote"];
    remote["cert"] = json!(include_str!("../data/sec1.cert.pem").replace('\n', "\r\n"));
    remote["pkey"] = json!(include_str!("../data/sec1.key.pem"));
    let api = Api::start(move |_| Some(ok(&answer))).await;
    api.client().register("SN0001", &key()).await.unwrap();
}

#[tokio::test]
async fn transient_failures_are_retried() {
    for first in [500, 502, 503, 429] {
        let answer = granted();
        let api = Api::start(move |n| {
            Some(if n == 0 {
                with_status(first, "a moment")
            } else {
                ok(&answer)
            })
        })
        .await;
        api.client().register("SN0001", &key()).await.unwrap();
        assert_eq!(api.requests(), 2);
        assert_eq!(api.received(0).body, api.received(1).body);
    }
}

#[tokio::test]
async fn refusal_after_ambiguous_attempt_is_distinguished() {
    let used = json!({"registration": {"error": "already used", "thing": null}});
    for (status, body) in [(409, used), (401, json!(null))] {
        // A gateway times out while the platform registers the device.
        let (error, requests) = {
            let api = Api::start(move |n| {
                Some(match n {
                    0 => with_status(504, "gateway timeout"),
                    _ => with_status(status, axum::Json(body.clone())),
                })
            })
            .await;
            let error = api.client().register("SN0001", &key()).await.unwrap_err();
            assert_eq!(api.received(0).body, api.received(1).body);
            (error, api.requests())
        };
        assert_eq!(requests, 2);
        assert!(error.may_have_registered() && !error.is_retryable());
        assert!(
            matches!(error, ProvisionError::RefusedAfterRetry { status: actual, earlier: 504, .. } if actual == status),
            "{error}"
        );
        assert!(error.to_string().contains("needs a new key"), "{error}");
    }
}

#[tokio::test]
async fn distant_date_is_reported_as_clock_skew() {
    for (date, text) in [
        ("Fri, 01 Jan 2100 00:00:00 GMT", " h slow"),
        ("Wed, 01 Jan 2020 00:00:00 GMT", " h fast"),
    ] {
        let answer = granted();
        let api = Api::start(move |_| Some(([(DATE, date)], ok(&answer)).into_response())).await;
        let provisioned = api.client().register("SN0001", &key()).await.unwrap();
        let skew = provisioned.clock_skew.unwrap();
        assert!(
            skew.is_significant() && skew.to_string().ends_with(text),
            "{skew}"
        );
        let theirs = httpdate::parse_http_date(date).unwrap();
        let ours = SystemTime::now();
        let expected = match theirs.duration_since(ours) {
            Ok(slow) => i64::try_from(slow.as_millis()).unwrap(),
            Err(fast) => -i64::try_from(fast.duration().as_millis()).unwrap(),
        };
        let off = (skew.correction_ms() - expected).unsigned_abs();
        assert!(off < 60_000, "{skew:?}, {expected}");
    }
    // The server runs on the same machine and has the same clock.
    let api = Api::start(|_| Some(ok(&granted()))).await;
    let provisioned = api.client().register("SN0001", &key()).await.unwrap();
    assert!(!provisioned.clock_skew.unwrap().is_significant());
}

#[tokio::test]
async fn retry_after_date_is_relative_to_the_response_date() {
    let answer = granted();
    let api = Api::start(move |n| {
        let wait = [
            (DATE, "Fri, 01 Jan 2100 00:00:00 GMT"),
            (RETRY_AFTER, "Fri, 01 Jan 2100 00:00:01 GMT"),
        ];
        Some(match n {
            0 => with_status(503, (wait, "")),
            _ => ok(&answer),
        })
    })
    .await;
    api.client().register("SN0001", &key()).await.unwrap();
    assert_eq!(api.requests(), 2);
}

#[tokio::test]
async fn retry_after_is_honored_and_bounded() {
    let answer = granted();
    let api = Api::start(move |n| {
        Some(if n == 0 {
            (with_header(429, RETRY_AFTER, "1")).into_response()
        } else {
            ok(&answer)
        })
    })
    .await;
    let started = Instant::now();
    api.client().register("SN0001", &key()).await.unwrap();
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(api.requests(), 2);

    let started = Instant::now();
    let (error, requests) = outcome(|| with_header(429, RETRY_AFTER, "86400")).await;
    assert!(error.to_string().contains("86400 s"), "{error}");
    assert!(
        matches!(
            error,
            ProvisionError::RateLimited {
                retry_after: Some(_),
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(requests, 1);
    let (error, requests) =
        outcome(|| with_header(503, RETRY_AFTER, "Fri, 31 Dec 2100 23:59:59 GMT")).await;
    assert!(
        matches!(
            error,
            ProvisionError::Server {
                retry_after: Some(_),
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(requests, 1);
    assert!(started.elapsed() < Duration::from_secs(30));
}

fn with_header(status: u16, name: axum::http::HeaderName, value: &'static str) -> Response {
    with_status(status, ([(name, value)], ""))
}

#[tokio::test]
async fn invalid_serial_number_is_not_sent() {
    let api = Api::start(|_| Some(ok(&granted()))).await;
    for (serial, problem) in [
        ("a/b#", SerialNumberError::Character('/')),
        ("", SerialNumberError::Empty),
        (&"x".repeat(129), SerialNumberError::TooLong),
        ("a\n", SerialNumberError::Character('\n')),
    ] {
        let error = api.client().register(serial, &key()).await.unwrap_err();
        assert_eq!(error, ProvisionError::SerialNumber(problem));
    }
    assert_eq!(api.requests(), 0);
}

#[test]
fn invalid_settings_fail_the_build() {
    let build = |url: &str| Client::builder(url).build().unwrap_err();
    assert!(matches!(
        build("http://api.example.com"),
        BuildError::NotEncrypted { .. }
    ));
    assert!(matches!(
        build("http://192.168.0.1:80"),
        BuildError::NotEncrypted { .. }
    ));
    assert!(matches!(build("nonsense"), BuildError::Url { .. }));
    let https = || Client::builder("https://api.example.com");
    assert!(matches!(
        https().additional_roots_pem("hello").build(),
        Err(BuildError::Root(_))
    ));
    // With a byte order mark, as some Windows editors save it.
    let root = format!("\u{feff}{}", common::pair("root.example").0);
    assert!(https().additional_roots_pem(root).build().is_ok());
    assert!(matches!(
        https().connect_timeout(Duration::ZERO).build(),
        Err(BuildError::Limit(_))
    ));
    let mut retry = cloud_provision::Retry::default();
    retry.attempts = 0;
    assert!(matches!(
        https().retry(retry).build(),
        Err(BuildError::Limit(_))
    ));
}
