//! A registration API: a real HTTP server on a loopback port with responses that a test chooses.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "`secrets` uses a part of this module"
)]

pub(crate) mod tls;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use cloud_provision::{Client, ClientBuilder, ProvisionError, ProvisioningKey, Retry};
use serde_json::{Value, json};
use testkit::pki::Pair;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A request that the server received.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: axum::http::Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The server. Dropping it stops the server.
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    count: Arc<AtomicUsize>,
    received: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<()>,
}

impl Api {
    /// Answers request n, from 0, with `answer(n)`, or never if that is `None`.
    pub(crate) async fn start(
        answer: impl Fn(usize) -> Option<Response> + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::start_with_body(move |n, _| answer(n)).await
    }

    /// Like `start`, with a response that depends on the request body.
    pub(crate) async fn start_with_body(
        answer: impl Fn(usize, &[u8]) -> Option<Response> + Clone + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        Self::serve(listener, address, answer)
    }

    pub(crate) fn serve<L: Listener>(
        listener: L,
        address: SocketAddr,
        answer: impl Fn(usize, &[u8]) -> Option<Response> + Clone + Send + Sync + 'static,
    ) -> Self
    where
        L::Addr: std::fmt::Debug,
    {
        let count = Arc::new(AtomicUsize::new(0));
        let received = Arc::new(Mutex::new(Vec::new()));
        let (counter, log) = (Arc::clone(&count), Arc::clone(&received));
        let app = Router::new().fallback(move |request: Request| {
            let (counter, log, answer) = (Arc::clone(&counter), Arc::clone(&log), answer.clone());
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 64 * 1024).await.unwrap();
                log.lock().unwrap().push(Received {
                    method: parts.method,
                    uri: parts.uri,
                    version: parts.version,
                    headers: parts.headers,
                    body: body.clone(),
                });
                match answer(counter.fetch_add(1, Ordering::SeqCst), &body) {
                    Some(response) => response,
                    None => std::future::pending().await,
                }
            }
        });
        let task = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Self {
            address,
            count,
            received,
            task,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the number of received requests.
    pub(crate) fn requests(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(crate) fn received(&self, number: usize) -> Received {
        self.received.lock().unwrap()[number].clone()
    }

    pub(crate) fn client(&self) -> Client {
        quick(Client::builder(&self.url())).build().unwrap()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Shortens the delays between attempts.
pub(crate) fn quick(builder: ClientBuilder) -> ClientBuilder {
    let mut retry = Retry::default();
    retry.attempts = 3;
    retry.first_delay = Duration::from_millis(20);
    builder.retry(retry)
}

pub(crate) const KEY: &str = "prov-4711-s3cret";

pub(crate) fn key() -> ProvisioningKey {
    ProvisioningKey::new(KEY).unwrap()
}

pub(crate) fn pair(name: &str) -> (String, String) {
    let pair = Pair::self_signed(name);
    (pair.certificate, pair.key)
}

/// A successful response.
pub(crate) fn granted() -> Value {
    let (device_certificate, device_key) = pair("SN0001");
    let (root, _) = pair("ca.example");
    let (remote_cert, remote_key) = pair("sn0001.ui.example.com");
    json!({"registration": {"error": null, "thing": {
        "iot": {
            "endpoint": "abc-ats.iot.eu-west-1.amazonaws.com",
            "thing_name": "SN0001",
            "certificates": {"device_certificate": device_certificate, "root_ca": root},
            "keyPair": {"privateKey": device_key},
        },
        "remote": {
            "endpoint": "remote.example.com",
            "access_point": "sn0001.ui.example.com",
            "cert": remote_cert,
            "pkey": remote_key,
        },
    }}})
}

pub(crate) fn with_status(status: u16, body: impl IntoResponse) -> Response {
    (StatusCode::from_u16(status).unwrap(), body).into_response()
}

pub(crate) fn ok(body: &Value) -> Response {
    with_status(200, axum::Json(body.clone()))
}

/// Returns the error for one fixed response, and the number of requests.
pub(crate) async fn outcome(
    answer: impl Fn() -> Response + Clone + Send + Sync + 'static,
) -> (ProvisionError, usize) {
    let api = Api::start(move |_| Some(answer())).await;
    let error = api.client().register("SN0001", &key()).await.unwrap_err();
    assert!(error.to_string().contains(&api.url()), "{error}");
    assert!(!format!("{error} {error:?}").contains(KEY), "{error:?}");
    (error, api.requests())
}
