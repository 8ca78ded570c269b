//! Applications at a local address: reverse proxy, plain TCP, TLS passthrough.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::routing::{any, get, post};
use cloud_remote::{Application, CertificatePem, ProxyProtocol, Upstream};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::serving::echo_over_websocket;
use crate::support::{Cloud, Issue, NAME, eventually, serial_of_pem, shown_serial, within};

/// A local web server, stopped on drop.
struct Local {
    address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Local {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn local_web() -> Local {
    let router = Router::new()
        .route(
            "/headers",
            get(|headers: HeaderMap| async move {
                let lines = headers
                    .iter()
                    .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
                lines.collect::<String>()
            }),
        )
        .route(
            "/echo",
            post(|body: Bytes| async move { body })
                .layer(axum::extract::DefaultBodyLimit::disable()),
        )
        .route(
            "/query",
            get(|uri: axum::http::Uri| async move { uri.to_string() }),
        )
        .route(
            "/hops",
            get(|| async { ([("keep-alive", "timeout=5"), ("x-kept", "1")], "hops") }),
        )
        .route(
            "/endless",
            get(|| async {
                Body::from_stream(futures_util::stream::repeat_with(|| {
                    Ok::<_, std::io::Error>(Bytes::from(vec![7; 9_000]))
                }))
            }),
        )
        .route(
            "/ws",
            any(|upgrade: axum::extract::ws::WebSocketUpgrade| async {
                upgrade.on_upgrade(|mut socket| async move {
                    while let Some(Ok(message)) = socket.recv().await {
                        let _ = socket.send(message).await;
                    }
                })
            }),
        );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    Local { address, serving }
}

/// Returns an address without a listener.
async fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test]
async fn upstream_gets_true_client_address() {
    let cloud = Cloud::start().await;
    let local = local_web().await;
    let _remote = cloud.device(Application::forward(local.address)).await;
    for protocol in ["http/1.1", "h2"] {
        let request = cloud
            .browser(&[protocol])
            .get(cloud.url("/headers"))
            .header("X-Forwarded-For", "6.6.6.6")
            .header("X-Forwarded-Proto", "gopher")
            .header("X-Forwarded-Host", "evil.example.com")
            .header("X-Real-IP", "6.6.6.6")
            .header("X_Forwarded_For", "6.6.6.6")
            .header("X-Forwarded-Scheme", "gopher")
            .header("Forwarded", "for=6.6.6.6")
            .header("Proxy-Authorization", "secret")
            .header("X-Own", "kept");
        let seen = request.send().await.unwrap().text().await.unwrap();
        let host = format!("{NAME}:{}", cloud.address.port());
        for line in [
            "x-forwarded-for: 127.0.0.1".to_owned(),
            "x-forwarded-proto: https".to_owned(),
            format!("x-forwarded-host: {host}"),
            format!("host: {host}"),
            format!("forwarded: for=127.0.0.1;host=\"{host}\";proto=https"),
            "x-own: kept".to_owned(),
        ] {
            assert_eq!(
                seen.lines().filter(|seen| **seen == line).count(),
                1,
                "{protocol}: {line} in\n{seen}"
            );
        }
        for word in [
            "6.6.6.6",
            "evil",
            "gopher",
            "secret",
            "x-real-ip",
            "connection",
        ] {
            assert!(!seen.contains(word), "{protocol}: {word} in\n{seen}");
        }
    }
}

#[tokio::test]
async fn upstream_is_resolved_by_name() {
    let cloud = Cloud::start().await;
    let local = local_web().await;
    let upstream = Upstream::host("localhost", local.address.port());
    let _remote = cloud.device(Application::forward(upstream)).await;
    let response = cloud.browser(&["h2"]).get(cloud.url("/query")).send().await;
    assert_eq!(response.unwrap().text().await.unwrap(), "/query");

    let upstream = Upstream::host("no-such-host.invalid", 1);
    let cloud = Cloud::start().await;
    let _remote = cloud.device(Application::forward(upstream)).await;
    let response = cloud.browser(&["h2"]).get(cloud.url("/")).send().await;
    assert_eq!(response.unwrap().status(), 502);
}

#[tokio::test]
async fn forwards_bodies_paths_and_responses() {
    let cloud = Cloud::start().await;
    let local = local_web().await;
    let _remote = cloud.device(Application::forward(local.address)).await;
    let body: Vec<u8> = (0..3_000_000_u32)
        .map(|n| u8::try_from(n % 241).unwrap())
        .collect();
    for protocol in ["http/1.1", "h2"] {
        let browser = cloud.browser(&[protocol]);
        let echo = browser
            .post(cloud.url("/echo"))
            .body(body.clone())
            .send()
            .await
            .unwrap();
        assert!(echo.bytes().await.unwrap() == body);
        let query = browser
            .get(cloud.url("/query?a=1&b=%2F"))
            .send()
            .await
            .unwrap();
        assert_eq!(query.text().await.unwrap(), "/query?a=1&b=%2F");
        assert_eq!(
            browser
                .get(cloud.url("/nowhere"))
                .send()
                .await
                .unwrap()
                .status(),
            404
        );
        let hops = browser.get(cloud.url("/hops")).send().await.unwrap();
        assert_eq!(hops.headers().get("keep-alive"), None);
        assert_eq!(hops.headers()["x-kept"], "1");
    }
}

#[tokio::test]
async fn forwards_websockets() {
    let cloud = Cloud::start().await;
    let local = local_web().await;
    let remote = cloud.device(Application::forward(local.address)).await;
    echo_over_websocket(&cloud).await;
    eventually(|| remote.open_connections() == 0).await;
}

/// After an upgrade to HTTP/2, the caller could send requests that bypass the checks.
#[tokio::test]
async fn non_websocket_upgrade_is_ordinary_request() {
    let cloud = Cloud::start().await;
    let local = local_web().await;
    let _remote = cloud.device(Application::forward(local.address)).await;
    let request = cloud
        .browser(&["http/1.1"])
        .get(cloud.url("/headers"))
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAAQAAP__");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let seen = response.text().await.unwrap();
    for word in ["h2c", "upgrade", "http2-settings", "connection"] {
        assert!(!seen.contains(word), "{word} in\n{seen}");
    }
}

#[tokio::test]
async fn upstream_down_returns_502_until_back() {
    let cloud = Cloud::start().await;
    let address = closed_port().await;
    let _remote = cloud.device(Application::forward(address)).await;
    let browser = cloud.browser(&["h2"]);
    let response = browser.get(cloud.url("/")).send().await.unwrap();
    assert_eq!(response.status(), 502);
    assert!(response.text().await.unwrap().contains("not running"));
    let listener = TcpListener::bind(address).await.unwrap();
    let serving = tokio::spawn(async move {
        let router = Router::new().route("/", get(|| async { "back" }));
        axum::serve(listener, router).await.unwrap();
    });
    let response = browser.get(cloud.url("/")).send().await.unwrap();
    assert_eq!(response.text().await.unwrap(), "back");
    serving.abort();
}

#[tokio::test]
async fn caller_disconnect_frees_upstream_connection() {
    let cloud = Cloud::start().await;
    let local = local_web().await;
    let remote = cloud.device(Application::forward(local.address)).await;
    let mut stream = cloud.open(&["http/1.1"]).await.unwrap();
    stream
        .write_all(format!("GET /endless HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    within(stream.read_exact(&mut [0; 50_000])).await.unwrap();
    drop(stream);
    eventually(|| remote.open_connections() == 0).await;
}

/// The reverse proxy and plain TCP, over a Unix socket.
#[cfg(unix)]
#[tokio::test]
async fn forwards_to_unix_socket() {
    use tokio::net::UnixListener;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ui.sock");
    let cloud = Cloud::start().await;
    let remote = cloud
        .device(Application::forward(Upstream::unix(&path)))
        .await;
    let browser = cloud.browser(&["h2"]);
    let response = browser.get(cloud.url("/host")).send().await.unwrap();
    assert_eq!(response.status(), 502);

    let listener = UnixListener::bind(&path).unwrap();
    let router = Router::new().route(
        "/host",
        get(|headers: HeaderMap| async move { headers["host"].to_str().unwrap().to_owned() }),
    );
    let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    let response = browser.get(cloud.url("/host")).send().await.unwrap();
    let host = response.text().await.unwrap();
    assert!(host.starts_with(NAME), "{host}");
    remote
        .stop(std::time::Duration::from_secs(10))
        .await
        .unwrap();
    serving.abort();

    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    let _remote = cloud
        .device(Application::forward_tcp(Upstream::unix(&path), None))
        .await;
    let mut stream = cloud.open(&[]).await.unwrap();
    stream.write_all(b"question").await.unwrap();
    let (mut application, _) = within(listener.accept()).await.unwrap();
    let mut seen = [0; 8];
    within(application.read_exact(&mut seen)).await.unwrap();
    assert_eq!(&seen, b"question");
}

/// Accepts one connection, reads `length` bytes from it, responds, and returns the read bytes.
async fn take_one(listener: TcpListener, length: usize) -> Vec<u8> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut seen = vec![0; length];
    stream.read_exact(&mut seen).await.unwrap();
    stream.write_all(b"answer").await.unwrap();
    seen
}

#[tokio::test]
async fn forwards_tcp_with_proxy_protocol() {
    for version in [None, Some(ProxyProtocol::V1), Some(ProxyProtocol::V2)] {
        let cloud = Cloud::start().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let _remote = cloud
            .device(Application::forward_tcp(address, version))
            .await;
        let mut expected = match version {
            Some(version) => version.header(Some([127, 0, 0, 1].into())),
            None => Vec::new(),
        };
        expected.extend(b"question");
        let application = tokio::spawn(take_one(listener, expected.len()));
        let mut stream = cloud.open(&["h2", "http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), None);
        stream.write_all(b"question").await.unwrap();
        let mut response = String::new();
        within(stream.read_to_string(&mut response)).await.unwrap();
        assert_eq!(response, "answer");
        assert_eq!(within(application).await.unwrap(), expected);
    }
}

#[tokio::test]
async fn passes_tls_through() {
    let cloud = Cloud::start().await;
    let own: CertificatePem = cloud.platform.ca.issue(&Issue::serial(99));
    let chain = CertificateDer::pem_slice_iter(own.chain().as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(own.key().as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(
        rustls::crypto::ring::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(chain, key)
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let application = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(config))
            .accept(stream)
            .await
            .unwrap();
        let mut seen = [0; 8];
        stream.read_exact(&mut seen).await.unwrap();
        stream.write_all(&seen).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    let _remote = cloud.device(Application::passthrough(address)).await;
    let mut stream = cloud.open(&[]).await.unwrap();
    assert_eq!(shown_serial(&stream), serial_of_pem(&own));
    stream.write_all(b"question").await.unwrap();
    let mut response = String::new();
    within(stream.read_to_string(&mut response)).await.unwrap();
    assert_eq!(response, "question");
    within(application).await.unwrap();
}

#[tokio::test]
async fn unreachable_tcp_upstream_closes_connection() {
    let cloud = Cloud::start().await;
    let remote = cloud
        .device(Application::forward_tcp(closed_port().await, None))
        .await;
    let mut stream = cloud.open(&[]).await.unwrap();
    let mut response = Vec::new();
    let _ = within(stream.read_to_end(&mut response)).await;
    assert_eq!(response, b"");
    eventually(|| remote.open_connections() == 0).await;
}
