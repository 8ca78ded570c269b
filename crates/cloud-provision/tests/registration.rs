//! Registration against a real HTTP server that grants, refuses, and misbehaves.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test throughout"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use axum::body::{Body, Bytes};
use axum::http::header::{DATE, LOCATION, RETRY_AFTER};
use axum::response::{Html, IntoResponse, Response};
use cloud_provision::{BuildError, Client, MAX_BODY, Malformed, ProvisionError, SerialProblem};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use common::{Api, KEY, granted, key, ok, quick, with_status};

/// The error that one fixed answer leads to, and how often it was asked for.
async fn outcome(
    answer: impl Fn() -> Response + Clone + Send + Sync + 'static,
) -> (ProvisionError, usize) {
    let api = Api::start(move |_| Some(answer())).await;
    let error = api.client().register("SN0001", &key()).await.unwrap_err();
    assert!(error.to_string().contains(&api.url()), "{error}");
    assert!(!format!("{error} {error:?}").contains(KEY), "{error:?}");
    (error, api.requests())
}

/// The same for a JSON body at status 200, which must not be asked for twice.
async fn outcome_of(body: Value) -> ProvisionError {
    let (error, requests) = outcome(move || ok(&body)).await;
    assert_eq!(requests, 1, "{error}");
    error
}

fn malformed(error: ProvisionError) -> Malformed {
    match error {
        ProvisionError::Malformed { what, .. } => what,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn the_request_is_the_one_that_the_platform_expects() {
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
async fn an_absent_error_and_unknown_keys_are_fine() {
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
async fn keys_of_each_form_are_taken() {
    let mut answer = granted();
    let iot = &mut answer["registration"]["thing"]["iot"];
    iot["certificates"]["device_certificate"] = json!(include_str!("data/pkcs1.cert.pem"));
    iot["keyPair"]["privateKey"] = json!(include_str!("data/pkcs1.key.pem"));
    let remote = &mut answer["registration"]["thing"]["remote"];
    remote["cert"] = json!(include_str!("data/sec1.cert.pem").replace('\n', "\r\n"));
    remote["pkey"] = json!(include_str!("data/sec1.key.pem"));
    let api = Api::start(move |_| Some(ok(&answer))).await;
    api.client().register("SN0001", &key()).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_told_in_the_platforms_words_at_any_status() {
    for (status, error, words) in [
        (200, json!("unknown device"), "unknown device"),
        (200, json!({"code": 12}), r#"{"code":12}"#),
        (401, json!("key used up"), "key used up"),
        (
            500,
            json!("no such \u{1b}[31mthing\n"),
            "no such  [31mthing",
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
                status: got,
                message,
                ..
            } => {
                assert_eq!((got, message.as_str()), (status, words));
            }
            other => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn a_status_without_words_has_its_own_meaning() {
    for status in [401, 403] {
        let (error, requests) = outcome(move || with_status(status, "no")).await;
        assert!(
            matches!(error, ProvisionError::Unauthorized { status: got, .. } if got == status),
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
    // The body of a failure may be of any size: it is the status that counts.
    let (error, _) = outcome(|| with_status(401, "x".repeat(2 * MAX_BODY))).await;
    assert!(
        matches!(error, ProvisionError::Unauthorized { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn what_passes_is_waited_out() {
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
async fn a_refusal_after_an_unclear_attempt_is_told_apart_from_one_at_once() {
    let used = json!({"registration": {"error": "already used", "thing": null}});
    for (status, body) in [(409, used), (401, json!(null))] {
        // A gateway gives up waiting for a platform that has meanwhile registered the device.
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
            matches!(error, ProvisionError::RefusedLater { status: got, earlier: 504, .. } if got == status),
            "{error}"
        );
        assert!(error.to_string().contains("needs a new key"), "{error}");
    }
}

#[tokio::test]
async fn a_date_that_is_far_from_ours_is_reported_as_the_clocks_skew() {
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
    // The same machine, so the same clock.
    let api = Api::start(|_| Some(ok(&granted()))).await;
    let provisioned = api.client().register("SN0001", &key()).await.unwrap();
    assert!(!provisioned.clock_skew.unwrap().is_significant());
}

#[tokio::test]
async fn a_wrong_clock_does_not_bend_the_wait_that_the_platform_asks_for() {
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
async fn a_network_that_wants_a_sign_in_is_recognised() {
    let (error, requests) = outcome(|| with_status(511, Html("<h1>sign in</h1>"))).await;
    assert!(
        matches!(error, ProvisionError::CaptivePortal { .. }),
        "{error}"
    );
    assert!(error.is_retryable() && !error.may_have_registered());
    assert_eq!(requests, 3);
}

#[tokio::test]
async fn retry_after_is_kept_to_and_bounded() {
    let answer = granted();
    let api = Api::start(move |n| {
        Some(if n == 0 {
            (with_header(429, RETRY_AFTER, "1")).into_response()
        } else {
            ok(&answer)
        })
    })
    .await;
    let begun = Instant::now();
    api.client().register("SN0001", &key()).await.unwrap();
    assert!(
        begun.elapsed() >= Duration::from_secs(1),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(api.requests(), 2);

    let begun = Instant::now();
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
    assert!(begun.elapsed() < Duration::from_secs(30));
}

fn with_header(status: u16, name: axum::http::HeaderName, value: &'static str) -> Response {
    with_status(status, ([(name, value)], ""))
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Api::start(|_| Some(ok(&granted()))).await;
    let target = elsewhere.url();
    for status in [301, 302, 307, 308] {
        let target = target.clone();
        let (error, requests) =
            outcome(move || with_status(status, ([(LOCATION, target.clone())], ""))).await;
        match &error {
            ProvisionError::Redirected { location, .. } => assert_eq!(*location, elsewhere.url()),
            other => panic!("{other}"),
        }
        assert_eq!(requests, 1);
    }
    assert_eq!(
        elsewhere.requests(),
        0,
        "the key went to an address that nobody configured"
    );
}

#[tokio::test]
async fn an_answer_that_is_no_answer_is_told_apart() {
    let (error, requests) =
        outcome(|| Html("<!doctype html><title>Welcome to our Wi-Fi</title>").into_response())
            .await;
    assert_eq!(requests, 1);
    assert!(error.to_string().contains("captive portal"), "{error}");
    assert_eq!(malformed(error), Malformed::Html);
    let (error, _) = outcome(|| "<html>".into_response()).await;
    assert_eq!(malformed(error), Malformed::Html);
    let (error, _) = outcome(|| "".into_response()).await;
    assert_eq!(malformed(error), Malformed::Empty);
    let (error, _) = outcome(|| "hello".into_response()).await;
    assert!(matches!(malformed(error), Malformed::NotJson { .. }));

    let whole = granted().to_string();
    for end in [1, whole.len() / 3, whole.len() - 1] {
        let cut = whole[..end].to_owned();
        let (error, requests) = outcome(move || cut.clone().into_response()).await;
        assert!(error.may_have_registered());
        assert_eq!((malformed(error), requests), (Malformed::CutOff, 1));
    }
}

#[tokio::test]
async fn each_key_that_is_missing_is_named() {
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
            Malformed::Missing(path)
        );
        let mut null = granted();
        *at(&mut null, path) = Value::Null;
        assert_eq!(malformed(outcome_of(null).await), Malformed::Missing(path));
        let mut wrong = granted();
        *at(&mut wrong, path) = json!(7);
        assert!(
            matches!(
                malformed(outcome_of(wrong).await),
                Malformed::WrongType { .. }
            ),
            "{path}"
        );
    }
}

fn at<'a>(value: &'a mut Value, path: &str) -> &'a mut Value {
    path.split('.')
        .filter(|key| !key.is_empty())
        .fold(value, |value, key| &mut value[key])
}

#[tokio::test]
async fn each_value_that_is_not_valid_is_named() {
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
            Malformed::Invalid { field, .. } => assert_eq!(field, path, "{value}"),
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
            matches!(error, ProvisionError::Mismatched { field, .. } if field == path),
            "{error}"
        );
        let secret = stray_key.lines().nth(1).unwrap();
        assert!(!format!("{error} {error:?}").contains(secret));
    }
}

#[tokio::test]
async fn a_body_without_end_is_not_read_to_its_end() {
    const CHUNK: usize = 64 * 1024;
    const CHUNKS: usize = 50 * 1024 * 1024 / CHUNK;
    let handed_over = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&handed_over);
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
    // What went over is the limit and what fits into the sockets' buffers.
    let read = handed_over.load(Ordering::SeqCst);
    assert!(read < CHUNK * CHUNKS / 2, "{read} bytes");

    let (error, _) = outcome(|| vec![b' '; 50 * 1024 * 1024].into_response()).await;
    assert!(matches!(error, ProvisionError::TooLarge { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_is_down_is_tried_again_and_then_named() {
    let unused = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let client = quick(Client::builder(&format!("http://{unused}")))
        .build()
        .unwrap();
    let error = client.register("SN0001", &key()).await.unwrap_err();
    assert!(
        matches!(error, ProvisionError::Unreachable { .. }),
        "{error}"
    );
    assert!(error.is_retryable() && !error.may_have_registered());
    let text = error.to_string();
    assert!(
        text.contains(&unused.to_string()) && text.contains("refused"),
        "{text}"
    );

    let client = quick(Client::builder("https://no-such-host.invalid"))
        .build()
        .unwrap();
    let error = client.register("SN0001", &key()).await.unwrap_err();
    assert!(
        matches!(error, ProvisionError::Unreachable { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_after_the_request_is_not_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let n = counter.fetch_add(1, Ordering::SeqCst);
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            if n > 0 {
                // The second of the two cases: the answer begins and stops.
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"regis")
                    .await;
            }
        }
    });
    let client = quick(Client::builder(&format!("http://{address}")))
        .build()
        .unwrap();
    for connection in 1..=2 {
        let error = client.register("SN0001", &key()).await.unwrap_err();
        assert!(
            matches!(error, ProvisionError::Interrupted { .. }),
            "{error}"
        );
        assert!(error.may_have_registered() && !error.is_retryable());
        assert_eq!(connections.load(Ordering::SeqCst), connection);
    }
    server.abort();
}

#[tokio::test]
async fn every_wait_has_its_limit() {
    let api = Api::start(|_| None).await;
    let limit = Duration::from_millis(200);
    let client = quick(Client::builder(&api.url()))
        .attempt_timeout(limit)
        .build()
        .unwrap();
    let error = client.register("SN0001", &key()).await.unwrap_err();
    assert!(
        matches!(error, ProvisionError::TimedOut { limit: got, .. } if got == limit),
        "{error}"
    );
    assert!(error.may_have_registered());
    assert_eq!(api.requests(), 1, "the key may be used up");

    let client = Client::builder(&api.url())
        .total_timeout(limit)
        .build()
        .unwrap();
    let error = client.register("SN0001", &key()).await.unwrap_err();
    assert!(
        matches!(error, ProvisionError::TimedOut { limit: got, .. } if got == limit),
        "{error}"
    );

    // It listens, and never says anything: TLS cannot come about.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}", silent.local_addr().unwrap());
    let (root, _) = common::pair("ca.example");
    let client = quick(Client::builder(&url))
        .additional_roots_pem(root)
        .connect_timeout(limit)
        .build()
        .unwrap();
    let error = client.register("SN0001", &key()).await.unwrap_err();
    assert!(
        matches!(error, ProvisionError::ConnectTimedOut { limit: got, .. } if got == limit),
        "{error}"
    );
    assert!(!error.may_have_registered());
}

#[tokio::test]
async fn a_serial_number_that_could_bend_a_topic_is_not_sent() {
    let api = Api::start(|_| Some(ok(&granted()))).await;
    for (serial, problem) in [
        ("a/b#", SerialProblem::Character('/')),
        ("", SerialProblem::Empty),
        (&"x".repeat(129), SerialProblem::TooLong),
        ("a\n", SerialProblem::Character('\n')),
    ] {
        let error = api.client().register(serial, &key()).await.unwrap_err();
        assert_eq!(error, ProvisionError::SerialNumber(problem));
    }
    assert_eq!(api.requests(), 0);
}

#[test]
fn settings_that_cannot_work_are_refused_at_once() {
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
