//! Network failures: unreachable servers, broken connections, timeouts, and `Client::probe`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::http::header::{DATE, LOCATION};
use axum::response::{Html, IntoResponse, Response};
use cloud_provision::{Client, ProvisionError, RequestStage};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::common::{self, Api, granted, key, ok, quick, with_status};

#[tokio::test]
async fn unreachable_server_is_retried_and_named() {
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
async fn connection_lost_after_request_is_not_retried() {
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
                // Second case: the response is truncated.
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
        assert!(error.to_string().contains("needs a new key"), "{error}");
        assert_eq!(connections.load(Ordering::SeqCst), connection);
    }
    server.abort();
}

#[tokio::test]
async fn stage_reports_progress_of_dropped_registration() {
    let start = async |api: &Api, until: usize| {
        let client = quick(Client::builder(&api.url())).build().unwrap();
        assert_eq!(client.stage(), RequestStage::Unsent);
        let (registering, key) = (client.clone(), key());
        let task = tokio::spawn(async move { registering.register("SN0001", &key).await.is_ok() });
        while api.requests() < until {
            tokio::task::yield_now().await;
        }
        (client, task)
    };
    // Received but not answered.
    let api = Api::start(|_| None).await;
    let (client, task) = start(&api, 1).await;
    task.abort();
    assert_eq!(client.stage(), RequestStage::Sent);
    // Refused, so not registered.
    let api = Api::start(|_| Some(with_status(403, ""))).await;
    let (client, task) = start(&api, 1).await;
    assert!(!task.await.unwrap());
    assert_eq!(client.stage(), RequestStage::Unsent);
    // A probe is not a registration.
    client.probe().await.unwrap();
    assert_eq!(client.stage(), RequestStage::Unsent);
    let api = Api::start(|_| Some(ok(&granted()))).await;
    let (client, task) = start(&api, 1).await;
    assert!(task.await.unwrap());
    assert_eq!(client.stage(), RequestStage::Answered);
}

#[tokio::test]
async fn connect_attempt_and_total_timeouts_apply() {
    let api = Api::start(|_| None).await;
    let limit = Duration::from_millis(200);
    let client = quick(Client::builder(&api.url()))
        .attempt_timeout(limit)
        .build()
        .unwrap();
    let error = client.register("SN0001", &key()).await.unwrap_err();
    assert!(
        matches!(error, ProvisionError::TimedOut { limit: actual, .. } if actual == limit),
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
        matches!(error, ProvisionError::TimedOut { limit: actual, .. } if actual == limit),
        "{error}"
    );

    // A server that accepts and never responds, so the TLS handshake stalls.
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
        matches!(error, ProvisionError::ConnectTimedOut { limit: actual, .. } if actual == limit),
        "{error}"
    );
    assert!(!error.may_have_registered());
}

#[tokio::test]
async fn probe_sends_no_key_and_measures_clock_skew() {
    for (status, requests) in [(200, 2), (403, 1), (404, 2), (405, 1)] {
        let date = [(DATE, "Wed, 01 Jan 2020 00:00:00 GMT")];
        let api = Api::start(move |number| {
            Some(match number {
                0 => with_status(status, (date.clone(), "")),
                _ => with_status(400, r#"{"error": "no serial number"}"#),
            })
        })
        .await;
        let probe = api.client().probe().await.unwrap();
        assert_eq!(probe.status, status);
        assert!(probe.clock_skew.unwrap().is_significant());
        let request = api.received(0);
        assert_eq!((request.method.as_str(), request.body.len()), ("GET", 0));
        assert_eq!(request.uri.path(), "/device/register");
        assert_eq!(api.requests(), requests);
        if requests == 2 {
            let request = api.received(1);
            assert_eq!(request.method.as_str(), "POST");
            assert_eq!(&request.body[..], b"{}");
        }
    }
}

#[tokio::test]
async fn probe_names_server_that_is_no_platform() {
    let pages: [fn(usize) -> Response; 6] = [
        // nginx, and a static server that knows GET only.
        |_| with_status(404, Html("<h1>Not Found</h1>")),
        |number| match number {
            0 => with_status(404, Html("<h1>Not Found</h1>")),
            _ => with_status(405, Html("<h1>Not Allowed</h1>")),
        },
        |_| with_status(403, Html("<h1>Forbidden</h1>")),
        |_| with_status(200, "it works"),
        // Another API.
        |_| with_status(404, r#"{"message": "Not Found"}"#),
        |_| with_status(200, "[1, 2]"),
    ];
    for page in pages {
        let api = Api::start(move |number| Some(page(number))).await;
        let error = api.client().probe().await.unwrap_err();
        assert!(
            matches!(error, ProvisionError::NotPlatform { .. }),
            "{error}"
        );
        assert!(error.to_string().contains("URL is wrong"), "{error}");
        assert!(!error.is_retryable() && !error.may_have_registered());
    }
}

#[tokio::test]
async fn probe_errors_name_the_cause_and_never_a_used_key() {
    let probe = async |answer: fn() -> Option<Response>| {
        let api = Api::start(move |_| answer()).await;
        let client = quick(Client::builder(&api.url()))
            .attempt_timeout(Duration::from_millis(200))
            .build()
            .unwrap();
        let error = client.probe().await.unwrap_err();
        assert_eq!(api.requests(), 1, "{error}");
        assert!(!error.to_string().contains("new key"), "{error}");
        assert!(!error.may_have_registered(), "{error}");
        error
    };
    let error = probe(|| Some(Html("<h1>welcome</h1>").into_response())).await;
    assert!(error.to_string().contains("captive portal"), "{error}");
    let error = probe(|| Some(with_status(307, [(LOCATION, "http://portal.example")]))).await;
    assert!(error.to_string().contains("portal.example"), "{error}");
    let error = probe(|| Some(with_status(503, ""))).await;
    assert!(matches!(error, ProvisionError::Server { .. }), "{error}");
    let error = probe(|| Some(with_status(504, ""))).await;
    assert!(error.to_string().contains("504"), "{error}");
    let error = probe(|| None).await;
    assert!(
        matches!(error, ProvisionError::ConnectTimedOut { .. }),
        "{error}"
    );

    // A server that reads the request and closes the connection.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read(&mut [0; 4096]).await.unwrap()
    });
    let error = Client::builder(&url)
        .build()
        .unwrap()
        .probe()
        .await
        .unwrap_err();
    assert!(server.await.unwrap() > 0);
    assert!(
        matches!(error, ProvisionError::Unreachable { .. }) && !error.may_have_registered(),
        "{error}"
    );
}
