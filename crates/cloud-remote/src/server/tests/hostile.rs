//! Hostile callers that try to exclude others or to keep the device busy.

use hyper::client::conn::http2::Builder;
use tokio::sync::Notify;

use super::*;

/// The start of an HTTP/2 connection: the preface and empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADER_LIMIT: Duration = Duration::from_secs(30);
const MINUTE: Duration = Duration::from_secs(60);

fn hello() -> Device {
    Device::serving(Application::service(
        Router::new().route("/", get(|| async { "hello" })),
    ))
}

/// Writes byte by byte, as slowly as possible, until the connection ends. Returns the duration.
async fn trickle(mut caller: TlsStream<DuplexStream>, first: &[u8]) -> Duration {
    let start = Instant::now();
    caller.write_all(first).await.unwrap();
    let (mut reader, mut writer) = tokio::io::split(caller);
    let writing = async {
        while writer.write_all(b"a").await.is_ok() && writer.flush().await.is_ok() {
            sleep(Duration::from_secs(5)).await;
        }
    };
    let reading = async {
        let mut seen = [0; 4096];
        while reader.read(&mut seen).await.is_ok_and(|read| read > 0) {}
    };
    tokio::select! {
        () = writing => {}
        () = reading => {}
    }
    start.elapsed()
}

/// Asserts that another caller gets its page at once.
async fn assert_served_at_once(device: &Device, address: [u8; 4]) {
    let start = Instant::now();
    let mut caller = device.call_from(address, "http/1.1").await;
    let head = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    caller.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    caller.read_to_string(&mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn protocol_other_than_alpn_ends_at_once() {
    let device = hello();
    for (protocol, first) in [
        ("h2", &b"GET / HTTP/1.1\r\nHost: x\r\nA: "[..]),
        ("http/1.1", PREFACE),
    ] {
        let took = trickle(device.call_with_tls(protocol).await, first).await;
        assert!(took < Duration::from_secs(10), "{protocol}: {took:?}");
    }
    device.ended().await;
}

#[tokio::test(start_paused = true)]
async fn silence_and_partial_headers_end_at_header_timeout() {
    let device = hello();
    // A HEADERS frame of 100 bytes that never ends.
    let headers = [PREFACE, b"\0\0\x64\x01\x05\0\0\0\x01"].concat();
    let beginnings = [
        ("http/1.1", &b"GET / HTTP/1.1\r\nHost: x\r\nA: "[..]),
        ("http/1.1", b""),
        ("h2", b"PRI * HT"),
        ("h2", b""),
        ("h2", PREFACE),
        ("h2", &headers),
    ];
    for (protocol, first) in beginnings {
        let caller = device.call_with_tls(protocol).await;
        // Only valid data is sent, so that the timeout ends the connection.
        let took = if first.ends_with(b"A: ") || first == headers {
            trickle(caller, first).await
        } else {
            let start = Instant::now();
            let mut caller = caller;
            caller.write_all(first).await.unwrap();
            let mut seen = Vec::new();
            let _ = caller.read_to_end(&mut seen).await;
            start.elapsed()
        };
        let least = HEADER_LIMIT - Duration::from_secs(1);
        let most = HEADER_LIMIT + Duration::from_secs(7);
        assert!(
            (least..most).contains(&took),
            "{protocol} {first:?}: {took:?}"
        );
    }
    device.ended().await;
}

#[tokio::test(start_paused = true)]
async fn stop_ends_half_read_headers() {
    for (protocol, first) in [("http/1.1", &b"GET / HT"[..]), ("h2", PREFACE)] {
        let device = hello();
        let mut caller = device.call_with_tls(protocol).await;
        caller.write_all(first).await.unwrap();
        sleep(Duration::from_secs(1)).await;
        let start = Instant::now();
        device.ended().await;
        assert!(start.elapsed() < Duration::from_secs(2), "{protocol}");
    }
}

/// Four addresses use all connections; the next caller still gets its page.
#[tokio::test(start_paused = true)]
async fn idle_connections_are_evicted_for_active_caller() {
    let device = hello();
    let mut held = Vec::new();
    for address in 1..=4 {
        for _ in 0..64 {
            held.push(device.call([192, 0, 2, address]));
        }
    }
    assert_eq!(device.server.connections.in_use(), 256);
    for round in 0..3 {
        assert_served_at_once(&device, [198, 51, 100, 1]).await;
        sleep(Duration::from_secs(3)).await;
        assert!(device.server.connections.in_use() <= 256, "{round}");
    }
    // Callers with unknown addresses are distinct too.
    let mut unknown = Vec::new();
    for _ in 0..200 {
        let (caller, stream) = duplex(1024);
        device.server.accept(stream, None);
        unknown.push(caller);
        sleep(Duration::from_secs(1)).await;
    }
    assert_served_at_once(&device, [198, 51, 100, 1]).await;
    assert_served_at_once(&device, [0, 0, 0, 0]).await;
    drop((held, unknown));
    device.ended().await;
}

/// Requests whose bodies arrive byte by byte use all places.
#[tokio::test(start_paused = true)]
async fn trickling_uploads_are_evicted_and_end() {
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/upload", post(|_: Bytes| async { "got it" }));
    let device = Device::serving(Application::service(router));
    let mut senders = Vec::new();
    let mut responses = tokio::task::JoinSet::new();
    for address in 1..=4 {
        let stream = TokioIo::new(device.call_from([192, 0, 2, address], "h2").await);
        let (mut sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..64 {
            let pieces = futures_util::stream::unfold((), |()| async {
                sleep(Duration::from_secs(50)).await;
                let piece = hyper::body::Frame::data(Bytes::from_static(b"a"));
                Some((Ok::<_, std::io::Error>(piece), ()))
            });
            let body = http_body_util::StreamBody::new(Box::pin(pieces));
            let request = Request::post(format!("https://{NAME}/upload")).body(body);
            responses.spawn(sender.send_request(request.unwrap()));
        }
        senders.push(sender);
    }
    let start = Instant::now();
    sleep(Duration::from_secs(2)).await;
    assert_served_at_once(&device, [198, 51, 100, 1]).await;
    // Each of the others gets a timeout response.
    while let Some(response) = responses.join_next().await {
        assert_eq!(response.unwrap().unwrap().status(), 408);
    }
    assert!(start.elapsed() < 2 * MINUTE, "{:?}", start.elapsed());
    drop(senders);
    device.ended().await;
}

/// Unread responses hold their places no longer than that.
#[tokio::test(start_paused = true)]
async fn unread_responses_are_evicted_and_end() {
    let large = Bytes::from(vec![7; 1024 * 1024]);
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/large", get(move || std::future::ready(large.clone())));
    let device = Device::serving(Application::service(router));
    let mut held = Vec::new();
    for address in 1..=4 {
        let stream = TokioIo::new(device.call_from([192, 0, 2, address], "h2").await);
        // hyper's client never opens the window of an unread body.
        let builder = Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1)
            .clone();
        let (mut sender, connection) = builder.handshake::<_, Empty<Bytes>>(stream).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..64 {
            let request = Request::get(format!("https://{NAME}/large")).body(Empty::new());
            let response = sender.send_request(request.unwrap()).await.unwrap();
            held.push((sender.clone(), response));
        }
    }
    sleep(Duration::from_secs(2)).await;
    assert_served_at_once(&device, [198, 51, 100, 1]).await;
    sleep(2 * MINUTE).await;
    assert_eq!(device.server.http.requests_in_use(), 0);
    // The connections stay open.
    let (sender, _) = held.first_mut().unwrap();
    let request = Request::get(format!("https://{NAME}/")).body(Empty::new());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    assert_eq!(response.status(), 200);
    drop((held, response));
    device.ended().await;
}

/// The request queue is limited for a slow application in process, too.
#[tokio::test(start_paused = true)]
async fn requests_that_may_not_wait_are_refused_at_once() {
    let gate = Arc::new(Notify::new());
    let opened = Arc::clone(&gate);
    let slow = get(move || {
        let gate = Arc::clone(&opened);
        async move { gate.notified().await }
    });
    let device = Device::serving(Application::service(Router::new().route("/", slow)));
    let mut responses = tokio::task::JoinSet::new();
    let mut senders = Vec::new();
    for _ in 0..4 {
        let stream = TokioIo::new(device.call_with_tls("h2").await);
        let (mut sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..100 {
            let request = Request::get(format!("https://{NAME}/")).body(Empty::<Bytes>::new());
            responses.spawn(sender.send_request(request.unwrap()));
        }
        senders.push(sender);
    }
    // 64 requests are with the application, and 200 wait.
    for _ in 0..400 - 64 - 200 {
        let response = responses.join_next().await.unwrap().unwrap().unwrap();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
    }
    let more = timeout(Duration::from_secs(5), responses.join_next()).await;
    assert!(more.is_err(), "the others wait");
    let opening = tokio::spawn(async move {
        loop {
            gate.notify_waiters();
            sleep(Duration::from_millis(1)).await;
        }
    });
    while let Some(response) = responses.join_next().await {
        assert_eq!(response.unwrap().unwrap().status(), 200);
    }
    opening.abort();
    drop(senders);
    device.ended().await;
}

#[tokio::test(start_paused = true)]
async fn too_many_header_fields_are_refused() {
    let device = hello();
    let stream = TokioIo::new(device.call_with_tls("h2").await);
    let (mut sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    for (fields, status) in [(200, 200), (201, 431)] {
        let mut request = Request::get(format!("https://{NAME}/"));
        for _ in 0..fields {
            request = request.header("a", "b");
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), status, "{fields}");
    }
    drop(sender);
    device.ended().await;
}
