//! A web application in process, with public clients.

use axum::Extension;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::routing::{any, get, post};
use cloud_remote::{AccessRules, Application, ClientAddr, HttpOptions, Limits};
use futures_util::{SinkExt, StreamExt};
use snitun::{Cipher, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite;

use crate::support::{Cloud, NAME, connected, eventually, within};

/// More than any window on the path.
const LARGE: usize = 4 * 1024 * 1024;

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|n| u8::try_from(n % 251).unwrap())
        .collect()
}

pub(crate) fn web() -> Application {
    let router = Router::new()
        .route("/", get(|| async { "hello" }))
        .route(
            "/who",
            get(
                |Extension(ClientAddr(address)): Extension<ClientAddr>| async move {
                    format!("{address:?}")
                },
            ),
        )
        .route("/large", get(|| async { pattern(LARGE) }))
        .route(
            "/echo",
            post(|body: Bytes| async move { body })
                .layer(axum::extract::DefaultBodyLimit::disable()),
        )
        .route("/endless", get(|| async { Body::from_stream(endless()) }))
        .route(
            "/ws",
            any(|upgrade: WebSocketUpgrade| async {
                upgrade.on_upgrade(|mut socket| async move {
                    while let Some(Ok(message)) = socket.recv().await {
                        if matches!(message, Message::Text(_) | Message::Binary(_)) {
                            let _ = socket.send(message).await;
                        }
                    }
                })
            }),
        );
    Application::service(router)
}

fn endless() -> impl futures_util::Stream<Item = Result<Bytes, std::io::Error>> {
    futures_util::stream::repeat_with(|| Ok(Bytes::from(vec![7; 16 * 1024])))
}

pub(crate) async fn echo_over_websocket(cloud: &Cloud) {
    let mut socket = cloud.websocket().await;
    for size in [1, 1_000, 300_000] {
        let message = tungstenite::Message::binary(pattern(size));
        within(socket.send(message.clone())).await.unwrap();
        assert_eq!(within(socket.next()).await.unwrap().unwrap(), message);
    }
    within(socket.close(None)).await.unwrap();
}

async fn pages_over(cloud: &Cloud, protocols: &[&str], version: http::Version) {
    let browser = cloud.browser(protocols);
    let response = browser.get(cloud.url("/")).send().await.unwrap();
    assert_eq!(response.version(), version);
    assert_eq!(response.text().await.unwrap(), "hello");
    let who = browser
        .get(cloud.url("/who"))
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert_eq!(who, "Some(127.0.0.1)");
    let large = browser
        .get(cloud.url("/large"))
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert!(large == pattern(LARGE), "a download was corrupted");
    let echo = browser
        .post(cloud.url("/echo"))
        .body(pattern(LARGE))
        .send()
        .await
        .unwrap();
    assert!(
        echo.bytes().await.unwrap() == pattern(LARGE),
        "an upload was corrupted"
    );
}

#[tokio::test]
async fn serves_http1_and_http2_with_client_address() {
    let cloud = Cloud::start().await;
    let _remote = cloud.device(web()).await;
    pages_over(&cloud, &["http/1.1"], http::Version::HTTP_11).await;
    pages_over(&cloud, &["h2", "http/1.1"], http::Version::HTTP_2).await;
    pages_over(&cloud, &[], http::Version::HTTP_11).await;
}

#[tokio::test]
async fn platform_selects_protocol_version_and_cipher() {
    for (version, cipher) in [
        (ProtocolVersion::V1, Cipher::AesGcm),
        (ProtocolVersion::V2, Cipher::AesGcmSiv),
    ] {
        let cloud = Cloud::speaking(version, cipher).await;
        let _remote = cloud.device(web()).await;
        pages_over(&cloud, &["h2"], http::Version::HTTP_2).await;
    }
}

#[tokio::test]
async fn serves_websockets() {
    let cloud = Cloud::start().await;
    let _remote = cloud.device(web()).await;
    echo_over_websocket(&cloud).await;
}

#[tokio::test]
async fn serves_many_connections_at_once() {
    let cloud = Cloud::start().await;
    let _remote = cloud.device(web()).await;
    let browser = cloud.browser(&["http/1.1"]);
    let pages = (0..50).map(|_| async {
        browser
            .get(cloud.url("/"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    });
    let pages = within(futures_util::future::join_all(pages)).await;
    assert!(pages.iter().all(|page| page == "hello"));
}

#[tokio::test]
async fn serves_tls_1_2_and_resumed_sessions() {
    let cloud = Cloud::start().await;
    let _remote = cloud.device(web()).await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(cloud.roots())
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::in_memory_sessions(8);
        for round in 0..2 {
            let mut stream = cloud.open_with(config.clone()).await.unwrap();
            let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            within(stream.read_to_string(&mut response)).await.unwrap();
            assert!(response.starts_with("HTTP/1.1 200"), "{response}");
            let connection = stream.get_ref().1;
            assert_eq!(connection.protocol_version(), Some(version.version));
            let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            assert_eq!(resumed, round == 1, "{version:?}, round {round}");
        }
    }
}

#[tokio::test]
async fn caller_disconnect_mid_response_is_harmless() {
    let cloud = Cloud::start().await;
    let remote = cloud.device(web()).await;
    let mut events = remote.events();
    let mut others = Vec::new();
    for _ in 0..10 {
        let mut stream = cloud.open(&["http/1.1"]).await.unwrap();
        let request = format!("GET /endless HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut some = vec![0; 100_000];
        within(stream.read_exact(&mut some)).await.unwrap();
        others.push(stream);
    }
    // Without closing the connection, and with its buffers full.
    for stream in others.drain(..) {
        let (tcp, _) = stream.into_inner();
        tcp.set_zero_linger().unwrap();
    }
    eventually(|| remote.open_connections() == 0).await;
    assert_eq!(cloud.page("h2").await, "hello");
    assert!(events.try_recv().is_err(), "the tunnel noticed");
}

#[tokio::test]
async fn failed_tls_handshake_ends_connection() {
    let cloud = Cloud::start().await;
    let remote = cloud.device(web()).await;
    let mut plain = TcpStream::connect(cloud.address).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut response = Vec::new();
    // Closed or reset: both are correct.
    let _ = within(plain.read_to_end(&mut response)).await;
    assert_eq!(response, b"");

    // The device participates in this handshake, and the client then aborts it: the client offers
    // no common parameters.
    let error = cloud.open(&["gopher"]).await.unwrap_err();
    assert!(
        error.to_string().contains("NoApplicationProtocol"),
        "{error}"
    );
    eventually(|| remote.open_connections() == 0).await;
    connected(&remote).await;
}

#[tokio::test]
async fn silent_caller_is_dropped_at_header_timeout() {
    let cloud = Cloud::start().await;
    let mut limits = Limits::default();
    limits.request_header = std::time::Duration::from_millis(100);
    let remote = cloud
        .device_from(cloud.builder().application(web()).limits(limits))
        .await;
    remote.set_messaging_online(true);
    connected(&remote).await;
    let mut stream = cloud.open(&["http/1.1"]).await.unwrap();
    stream.write_all(b"GET / HT").await.unwrap();
    let mut response = Vec::new();
    let _ = within(stream.read_to_end(&mut response)).await;
    eventually(|| remote.open_connections() == 0).await;
}

#[tokio::test]
async fn stalled_handshake_is_dropped_at_timeout() {
    let cloud = Cloud::start().await;
    let mut limits = Limits::default();
    limits.tls_handshake = std::time::Duration::from_millis(100);
    let remote = cloud
        .device_from(cloud.builder().application(web()).limits(limits))
        .await;
    remote.set_messaging_online(true);
    connected(&remote).await;
    let config = std::sync::Arc::new(cloud.client_config(&[]));
    let mut client = rustls::ClientConnection::new(config, NAME.try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    let mut stream = TcpStream::connect(cloud.address).await.unwrap();
    stream.write_all(&hello).await.unwrap();
    let mut flight = Vec::new();
    within(stream.read_to_end(&mut flight)).await.unwrap();
    assert!(!flight.is_empty(), "the device had started to respond");
    eventually(|| remote.open_connections() == 0).await;
}

#[tokio::test]
async fn connections_from_one_address_are_limited() {
    let cloud = Cloud::start().await;
    let mut limits = Limits::default();
    limits.connections_per_address = 2;
    let remote = cloud
        .device_from(cloud.builder().application(web()).limits(limits))
        .await;
    remote.set_messaging_online(true);
    connected(&remote).await;
    let first = cloud.open(&["http/1.1"]).await.unwrap();
    let _second = cloud.open(&["http/1.1"]).await.unwrap();
    cloud.open(&["http/1.1"]).await.unwrap_err();
    drop(first);
    eventually(|| remote.open_connections() == 1).await;
    cloud.open(&["http/1.1"]).await.unwrap();
}

#[tokio::test]
async fn changed_access_rules_keep_open_connections() {
    let cloud = Cloud::start().await;
    let remote = cloud.device(web()).await;
    let mut open = cloud.open(&["http/1.1"]).await.unwrap();
    remote.set_access(AccessRules::new([], ["127.0.0.0/8".parse().unwrap()]));
    cloud.open(&["http/1.1"]).await.unwrap_err();
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    open.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    within(open.read_to_string(&mut response)).await.unwrap();
    assert!(response.ends_with("hello"), "{response}");
    remote.set_access(AccessRules::new(["127.0.0.1/32".parse().unwrap()], []));
    cloud.open(&["http/1.1"]).await.unwrap();
}

/// Returns the status line of a response over this connection.
async fn status_of(stream: &mut (impl AsyncReadExt + AsyncWriteExt + Unpin), host: &str) -> String {
    let request = format!("HEAD / HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.push(within(stream.read_u8()).await.unwrap());
    }
    String::from_utf8_lossy(&response)
        .lines()
        .next()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn changed_limits_and_hosts_keep_open_connections() {
    let cloud = Cloud::start().await;
    let remote = cloud.device(web()).await;
    let mut limits = Limits::default();
    limits.connections_per_address = 1;
    remote.set_limits(limits);
    let mut first = cloud.open(&["http/1.1"]).await.unwrap();
    assert!(status_of(&mut first, NAME).await.contains("200"));
    cloud.open(&["http/1.1"]).await.unwrap_err();
    limits.connections_per_address = 2;
    remote.set_limits(limits);
    let mut second = cloud.open(&["http/1.1"]).await.unwrap();
    limits.connections_per_address = 1;
    remote.set_limits(limits);
    assert!(status_of(&mut first, NAME).await.contains("200"));
    assert!(status_of(&mut second, NAME).await.contains("200"));

    assert!(status_of(&mut first, "b.example").await.contains("421"));
    remote.set_http(HttpOptions::new().allow_host("b.example".parse().unwrap()));
    assert!(status_of(&mut first, "b.example").await.contains("200"));
    remote.set_http(HttpOptions::new());
    assert!(status_of(&mut first, "b.example").await.contains("421"));
}

#[tokio::test]
async fn failed_application_returns_500() {
    let cloud = Cloud::start().await;
    let failing = tower::service_fn(|_: http::Request<cloud_remote::RequestBody>| async {
        Err::<http::Response<Body>, _>(std::io::Error::other("out of order"))
    });
    let _remote = cloud.device(Application::service(failing)).await;
    let response = cloud
        .browser(&["h2"])
        .get(cloud.url("/"))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 500);
    assert!(
        !response.text().await.unwrap().contains("out of order"),
        "callers get no details"
    );
}
