//! Callers as they come: half-closed connections, old versions, stalled uploads, offices behind one
//! address, and what they get when there is no response.

use hyper::body::Incoming;
use tokio::net::TcpListener;

use super::*;

/// A device that answers after a moment.
fn late_hello() -> Device {
    let late = || async {
        sleep(Duration::from_secs(1)).await;
        "hello"
    };
    Device::serving(Application::service(
        Router::new().route("/", get(late).post(late)),
    ))
}

/// An application that reads a request and sends these bytes.
async fn raw_application(response: &'static [u8]) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(response).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    Upstream::from(address)
}

async fn http2(device: &Device) -> SendRequest<Empty<Bytes>> {
    let stream = TokioIo::new(device.call_with_tls("h2").await);
    let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(method: &str, accept: &str) -> Request<Empty<Bytes>> {
    let url = format!("https://{NAME}/");
    let request = Request::builder().method(method).uri(url);
    request.header("accept", accept).body(Empty::new()).unwrap()
}

async fn text(response: ::http::Response<Incoming>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn half_closed_caller_gets_its_response() {
    let device = late_hello();
    for request in [
        format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n"),
        format!("GET / HTTP/1.0\r\nHost: {NAME}\r\n\r\n"),
        format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 3\r\n\r\nabc"),
    ] {
        let mut caller = device.call_with_tls("http/1.1").await;
        caller.write_all(request.as_bytes()).await.unwrap();
        // `close_notify` only: the transport stays open.
        caller.get_mut().1.send_close_notify();
        caller.flush().await.unwrap();
        let mut response = String::new();
        let start = Instant::now();
        caller.read_to_string(&mut response).await.unwrap();
        assert!(response.ends_with("hello"), "{request} {response}");
        assert!(start.elapsed() < IDLE / 2, "it is closed afterwards");
    }
    device.ended().await;
}

#[tokio::test]
async fn half_closed_caller_gets_response_of_forwarded_application() {
    let upstream = raw_application(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
    let device = Device::serving(Application::forward(upstream));
    let mut caller = device.call_with_tls("http/1.1").await;
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    caller.write_all(request.as_bytes()).await.unwrap();
    caller.get_mut().1.send_close_notify();
    caller.flush().await.unwrap();
    let mut response = String::new();
    caller.read_to_string(&mut response).await.unwrap();
    assert!(response.ends_with("hello"), "{response}");
    device.ended().await;
}

/// Also while the application takes its time.
#[tokio::test(start_paused = true)]
async fn caller_that_has_gone_ends_its_request() {
    for half_closed in [false, true] {
        let hang = get(std::future::pending::<()>);
        let device = Device::serving(Application::service(Router::new().route("/", hang)));
        let mut caller = device.call_with_tls("http/1.1").await;
        let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        caller.write_all(request.as_bytes()).await.unwrap();
        if half_closed {
            caller.get_mut().1.send_close_notify();
            caller.flush().await.unwrap();
            sleep(Duration::from_secs(1)).await;
            assert_eq!(device.server.http.requests_in_use(), 1);
        }
        drop(caller);
        let start = Instant::now();
        device.ended().await;
        assert!(start.elapsed() < Duration::from_secs(1), "{half_closed}");
    }
}

#[tokio::test(start_paused = true)]
async fn http_1_0_is_negotiated_and_answered() {
    let device = late_hello();
    let mut caller = device.call_with_tls("http/1.0").await;
    assert_eq!(caller.get_ref().1.alpn_protocol(), Some(&b"http/1.0"[..]));
    let request = format!("GET / HTTP/1.0\r\nHost: {NAME}\r\n\r\n");
    caller.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    caller.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.0 200"), "{response}");
    device.ended().await;
}

#[tokio::test(start_paused = true)]
async fn http1_request_may_have_as_many_fields_as_http2() {
    let device = late_hello();
    for (fields, status) in [(199, "200"), (200, "431")] {
        let mut caller = device.call_with_tls("http/1.1").await;
        let fields = "A: b\r\n".repeat(fields);
        let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n{fields}\r\n");
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut response = [0; 12];
        caller.read_exact(&mut response).await.unwrap();
        assert_eq!(response, format!("HTTP/1.1 {status}").as_bytes());
    }
    device.ended().await;
}

/// Uploads that the application does not read leave room for the others on their connection.
#[tokio::test(start_paused = true)]
async fn stalled_uploads_do_not_stop_others_on_their_connection() {
    use http_body_util::Full;

    let stall = post(|body: axum::body::Body| async move {
        std::future::pending::<()>().await;
        drop(body);
    });
    let router = Router::new()
        .route("/stall", stall)
        .route(
            "/upload",
            post(|body: Bytes| async move { body.len().to_string() }),
        )
        .layer(axum::extract::DefaultBodyLimit::disable());
    let device = Device::serving(Application::service(router));
    let stream = TokioIo::new(device.call_with_tls("h2").await);
    let (mut sender, connection) = handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut upload = |path: &str| {
        let body = Full::new(Bytes::from(vec![7; 3_000_000]));
        let request = Request::post(format!("https://{NAME}{path}")).body(body);
        sender.send_request(request.unwrap())
    };
    let stalled = [upload("/stall"), upload("/stall"), upload("/stall")].map(tokio::spawn);
    sleep(Duration::from_secs(1)).await;
    let response = timeout(Duration::from_secs(60), upload("/upload")).await;
    let response = response.expect("it stands still").unwrap();
    assert_eq!(text(response).await, "3000000");
    stalled.iter().for_each(JoinHandle::abort);
    drop((sender, stalled));
    device.ended().await;
}

/// 64 browsers behind one address each keep an event stream open.
#[tokio::test(start_paused = true)]
async fn event_streams_of_an_office_leave_room_for_its_pages() {
    let events = || async {
        axum::body::Body::from_stream(futures_util::stream::pending::<io::Result<Bytes>>())
    };
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/events", get(events));
    let device = Device::serving(Application::service(router));
    let (mut streams, mut senders) = (Vec::new(), Vec::new());
    for _ in 0..Limits::default().requests_per_address {
        let mut sender = http2(&device).await;
        let request = Request::get(format!("https://{NAME}/events")).body(Empty::new());
        streams.push(sender.send_request(request.unwrap()).await.unwrap());
        senders.push(sender);
    }
    // The streams are new: the page waits a moment.
    let start = Instant::now();
    let mut office = senders.pop().unwrap();
    let page = office.send_request(request("GET", "*/*")).await.unwrap();
    assert_eq!(page.status(), 200);
    assert_eq!(text(page).await, "hello");
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "{:?}",
        start.elapsed()
    );
    // And another browser comes in.
    let mut other = http2(&device).await;
    let page = other.send_request(request("GET", "*/*")).await.unwrap();
    assert_eq!(text(page).await, "hello");
    drop((streams, senders, office, other));
    device.ended().await;
}

#[tokio::test(start_paused = true)]
async fn quiet_websocket_is_kept_alive_while_the_caller_answers() {
    use axum::extract::ws::WebSocketUpgrade;
    use futures_util::StreamExt;
    use tokio_tungstenite::tungstenite::Message;

    let websocket = get(|upgrade: WebSocketUpgrade| async {
        upgrade.on_upgrade(|mut socket| async move { while socket.recv().await.is_some() {} })
    });
    let device = Device::serving(Application::service(Router::new().route("/", websocket)));
    let stream = device.call_with_tls("http/1.1").await;
    let (mut socket, _) = tokio_tungstenite::client_async(format!("wss://{NAME}/"), stream)
        .await
        .unwrap();
    let start = Instant::now();
    for _ in 0..20 {
        // The client answers when it is polled.
        let ping = socket.next().await.unwrap().unwrap();
        assert_eq!(ping, Message::Ping(Bytes::new()));
    }
    assert!(start.elapsed() > 3 * IDLE, "{:?}", start.elapsed());
    // A caller that no longer answers is let go.
    sleep(2 * IDLE).await;
    assert_eq!(device.server.connections.in_use(), 0);
    drop(socket);
    device.ended().await;
}

#[tokio::test]
async fn head_gets_no_body_while_the_application_is_down() {
    let device = Device::serving(Application::forward(Upstream::host("127.0.0.1", 1)));
    let response = http2(&device)
        .await
        .send_request(request("HEAD", "text/html"))
        .await;
    let response = response.unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(text(response).await, "");
    device.ended().await;
}

/// A browser's EventSource connects again after a network error, but not after a response with
/// status 502.
#[tokio::test]
async fn event_stream_is_reset_while_the_application_is_down() {
    let device = Device::serving(Application::forward(Upstream::host("127.0.0.1", 1)));
    let mut sender = http2(&device).await;
    let error = sender
        .send_request(request("GET", "text/event-stream"))
        .await;
    assert!(error.unwrap_err().to_string().contains("http2 error"));
    // The connection stays.
    let response = sender
        .send_request(request("GET", "text/html"))
        .await
        .unwrap();
    assert_eq!(response.status(), 502);
    assert_eq!(response.headers()["refresh"], "5");

    let mut caller = device.call_with_tls("http/1.1").await;
    let head = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nAccept: text/event-stream\r\n\r\n");
    caller.write_all(head.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    let _ = caller.read_to_end(&mut response).await;
    assert_eq!(response, b"");
    drop(sender);
    device.ended().await;
}

/// The default log says what the application did.
#[tokio::test]
async fn log_says_what_the_application_did_instead_of_answering() {
    let (log, _guard) = Log::capture();
    let many: &'static [u8] = Box::leak(
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(20_000))
            .into_bytes()
            .into_boxed_slice(),
    );
    for (upstream, expected) in [
        (Upstream::host("127.0.0.1", 1), "it refused the connection"),
        (
            raw_application(b"").await,
            "it closed the connection without a response",
        ),
        (
            raw_application(b"HTTP/1.1 200").await,
            "it closed the connection without a response",
        ),
        (
            raw_application(b"\x15\x03\x01\0\x02\x02\x46").await,
            "it speaks TLS, not HTTP/1.1",
        ),
        (
            raw_application(b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x01").await,
            "it speaks HTTP/2, not HTTP/1.1",
        ),
        (
            raw_application(b"SSH-2.0-OpenSSH_9.2\r\n").await,
            "its response is not HTTP/1.1",
        ),
        (
            raw_application(many).await,
            "the header of its response is too large",
        ),
    ] {
        let device = Device::serving(Application::forward(upstream));
        let mut sender = http2(&device).await;
        let response = sender.send_request(request("GET", "*/*")).await.unwrap();
        assert_eq!(response.status(), 502);
        drop(sender);
        device.ended().await;
        let lines = log.take();
        assert!(
            lines.contains(" WARN ") && lines.contains(expected),
            "{expected} in\n{lines}"
        );
    }
}

/// The log names the limit, not the application.
#[tokio::test(start_paused = true)]
async fn log_names_the_setting_of_the_response_timeout() {
    let (log, _guard) = Log::capture();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ui.sock");
    let _silent = tokio::net::UnixListener::bind(&path).unwrap();
    let device = Device::serving(Application::forward(Upstream::unix(&path)));
    let mut sender = http2(&device).await;
    let response = sender
        .send_request(request("GET", "text/html"))
        .await
        .unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!(response.headers()["retry-after"], "5");
    drop(sender);
    let lines = log.take();
    assert!(
        lines.contains("within 120 s") && lines.contains("Limits::response"),
        "{lines}"
    );
}

/// As the relay closes a connection, so does the device, and says whose limit it is.
#[tokio::test(start_paused = true)]
async fn log_names_the_setting_of_the_idle_timeout() {
    let (log, _guard) = Log::capture();
    let hang = get(std::future::pending::<()>);
    let device = Device::serving(Application::service(Router::new().route("/", hang)));
    let mut caller = device.call_with_tls("http/1.1").await;
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    caller.write_all(request.as_bytes()).await.unwrap();
    let start = Instant::now();
    let _ = caller.read_to_end(&mut Vec::new()).await;
    assert_eq!(start.elapsed(), IDLE);
    let lines = log.take();
    assert!(
        lines.contains("setting=\"Limits::idle\" seconds=180"),
        "{lines}"
    );
    device.ended().await;
}

/// A caller that stops in the middle of its upload says nothing about the application.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn stalled_upload_is_no_failure_of_the_application() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ui.sock");
    let _waits_for_the_rest = tokio::net::UnixListener::bind(&path).unwrap();
    let device = Device::serving(Application::forward(Upstream::unix(&path)));
    let mut caller = device.call_with_tls("http/1.1").await;
    let head = format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 1000000\r\n\r\n");
    caller.write_all(head.as_bytes()).await.unwrap();
    // So much that its rate over the first minute is high enough.
    caller.write_all(&[7; 20_000]).await.unwrap();
    let mut response = String::new();
    caller.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 408 "), "{response}");
    let health = device.server.upstream_health().snapshot();
    assert!(health.last_failure.is_none(), "{health:?}");
    device.ended().await;
}

/// The response timeout does not count while the application refuses connections.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn application_that_stays_away_is_not_reported_as_silent() {
    use crate::ForwardOptions;

    let directory = tempfile::tempdir().unwrap();
    let upstream = Upstream::unix(directory.path().join("ui.sock"));
    let options = ForwardOptions::new().restart_wait(Duration::from_secs(150));
    let device = Device::serving(Application::forward_with(upstream, options));
    let mut sender = http2(&device).await;
    let start = Instant::now();
    let response = sender.send_request(request("GET", "*/*")).await.unwrap();
    assert_eq!(response.status(), 502);
    assert!(start.elapsed() >= Duration::from_secs(150));
    drop(sender);
    device.ended().await;
}

/// They all wait for the application, not for each other.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn handshakes_that_fail_do_not_wait_for_each_other() {
    use crate::{ForwardOptions, UpstreamProtocol, UpstreamTls};

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ui.sock");
    let _silent = tokio::net::UnixListener::bind(&path).unwrap();
    let tls = UpstreamTls::new(NAME, RootCertStore::empty()).unwrap();
    let options = ForwardOptions::new().protocol(UpstreamProtocol::Tls(tls));
    let device = Device::serving(Application::forward_with(Upstream::unix(&path), options));
    let sender = http2(&device).await;
    let start = Instant::now();
    let responses = (0..20).map(|_| {
        let mut sender = sender.clone();
        async move { sender.send_request(request("GET", "*/*")).await.unwrap() }
    });
    for response in futures_util::future::join_all(responses).await {
        assert_eq!(response.status(), 502);
    }
    assert!(
        start.elapsed() < Duration::from_secs(30),
        "{:?}",
        start.elapsed()
    );
    drop(sender);
    device.ended().await;
}
