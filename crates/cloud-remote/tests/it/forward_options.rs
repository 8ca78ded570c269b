//! The options of the reverse proxy: HTTP/2 and TLS towards the application, a wait for its
//! restart, names in title case; and ALPN for plain TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request as AxumRequest;
use axum::routing::{any, get};
use bytes::Bytes;
use cloud_remote::{
    Application, CertificatePin, ForwardOptions, SentHost, UpstreamProtocol, UpstreamTls,
};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::StreamBody;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::peers::{Caller, RawApplication, ok};
use crate::serving::echo_over_websocket;
use crate::support::{Cloud, Issue, NAME, within};

/// Answers with the version of the request, and with trailers.
fn versions() -> Router {
    let trailers = |request: AxumRequest| async move {
        let te = request.headers().get("te").cloned();
        let frames = [
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"message"))),
            Ok(Frame::trailers(HeaderMap::from_iter([(
                "grpc-status".parse().unwrap(),
                te.unwrap_or(HeaderValue::from_static("none")),
            )]))),
        ];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        Response::builder()
            .header("trailer", "grpc-status")
            .body(Body::new(body))
            .unwrap()
    };
    Router::new()
        .route(
            "/",
            any(|request: AxumRequest| async move {
                let host = request.headers().get("host").cloned();
                let host = request
                    .uri()
                    .authority()
                    .map(ToString::to_string)
                    .or_else(|| host.map(|host| host.to_str().unwrap().to_owned()));
                format!("{:?} for {}", request.version(), host.unwrap())
            }),
        )
        .route("/trailers", any(trailers))
        .route("/upload", any(|body: Bytes| async move { body }))
        .route(
            "/ws",
            get(|upgrade: axum::extract::ws::WebSocketUpgrade| async {
                upgrade.on_upgrade(|mut socket| async move {
                    while let Some(Ok(message)) = socket.recv().await {
                        let _ = socket.send(message).await;
                    }
                })
            }),
        )
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static, http2_only: bool) {
    let builder = auto::Builder::new(TokioExecutor::new());
    let builder = if http2_only {
        builder.http2_only()
    } else {
        builder
    };
    let service = TowerToHyperService::new(versions());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let _ = connection.await;
}

/// Starts an application that speaks HTTP/2 with prior knowledge.
async fn http2_application() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve(stream, true));
        }
    });
    address
}

/// A caller whose upload is malformed or incomplete says nothing about the application.
#[tokio::test]
async fn broken_upload_is_no_failure_of_the_application() {
    let address = http2_application().await;
    for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::Http2] {
        let cloud = Cloud::start().await;
        let http1 = RawApplication::start(|_| ok("")).await;
        let address = match protocol {
            UpstreamProtocol::Http2 => address,
            _ => http1.address,
        };
        let options = ForwardOptions::new().protocol(protocol);
        let remote = cloud
            .device(Application::forward_with(address, options))
            .await;
        let mut caller = cloud.open(&["http/1.1"]).await.unwrap();
        let request = format!(
            "POST /upload HTTP/1.1\r\nHost: {NAME}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"
        );
        caller.write_all(request.as_bytes()).await.unwrap();
        let _ = within(caller.read_to_end(&mut Vec::new())).await;
        let health = remote.upstream_health();
        assert!(health.last_failure.is_none(), "{health:?}");
    }
}

#[tokio::test]
async fn http2_without_tls_is_spoken_with_prior_knowledge() {
    let cloud = Cloud::start().await;
    let address = http2_application().await;
    let options = ForwardOptions::new().protocol(UpstreamProtocol::Http2);
    let _remote = cloud
        .device(Application::forward_with(address, options))
        .await;
    for protocol in ["http/1.1", "h2"] {
        let mut caller = Caller::open(&cloud, protocol).await;
        assert_eq!(caller.get("/").await.body, format!("HTTP/2.0 for {NAME}"));
        let request = Request::post("/").header("x-own", "1");
        let answer = caller.send_body(request, "body").await.unwrap();
        assert_eq!(answer.status, 200);
        // Trailers pass, and the request for them.
        let request = Request::get("/trailers")
            .header("te", "trailers")
            .header("connection", "te");
        let request = if protocol == "h2" {
            Request::get("/trailers").header("te", "trailers")
        } else {
            request
        };
        let answer = caller.send(request).await.unwrap();
        assert_eq!(answer.body, "message");
        let trailers = answer.trailers.unwrap();
        assert_eq!(trailers["grpc-status"], "trailers", "{protocol}");
    }
}

#[tokio::test]
async fn tls_application_chooses_its_version() {
    for (offered, version) in [
        (&[&b"h2"[..], b"http/1.1"][..], "HTTP/2.0"),
        (&[b"http/1.1"], "HTTP/1.1"),
        (&[], "HTTP/1.1"),
    ] {
        let cloud = Cloud::start().await;
        let own = cloud.platform.ca.issue(&Issue::serial(99));
        let chain = CertificateDer::pem_slice_iter(own.chain().as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .unwrap();
        let pin = CertificatePin::of(&chain[0]);
        let key = PrivateKeyDer::from_pem_slice(own.key().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    if let Ok(stream) = acceptor.accept(stream).await {
                        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                        serve(stream, is_http2).await;
                    }
                });
            }
        });
        let verified = UpstreamTls::new(NAME, cloud.roots()).unwrap();
        let options = ForwardOptions::new().protocol(UpstreamProtocol::Tls(verified));
        let remote = cloud
            .device(Application::forward_with(address, options))
            .await;
        let mut caller = Caller::open(&cloud, "h2").await;
        let answer = caller.get("/").await;
        assert_eq!(answer.body, format!("{version} for {NAME}"));
        // An upgrade needs HTTP/1.1 (without ALPN too).
        echo_over_websocket(&cloud).await;

        // Another name is not accepted.
        let other = UpstreamTls::new("other.example.com", cloud.roots()).unwrap();
        let options = ForwardOptions::new().protocol(UpstreamProtocol::Tls(other));
        remote
            .set_application(Application::forward_with(address, options))
            .unwrap();
        let mut caller = Caller::open(&cloud, "h2").await;
        assert_eq!(caller.get("/").await.status, 502);

        // A pin accepts its certificate for any name, and no other.
        let wrong: CertificatePin = "00".repeat(32).parse().unwrap();
        for (pins, status) in [(vec![wrong, pin], 200), (vec![wrong], 502)] {
            let pinned = UpstreamTls::pinned("other.example.com", pins).unwrap();
            let options = ForwardOptions::new().protocol(UpstreamProtocol::Tls(pinned));
            remote
                .set_application(Application::forward_with(address, options))
                .unwrap();
            let mut caller = Caller::open(&cloud, "h2").await;
            assert_eq!(caller.get("/").await.status, status);
        }
    }
}

/// The headers that the application gets, and the redirect that it sends.
#[tokio::test]
async fn host_and_forwarded_headers_are_options() {
    let cloud = Cloud::start().await;
    let application = RawApplication::start(|request| {
        if request.head.contains("GET /redirect") {
            let response = "HTTP/1.1 302 Found\r\nLocation: http://app.local:81/next\r\n\
                            Content-Length: 0\r\n\r\n";
            return Some(response.as_bytes().to_vec());
        }
        ok(&request.head)
    })
    .await;
    let options = ForwardOptions::new()
        .host_header("app.local:81".parse().unwrap())
        .forwarded_headers(false);
    let _remote = cloud
        .device(Application::forward_with(application.address, options))
        .await;
    let mut caller = Caller::open(&cloud, "http/1.1").await;
    let own = Request::get("/").header("x-forwarded-for", "192.0.2.1");
    let seen = caller.send(own).await.unwrap().body.to_lowercase();
    assert!(seen.contains("host: app.local:81"), "{seen}");
    assert!(
        !seen.contains("forwarded") && !seen.contains(NAME),
        "{seen}"
    );
    let redirect = caller.get("/redirect").await;
    let location = redirect.headers["location"].to_str().unwrap().to_owned();
    assert_eq!(location, format!("https://{NAME}/next"));
    for bad in ["", "a b", "http://a", "a:b"] {
        assert!(bad.parse::<SentHost>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn restarting_application_is_waited_for() {
    let cloud = Cloud::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let options = ForwardOptions::new().restart_wait(Duration::from_secs(60));
    let remote = cloud
        .device(Application::forward_with(address, options))
        .await;
    for method in ["GET", "POST"] {
        let mut caller = Caller::open(&cloud, "h2").await;
        let sent = tokio::spawn(async move {
            let request = Request::builder().method(method).uri("/");
            caller.send_body(request, "body").await.unwrap()
        });
        // It waits, and is served as soon as the application is back.
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!sent.is_finished());
        let listener = TcpListener::bind(address).await.unwrap();
        let (mut stream, _) = within(listener.accept()).await.unwrap();
        drop(listener);
        let mut seen = Vec::new();
        while !seen.ends_with(b"body") {
            seen.push(within(stream.read_u8()).await.unwrap());
        }
        let response = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        stream.write_all(response).await.unwrap();
        assert_eq!(within(sent).await.unwrap().status, 200);
    }

    // Callers do not wait for one that stays away.
    let options = ForwardOptions::new().restart_wait(Duration::ZERO);
    remote
        .set_application(Application::forward_with(address, options))
        .unwrap();
    let mut caller = Caller::open(&cloud, "h2").await;
    assert_eq!(caller.get("/").await.status, 502);
}

#[tokio::test]
async fn names_are_in_title_case_by_option() {
    for enabled in [false, true] {
        let cloud = Cloud::start().await;
        let application = RawApplication::start(|request| ok(&request.head)).await;
        let options = ForwardOptions::new().title_case_headers(enabled);
        let _remote = cloud
            .device(Application::forward_with(application.address, options))
            .await;
        let mut caller = Caller::open(&cloud, "h2").await;
        let request = Request::post("/").header("x-own-field", "1");
        let seen = caller.send_body(request, "body").await.unwrap().body;
        for name in ["Content-Length: 4", "X-Own-Field: 1", "X-Forwarded-For: "] {
            assert_eq!(seen.contains(name), enabled, "{seen}");
            assert_eq!(seen.contains(&name.to_lowercase()), !enabled, "{seen}");
        }
    }
}

#[tokio::test]
async fn plain_tcp_offers_the_given_alpn() {
    let cloud = Cloud::start().await;
    let address = http2_application().await;
    let application = Application::forward_tcp(address, None).alpn(["h2".to_owned()]);
    let _remote = cloud.device(application).await;
    let stream = cloud.open(&["h2", "http/1.1"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut caller = Caller::open(&cloud, "h2").await;
    assert_eq!(caller.get("/").await.body, format!("HTTP/2.0 for {NAME}"));
}
