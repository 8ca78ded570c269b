//! An application's answers as they come, and the requests that it gets.

use std::time::Duration;

use cloud_remote::{Application, Limits, RemoteAccess};
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::peers::{Caller, RawApplication, Received, ok};
use crate::support::{Cloud, NAME, within};

async fn forwarding<A>(answer: A) -> (Cloud, RawApplication, RemoteAccess)
where
    A: Fn(&Received) -> Option<Vec<u8>> + Send + Sync + 'static,
{
    let cloud = Cloud::start().await;
    let application = RawApplication::start(answer).await;
    let remote = cloud
        .device(Application::forward(application.address))
        .await;
    (cloud, application, remote)
}

/// Sends bytes over HTTP/1.1, and returns what comes back until the connection's end.
async fn raw(cloud: &Cloud, request: &str) -> String {
    let mut stream = cloud.open(&["http/1.1"]).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    let _ = within(stream.read_to_end(&mut seen)).await;
    String::from_utf8(seen).unwrap()
}

/// Answers with the request's body.
fn echo(request: &Received) -> Option<Vec<u8>> {
    ok(&String::from_utf8_lossy(&request.body))
}

#[tokio::test]
async fn idempotent_request_is_sent_again_when_the_kept_connection_closes() {
    let (cloud, application, _remote) = forwarding(|request| match request.number {
        0 => ok("ok"),
        _ => None,
    })
    .await;
    for protocol in ["http/1.1", "h2"] {
        let mut caller = Caller::open(&cloud, protocol).await;
        for method in ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"] {
            assert_eq!(caller.get("/").await.body, "ok");
            let request = Request::builder().method(method).uri("/");
            let answer = caller.send(request).await.unwrap();
            assert_eq!(answer.status, 200, "{protocol} {method}");
        }
        // A request that the application may have processed is not.
        for (method, body) in [
            ("POST", ""),
            ("POST", "body"),
            ("PUT", "body"),
            ("PATCH", ""),
        ] {
            assert_eq!(caller.get("/").await.body, "ok");
            let before = application.requests();
            let request = Request::builder().method(method).uri("/");
            let answer = caller.send_body(request, body).await.unwrap();
            assert_eq!(answer.status, 502, "{protocol} {method} {body}");
            assert_eq!(application.requests(), before + 1);
        }
    }
}

#[tokio::test]
async fn request_is_sent_twice_at_most() {
    let (cloud, application, _remote) = forwarding(|_| None).await;
    let mut caller = Caller::open(&cloud, "h2").await;
    assert_eq!(caller.get("/").await.status, 502);
    assert!(application.requests() <= 2, "{}", application.requests());
}

#[tokio::test]
async fn websocket_handshake_is_sent_again_when_the_kept_connection_closes() {
    let (cloud, _application, _remote) = forwarding(|request| match request.number {
        0 if request.header("upgrade").is_some() => Some(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello"
                .to_vec(),
        ),
        0 => ok("ok"),
        _ => None,
    })
    .await;
    let mut caller = Caller::open(&cloud, "http/1.1").await;
    assert_eq!(caller.get("/").await.body, "ok");
    let mut stream = cloud.open(&["http/1.1"]).await.unwrap();
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut seen = String::new();
    while !seen.ends_with("hello") {
        seen.push(char::from(within(stream.read_u8()).await.unwrap()));
    }
    assert!(seen.starts_with("HTTP/1.1 101"), "{seen}");
}

#[tokio::test]
async fn equal_lengths_become_one() {
    for fields in [
        "Content-Length: 2\r\nContent-Length: 2",
        "Content-Length: 2, 2",
        "Content-Length: 2\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: identity\r\nContent-Length: 2\r\nContent-Length: 2",
    ] {
        let (cloud, _application, _remote) = forwarding(move |request| {
            let body = if request.head.starts_with("HEAD") {
                ""
            } else {
                "ok"
            };
            Some(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{body}").into())
        })
        .await;
        for protocol in ["http/1.1", "h2"] {
            let mut caller = Caller::open(&cloud, protocol).await;
            for (method, body) in [("GET", "ok"), ("HEAD", "")] {
                let request = Request::builder().method(method).uri("/");
                let answer = caller.send(request).await.unwrap();
                assert_eq!((answer.status, answer.body.as_str()), (200, body));
                let lengths: Vec<_> = answer.headers.get_all("content-length").iter().collect();
                assert_eq!(lengths, ["2"], "{protocol} {method} {fields}");
                assert_eq!(answer.headers.get("transfer-encoding"), None);
            }
        }
    }
}

#[tokio::test]
async fn shortened_identity_body_is_an_error() {
    let (cloud, _application, _remote) = forwarding(|request| {
        (request.number == 0).then(|| {
            b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\nTransfer-Encoding: identity\r\nConnection: close\r\n\r\nok"
                .to_vec()
        })
    })
    .await;
    let mut caller = Caller::open(&cloud, "h2").await;
    // The raw application ends its connection at the next request; until then the body is open.
    let answer = tokio::time::timeout(
        std::time::Duration::from_millis(300),
        caller.send(Request::get("/")),
    );
    assert!(!matches!(answer.await, Ok(Ok(_))));
}

#[tokio::test]
async fn response_without_a_body_has_no_length() {
    for fields in [
        "Content-Length: 2",
        "Content-Length: 2\r\nContent-Length: 2",
    ] {
        let (cloud, _application, _remote) = forwarding(move |_| {
            Some(format!("HTTP/1.1 204 No Content\r\n{fields}\r\n\r\n").into())
        })
        .await;
        for protocol in ["http/1.1", "h2"] {
            let mut caller = Caller::open(&cloud, protocol).await;
            let answer = caller.get("/").await;
            assert_eq!(answer.status, 204);
            assert_eq!(answer.headers.get("content-length"), None, "{protocol}");
        }
    }
}

#[tokio::test]
async fn body_of_get_and_head_arrives() {
    let (cloud, _application, _remote) = forwarding(|request| {
        let seen = String::from_utf8_lossy(&request.body).replace("\r\n", "|");
        Some(format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-Seen: {seen}\r\n\r\n").into())
    })
    .await;
    for method in ["GET", "HEAD", "POST"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n7\r\nchunked\r\n0\r\n\r\n"
        );
        let seen = raw(&cloud, &request).await;
        assert!(seen.contains("x-seen: 7|chunked|0||"), "{method}: {seen}");
        let request = Request::builder().method(method).uri("/");
        let mut caller = Caller::open(&cloud, "h2").await;
        let answer = caller.send_body(request, "chunked").await.unwrap();
        let seen = answer.headers["x-seen"].to_str().unwrap();
        assert!(seen.contains("chunked"), "{method}: {seen}");
    }
}

#[tokio::test]
async fn unknown_transfer_coding_is_501() {
    let (cloud, application, _remote) = forwarding(echo).await;
    for coding in [
        "gzip, chunked",
        "chunked, chunked",
        "gzip\r\nTransfer-Encoding: chunked",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\nTransfer-Encoding: {coding}\r\n\r\n7\r\nchunked\r\n0\r\n\r\n"
        );
        let seen = raw(&cloud, &request).await;
        assert!(seen.starts_with("HTTP/1.1 501"), "{coding}: {seen}");
    }
    assert_eq!(application.requests(), 0);
}

#[tokio::test]
async fn response_in_unknown_transfer_coding_is_502() {
    let (cloud, _application, _remote) = forwarding(|_| {
        Some(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
                .to_vec(),
        )
    })
    .await;
    for protocol in ["http/1.1", "h2"] {
        assert_eq!(
            Caller::open(&cloud, protocol).await.get("/").await.status,
            502
        );
    }
}

#[tokio::test]
async fn request_without_a_body_has_length_zero_if_its_method_expects_one() {
    let (cloud, _application, _remote) =
        forwarding(|request| ok(request.header("content-length").unwrap_or("none"))).await;
    for protocol in ["http/1.1", "h2"] {
        let mut caller = Caller::open(&cloud, protocol).await;
        for (method, expected) in [("POST", "0"), ("PUT", "0"), ("PATCH", "0"), ("GET", "none")] {
            let request = Request::builder().method(method).uri("/");
            let answer = caller.send(request).await.unwrap();
            assert_eq!(answer.body, expected, "{protocol} {method}");
        }
    }
}

#[tokio::test]
async fn more_than_a_hundred_fields_pass_both_ways_unless_fewer_are_permitted() {
    let (cloud, _application, remote) = forwarding(|request| {
        let seen = request.head.matches("x-own-").count();
        let fields: String = (0..120).map(|n| format!("X-Field-{n}: {n}\r\n")).collect();
        let body = seen.to_string();
        let length = body.len();
        Some(format!("HTTP/1.1 200 OK\r\n{fields}Content-Length: {length}\r\n\r\n{body}").into())
    })
    .await;
    for protocol in ["http/1.1", "h2"] {
        let request = (0..120).fold(Request::get("/"), |request, n| {
            request.header(format!("x-own-{n}"), "1")
        });
        let stream = cloud.open(&[protocol]).await.unwrap();
        let stream = hyper_util::rt::TokioIo::new(stream);
        let mut caller = if protocol == "h2" {
            drop(stream);
            Caller::open(&cloud, protocol).await
        } else {
            let mut builder = hyper::client::conn::http1::Builder::new();
            let (sender, connection) = builder.max_headers(300).handshake(stream).await.unwrap();
            tokio::spawn(connection);
            Caller::Http1(sender)
        };
        let answer = caller.send(request).await.unwrap();
        assert_eq!(answer.body, "120", "{protocol}");
        let fields = answer
            .headers
            .keys()
            .filter(|name| name.as_str().starts_with("x-field-"));
        assert_eq!(fields.count(), 120, "{protocol}");
    }
    let mut limits = Limits::default();
    limits.header_fields = 100;
    remote.set_limits(limits);
    let mut caller = Caller::open(&cloud, "h2").await;
    let request = (0..120).fold(Request::get("/"), |request, n| {
        request.header(format!("x-own-{n}"), "1")
    });
    assert_eq!(caller.send(request).await.unwrap().status, 431);
}

#[tokio::test]
async fn redirect_to_the_applications_own_origin_names_the_public_one() {
    let (cloud, application, _remote) = forwarding(|request| {
        let target = request.head.split(' ').nth(1).unwrap();
        let location = target.trim_start_matches("/?");
        let head = format!("HTTP/1.1 302 Found\r\nLocation: {location}");
        Some(format!("{head}\r\nContent-Length: 0\r\n\r\n").into())
    })
    .await;
    let port = application.address.port();
    let own = format!("https://{NAME}/dir/?a=b");
    for (location, expected) in [
        (format!("http://127.0.0.1:{port}/dir/?a=b"), own.clone()),
        (format!("http://localhost:{port}/dir/?a=b"), own.clone()),
        (format!("http://{NAME}:{port}/dir/?a=b"), own.clone()),
        (format!("http://{NAME}/dir/?a=b"), own.clone()),
        (
            format!("http://127.0.0.1:{port}"),
            format!("https://{NAME}/"),
        ),
        // Others stay as they are.
        ("/dir/".to_owned(), "/dir/".to_owned()),
        (format!("//{NAME}/dir/"), format!("//{NAME}/dir/")),
        (
            format!("https://{NAME}/dir/"),
            format!("https://{NAME}/dir/"),
        ),
        (
            "http://127.0.0.1:1/dir/".to_owned(),
            "http://127.0.0.1:1/dir/".to_owned(),
        ),
        (
            format!("http://other.example.com:{port}/"),
            format!("http://other.example.com:{port}/"),
        ),
    ] {
        for protocol in ["http/1.1", "h2"] {
            let mut caller = Caller::open(&cloud, protocol).await;
            let answer = caller.get(&format!("/?{location}")).await;
            assert_eq!(answer.headers["location"], expected.as_str(), "{location}");
        }
    }
}

#[tokio::test]
async fn response_head_is_cleaned() {
    let (cloud, _application, _remote) = forwarding(|_| {
        Some(
            b"HTTP/1.1 200 Very Well\r\nServer : boa\r\nAlt-Svc: h3=\":443\"\r\nContent-Length: 2\r\n\r\nok"
                .to_vec(),
        )
    })
    .await;
    for protocol in ["http/1.1", "h2"] {
        let answer = Caller::open(&cloud, protocol).await.get("/").await;
        assert_eq!(answer.headers["server"], "boa");
        assert_eq!(answer.headers.get("alt-svc"), None);
        let reason = answer.extensions.get::<hyper::ext::ReasonPhrase>();
        let expected = (protocol == "http/1.1").then_some(&b"Very Well"[..]);
        assert_eq!(reason.map(hyper::ext::ReasonPhrase::as_bytes), expected);
    }
}

/// An application that ignores a body takes it for the next request; its answer must not reach
/// another caller.
#[tokio::test]
async fn body_that_the_application_leaves_unread_harms_no_other_caller() {
    let cloud = Cloud::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _remote = cloud.device(Application::forward(address)).await;
    let application = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let head = String::from_utf8(head).unwrap();
                    if head.starts_with("GET /smuggled") {
                        // Another caller's request comes first, or never.
                        let mut first = [0];
                        let other = stream.peek(&mut first);
                        let _ = tokio::time::timeout(Duration::from_millis(500), other).await;
                    }
                    let path = head.split(' ').nth(1).unwrap();
                    stream.write_all(&ok(path).unwrap()).await?;
                }
                #[allow(unreachable_code)]
                Ok::<_, std::io::Error>(())
            });
        }
    });
    for (protocol, method) in [("http/1.1", "GET"), ("h2", "GET"), ("h2", "POST")] {
        let mut attacker = Caller::open(&cloud, protocol).await;
        let mut other = Caller::open(&cloud, protocol).await;
        let smuggled = "GET /smuggled HTTP/1.1\r\n\r\n";
        let request = Request::builder().method(method).uri("/attack");
        let answer = attacker.send_body(request, smuggled).await.unwrap();
        assert_eq!(answer.body, "/attack");
        assert_eq!(
            other.get("/other").await.body,
            "/other",
            "{protocol} {method}"
        );
    }
    application.abort();
}
