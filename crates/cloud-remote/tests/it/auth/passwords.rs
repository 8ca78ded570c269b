//! Passwords: what a wrong one gets, and what the right one opens.

use std::sync::Arc;

use bytes::Bytes;
use cloud_remote::auth::AuthRules;
use cloud_remote::{Application, PathPrefix, UpstreamProtocol};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use snitun::{Cipher, ProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::{Device, PROTOCOLS, RIGHT, application, basic, lines_of, passwords, users};
use crate::support::{Cloud, NAME, within};

#[tokio::test]
async fn only_right_password_reaches_any_application() {
    for device in [
        Device::serving(passwords("/")).await,
        Device::forwarding(passwords("/"), UpstreamProtocol::Http1).await,
        Device::forwarding(passwords("/"), UpstreamProtocol::Http2).await,
    ] {
        for protocol in PROTOCOLS {
            for wrong in [
                None,
                Some("alice:wrong"),
                Some("bob:secret"),
                Some("alice:"),
            ] {
                let wrong = wrong.map(basic);
                let answer = device.get(protocol, "/", wrong.as_deref()).await;
                assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
                assert_eq!(
                    answer.headers()["www-authenticate"],
                    "Basic realm=\"device\", charset=\"UTF-8\""
                );
                assert_eq!(answer.headers()["cache-control"], "no-store");
            }
            assert_eq!(device.reached(), 0);
        }
        for (protocol, reached) in PROTOCOLS.into_iter().zip(1..) {
            let answer = device.get(protocol, "/", Some(&basic(RIGHT))).await;
            assert_eq!(answer.status(), StatusCode::OK);
            assert_eq!(device.reached(), reached);
            // The application gets the name, not the password.
            assert_eq!(lines_of(&answer, "remote-user"), ["alice"]);
            assert_eq!(lines_of(&answer, "authorization"), [""; 0]);
        }
    }
}

#[tokio::test]
async fn authorization_is_passed_on_if_wanted_and_where_nothing_is_asked() {
    let device = Device::serving(passwords("/admin").pass_authorization(true)).await;
    let right = basic(RIGHT);
    let answer = device.get("h2", "/admin", Some(&right)).await;
    assert_eq!(lines_of(&answer, "authorization"), [&right]);
    device.remote.set_auth(passwords("/admin"));
    let answer = device.get("h2", "/", Some("Bearer token")).await;
    assert_eq!(lines_of(&answer, "authorization"), ["Bearer token"]);
    let answer = device.get("h2", "/admin", Some("Bearer token")).await;
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(
        answer.headers()["www-authenticate"],
        "Basic realm=\"device /admin\", charset=\"UTF-8\""
    );
}

#[tokio::test]
async fn refused_request_makes_no_connection_and_its_body_is_not_asked_for() {
    let cloud = Cloud::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let application = Application::forward(listener.local_addr().unwrap());
    let device = Device::start_with(cloud, application, passwords("/"), Arc::default()).await;
    let mut stream = device.cloud.open(&["http/1.1"]).await.unwrap();
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {NAME}\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    // The body is missing, so the connection cannot be used again.
    let _ = within(stream.read_to_end(&mut seen)).await;
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{seen}");
    let connection = tokio::time::timeout(std::time::Duration::ZERO, listener.accept()).await;
    assert!(connection.is_err(), "a connection to the application");
}

#[tokio::test]
async fn browser_gets_a_page_and_program_json() {
    let device = Device::serving(passwords("/")).await;
    let mut caller = device.open("h2", None).await.unwrap();
    for (accept, start, contains) in [
        (
            "text/html",
            "<!doctype html>",
            "asks for a user name and a password",
        ),
        ("application/json", "{", "\"status\":401"),
        ("text/event-stream", "401 Unauthorized", "password"),
    ] {
        let request = Request::get(format!("https://{NAME}/")).header("accept", accept);
        let answer = caller.send(request).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        let body = answer.body();
        assert!(body.starts_with(start) && body.contains(contains), "{body}");
    }
    // A preflight has no credentials, and would reach the application.
    let request = Request::options(format!("https://{NAME}/"))
        .header("origin", "https://other.example.com")
        .header("access-control-request-method", "GET");
    let answer = caller.send(request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(device.reached(), 0);
}

#[tokio::test]
async fn websocket_needs_password_over_both_versions() {
    for device in [
        Device::serving(passwords("/ws")).await,
        Device::forwarding(passwords("/ws"), UpstreamProtocol::Http1).await,
    ] {
        for (authorization, status) in [(None, 401), (Some("alice:wrong"), 401), (Some(RIGHT), 101)]
        {
            let mut stream = device.cloud.open(&["http/1.1"]).await.unwrap();
            let authorization = authorization
                .map(|credentials| format!("Authorization: {}\r\n", basic(credentials)))
                .unwrap_or_default();
            // A message follows at once, as from a client that expects to be let in.
            let request = format!(
                "GET /ws HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 {authorization}\r\n\u{1}"
            );
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut seen = vec![0; 12];
            within(stream.read_exact(&mut seen)).await.unwrap();
            assert_eq!(seen, format!("HTTP/1.1 {status}").as_bytes());
        }
        assert_eq!(device.reached(), 1);
    }
    // As a stream of an HTTP/2 connection (RFC 8441).
    let device = Device::serving(passwords("/ws")).await;
    let stream = TokioIo::new(device.cloud.open(&["h2"]).await.unwrap());
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), stream);
    let (mut sender, connection) = within(handshake).await.unwrap();
    tokio::spawn(connection);
    let request = |method, path, authorization: Option<&str>| {
        let mut request = Request::builder().method(method);
        if method == "CONNECT" {
            let protocol = hyper::ext::Protocol::from_static("websocket");
            request = request
                .extension(protocol)
                .header("sec-websocket-version", "13");
        }
        if let Some(credentials) = authorization {
            request = request.header("authorization", basic(credentials));
        }
        let request = request.uri(format!("https://{NAME}{path}"));
        request.body(Empty::<Bytes>::new()).unwrap()
    };
    // The first response shows that the device's settings have arrived.
    within(sender.send_request(request("GET", "/", None)))
        .await
        .unwrap();
    for (authorization, status) in [(None, 401), (Some("alice:wrong"), 401), (Some(RIGHT), 200)] {
        let request = request("CONNECT", "/ws", authorization);
        let response = within(sender.send_request(request)).await.unwrap();
        assert_eq!(response.status(), status);
    }
    assert_eq!(device.reached(), 2);
}

#[tokio::test]
async fn new_rules_hold_for_the_next_request_of_an_open_connection() {
    let device = Device::serving(AuthRules::new()).await;
    for protocol in PROTOCOLS {
        device.remote.set_auth(AuthRules::new());
        let mut caller = device.open(protocol, None).await.unwrap();
        assert_eq!(caller.get("/", None).await.unwrap().status(), 200);
        device.remote.set_auth(passwords("/"));
        assert_eq!(caller.get("/", None).await.unwrap().status(), 401);
        let right = basic(RIGHT);
        assert_eq!(caller.get("/", Some(&right)).await.unwrap().status(), 200);
        // The password is changed.
        let changed = AuthRules::new().passwords(PathPrefix::root(), users("alice", "other"));
        device.remote.set_auth(changed);
        assert_eq!(caller.get("/", Some(&right)).await.unwrap().status(), 401);
        let other = basic("alice:other");
        assert_eq!(caller.get("/", Some(&other)).await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn too_many_wrong_passwords_are_refused_for_their_caller_alone() {
    let device = Device::serving(passwords("/")).await;
    let right = basic(RIGHT);
    let mut earlier = device.open("h2", None).await.unwrap();
    assert_eq!(earlier.get("/", Some(&right)).await.unwrap().status(), 200);
    let mut refused = None;
    for number in 0..20 {
        let answer = device
            .get("h2", "/", Some(&basic(&format!("alice:{number}"))))
            .await;
        if answer.status() != 401 {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let wait: u64 = refused.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=10).contains(&wait), "{wait}");
    // A right password says no more than a wrong one.
    let answer = device.get("h2", "/", Some(&right)).await;
    assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
    // A session that was open before goes on.
    assert_eq!(earlier.get("/", Some(&right)).await.unwrap().status(), 200);
}

/// Before version 2 of the tunnel's protocol a caller over IPv6 has an unknown address.
#[tokio::test]
async fn right_password_of_unknown_caller_is_not_locked_out() {
    let cloud = Cloud::over_ipv6(ProtocolVersion::V0, Cipher::AesCbc).await;
    let (router, reached) = application();
    let application = Application::service(router);
    let device = Device::start_with(cloud, application, passwords("/"), reached).await;
    for number in 0..25 {
        let answer = device
            .get("h2", "/", Some(&basic(&format!("alice:{number}"))))
            .await;
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{number}");
    }
    let answer = device.get("h2", "/", Some(&basic(RIGHT))).await;
    assert_eq!(answer.status(), StatusCode::OK);
}
