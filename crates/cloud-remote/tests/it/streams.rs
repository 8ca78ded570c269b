//! Long streams: downloads, uploads, events and WebSockets, and backpressure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::WebSocketUpgrade;
use axum::routing::{any, get, post};
use cloud_remote::{Application, Limits};
use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use snitun::{Cipher, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Notify, mpsc};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, protocol::Role};

use crate::support::{Cloud, LIMIT, NAME, connected, eventually, within};

/// More than all buffers on the path together, including those of the operating system.
const BUFFERS: u64 = 48 * 1024 * 1024;

/// Returns an application that detects lost bytes, with a download of consecutive numbers and a
/// WebSocket echo, and a counter of the downloaded bytes.
pub(crate) fn counting() -> (Application, Arc<AtomicU64>) {
    let produced = Arc::<AtomicU64>::default();
    let total = Arc::clone(&produced);
    let count = move || {
        let next = Arc::new(AtomicU64::new(0));
        let total = Arc::clone(&total);
        Body::from_stream(futures_util::stream::repeat_with(move || {
            let start = next.fetch_add(1024, Ordering::Relaxed);
            total.fetch_add(8 * 1024, Ordering::Relaxed);
            let numbers: Vec<u8> = (start..start + 1024).flat_map(u64::to_be_bytes).collect();
            Ok::<_, std::io::Error>(Bytes::from(numbers))
        }))
    };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/count", get(move || async move { count() }))
        .route(
            "/ws",
            any(|upgrade: WebSocketUpgrade| async {
                upgrade.on_upgrade(|mut socket| async move {
                    while let Some(Ok(message)) = socket.recv().await {
                        let _ = socket.send(message).await;
                    }
                })
            }),
        );
    (Application::service(router), produced)
}

/// A download of `/count`, of which each byte is checked.
pub(crate) struct Download {
    pub(crate) response: reqwest::Response,
    rest: Vec<u8>,
    pub(crate) next: u64,
}

impl Download {
    pub(crate) async fn start(cloud: &Cloud, protocol: &str) -> Self {
        let browser = cloud.browser(&[protocol]);
        let response = browser.get(cloud.url("/count")).send().await.unwrap();
        Self {
            response,
            rest: Vec::new(),
            next: 0,
        }
    }

    pub(crate) async fn go_on(&mut self) {
        let chunk = within(self.response.chunk()).await.unwrap();
        self.rest.extend(chunk.expect("an endless download"));
        let whole = self.rest.len() / 8 * 8;
        for number in self.rest[..whole].chunks(8) {
            assert_eq!(number, self.next.to_be_bytes(), "bytes were lost");
            self.next += 1;
        }
        self.rest.drain(..whole);
    }
}

/// Opens a WebSocket as a stream of an HTTP/2 connection (RFC 8441).
pub(crate) async fn websocket_over_http2(
    cloud: &Cloud,
) -> WebSocketStream<TokioIo<hyper::upgrade::Upgraded>> {
    let stream = TokioIo::new(cloud.open(&["h2"]).await.unwrap());
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = within(handshake).await.unwrap();
    tokio::spawn(connection);
    let url = |path| format!("https://{NAME}{path}");
    let request = |method, path| {
        let request = http::Request::builder().method(method).uri(url(path));
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    // The first response shows that the device's settings have arrived.
    let page = within(sender.send_request(request("GET", "/")))
        .await
        .unwrap();
    assert_eq!(page.collect().await.unwrap().to_bytes(), "hello");
    let mut request = request("CONNECT", "/ws");
    request.headers_mut().insert(
        "sec-websocket-version",
        http::HeaderValue::from_static("13"),
    );
    let protocol = hyper::ext::Protocol::from_static("websocket");
    request.extensions_mut().insert(protocol);
    let response = within(sender.send_request(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    let upgraded = within(hyper::upgrade::on(response)).await.unwrap();
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, None).await
}

#[tokio::test]
async fn serves_websocket_over_http2() {
    let cloud = Cloud::start().await;
    let _remote = cloud.device(counting().0).await;
    let mut socket = websocket_over_http2(&cloud).await;
    for size in [1, 1_000, 300_000] {
        let message = tungstenite::Message::binary(vec![7; size]);
        within(socket.send(message.clone())).await.unwrap();
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), message);
    }
    within(socket.close(None)).await.unwrap();
}

/// Waits until a number stays the same, and returns it.
async fn settled(number: &AtomicU64) -> u64 {
    let mut last = 0;
    within(async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let now = number.load(Ordering::Relaxed);
            if now == last && now > 0 {
                return now;
            }
            last = now;
        }
    })
    .await
}

#[tokio::test]
async fn slow_caller_applies_backpressure_without_loss() {
    for protocol in ["h2", "http/1.1"] {
        let cloud = Cloud::speaking(ProtocolVersion::V1, Cipher::AesCbc).await;
        let (application, produced) = counting();
        let _remote = cloud.device(application).await;
        let mut download = Download::start(&cloud, protocol).await;
        let held = settled(&produced).await;
        assert!(held < BUFFERS, "{protocol}: {held}");
        // Other connections continue.
        assert_eq!(cloud.page("h2").await, "hello");
        while download.next * 8 < held + 1024 * 1024 {
            download.go_on().await;
        }
    }
}

#[tokio::test]
async fn slow_application_applies_backpressure_without_loss() {
    let cloud = Cloud::speaking(ProtocolVersion::V1, Cipher::AesCbc).await;
    let read = Arc::new(Notify::new());
    let reads = Arc::clone(&read);
    let upload = post(async move |body: Body| {
        reads.notified().await;
        let mut body = body.into_data_stream();
        let (mut length, mut sum) = (0, 0_u64);
        while let Some(Ok(piece)) = body.next().await {
            length += piece.len();
            sum += piece.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
        format!("{length} {sum}")
    });
    let router = Router::new().route("/upload", upload);
    let _remote = cloud.device(Application::service(router)).await;
    let mut stream = cloud.open(&["http/1.1"]).await.unwrap();
    let total = BUFFERS + 1024 * 1024;
    let header = format!(
        "POST /upload HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {total}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(header.as_bytes()).await.unwrap();
    let piece = [3; 64 * 1024];
    let mut left = usize::try_from(total).unwrap();
    let mut stalled = false;
    while left > 0 {
        let write = stream.write(&piece[..piece.len().min(left)]);
        let written = if stalled {
            within(write).await
        } else {
            match tokio::time::timeout(Duration::from_secs(1), write).await {
                Ok(written) => written,
                Err(_) => {
                    stalled = true;
                    read.notify_one();
                    continue;
                }
            }
        };
        left -= written.unwrap();
    }
    assert!(stalled, "the whole upload was accepted");
    stream.flush().await.unwrap();
    let mut response = String::new();
    within(stream.read_to_string(&mut response)).await.unwrap();
    assert!(
        response.ends_with(&format!("{total} {}", total * 3)),
        "{response}"
    );
}

#[tokio::test]
async fn server_sent_events_arrive_individually() {
    for protocol in ["h2", "http/1.1"] {
        let cloud = Cloud::start().await;
        let (send, events) = mpsc::channel::<String>(1);
        let events = Arc::new(tokio::sync::Mutex::new(events));
        let stream = get(async move || {
            let body = futures_util::stream::unfold(events, |events| async move {
                let event = events.lock().await.recv().await?;
                Some((Ok::<_, std::io::Error>(event), events))
            });
            (
                [("content-type", "text/event-stream")],
                Body::from_stream(body),
            )
        });
        let router = Router::new().route("/events", stream);
        let _remote = cloud.device(Application::service(router)).await;
        let browser = cloud.browser(&[protocol]);
        let response = browser.get(cloud.url("/events")).send();
        send.send("data: 0\n\n".to_owned()).await.unwrap();
        let mut response = within(response).await.unwrap();
        for n in 1..10 {
            // The next event is sent only when this one has arrived.
            let seen = within(response.chunk()).await.unwrap().unwrap();
            assert_eq!(seen, format!("data: {}\n\n", n - 1));
            send.send(format!("data: {n}\n\n")).await.unwrap();
        }
    }
}

#[tokio::test]
async fn oversized_header_is_refused() {
    let cloud = Cloud::start().await;
    let remote = cloud.device(counting().0).await;
    for protocol in ["h2", "http/1.1"] {
        let request = cloud.browser(&[protocol]).get(cloud.url("/"));
        let cookie = "x".repeat(100_000);
        let response = request.header("cookie", cookie).send().await;
        // Refused with a status, or by resetting the stream.
        let status = response.as_ref().map(|response| response.status().as_u16());
        assert!(
            matches!(status, Err(_) | Ok(431)),
            "{protocol}: {response:?}"
        );
    }
    eventually(|| remote.open_connections() == 0).await;
}

#[tokio::test]
async fn idle_connection_is_closed() {
    let cloud = Cloud::start().await;
    let mut limits = Limits::default();
    limits.idle = Duration::from_millis(300);
    let builder = cloud.builder().application(counting().0).limits(limits);
    let remote = cloud.device_from(builder).await;
    remote.set_messaging_online(true);
    connected(&remote).await;
    let mut socket = websocket_over_http2(&cloud).await;
    let start = std::time::Instant::now();
    assert!(!matches!(within(socket.next()).await, Some(Ok(_))));
    assert!(start.elapsed() < LIMIT / 2);
    eventually(|| remote.open_connections() == 0).await;
}
