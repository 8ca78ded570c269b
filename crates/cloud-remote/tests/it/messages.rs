//! HTTP messages through the reverse proxy, byte by byte: both sides must interpret a message in
//! the same way (RFC 9112 §11.2).

use cloud_remote::{Application, RemoteAccess};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{Cloud, NAME, within};

/// A device with an application that sends a given response.
struct ReverseProxy {
    cloud: Cloud,
    application: TcpListener,
    _remote: RemoteAccess,
}

impl ReverseProxy {
    async fn start() -> Self {
        let cloud = Cloud::start().await;
        let application = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let forward = Application::forward(application.local_addr().unwrap());
        let _remote = cloud.device(forward).await;
        Self {
            cloud,
            application,
            _remote,
        }
    }

    /// Sends a request with `Connection: close`. Returns the complete response.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.cloud.open(&["http/1.1"]).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        // The connection may close without a TLS close_notify.
        let _ = within(stream.read_to_end(&mut seen)).await;
        String::from_utf8(seen).unwrap()
    }

    /// Sends a request to an application that reads up to `end` and then sends `response`. Returns
    /// the bytes that the application has read, and the response.
    async fn exchange(&self, request: &str, end: &str, response: &str) -> (String, String) {
        let application = async {
            let (mut stream, _) = within(self.application.accept()).await.unwrap();
            let seen = until(&mut stream, end).await;
            stream.write_all(response.as_bytes()).await.unwrap();
            seen
        };
        tokio::join!(application, self.ask(request))
    }
}

/// Reads up to this text.
async fn until(stream: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut seen = String::new();
    while !seen.ends_with(end) {
        seen.push(char::from(within(stream.read_u8()).await.unwrap()));
    }
    seen.to_ascii_lowercase()
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[tokio::test]
async fn request_without_exactly_one_host_is_refused() {
    let proxy = ReverseProxy::start().await;
    for hosts in ["", "Host: a\r\nHost: b\r\n", "Host: a\r\nHost: a\r\n"] {
        let request = format!("GET / HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        let response = proxy.ask(&request).await;
        assert!(
            response.starts_with("HTTP/1.1 400 "),
            "{hosts:?}: {response}"
        );
    }
}

#[tokio::test]
async fn host_is_forwarded_without_userinfo() {
    let proxy = ReverseProxy::start().await;
    let request = format!(
        "GET http://user:secret@{NAME}/page HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n"
    );
    let (seen, response) = proxy.exchange(&request, "\r\n\r\n", OK).await;
    assert!(response.ends_with("ok"), "{response}");
    assert!(seen.starts_with("get /page http/1.1\r\n"), "{seen}");
    assert!(seen.contains(&format!("\r\nhost: {NAME}\r\n")), "{seen}");
    assert!(seen.contains(&format!("\r\nx-forwarded-host: {NAME}\r\n")));
    assert!(
        !seen.contains("secret") && !seen.contains("other"),
        "{seen}"
    );
}

#[tokio::test]
async fn request_has_one_length() {
    let proxy = ReverseProxy::start().await;
    for lengths in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n",
        "Transfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {NAME}\r\n{lengths}Connection: close\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"
        );
        let (seen, response) = proxy.exchange(&request, "0\r\n\r\n", OK).await;
        assert!(response.ends_with("ok"), "{lengths:?}: {response}");
        assert!(!seen.contains("content-length"), "{seen}");
        assert!(seen.contains("transfer-encoding: chunked\r\n"), "{seen}");
        assert!(seen.ends_with("\r\n\r\n5\r\nhello\r\n0\r\n\r\n"), "{seen}");
    }
    for lengths in [
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4, 5\r\n",
        "Content-Length: +4\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding : chunked\r\n",
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: {NAME}\r\n{lengths}\r\n5\r\nhello\r\n");
        let response = proxy.ask(&request).await;
        assert!(
            response.starts_with("HTTP/1.1 400 "),
            "{lengths:?}: {response}"
        );
    }
}

#[tokio::test]
async fn content_length_named_by_connection_is_forwarded() {
    let proxy = ReverseProxy::start().await;
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 5\r\nConnection: close, content-length, host, x-forwarded-for\r\n\r\nhello"
    );
    let (seen, response) = proxy.exchange(&request, "hello", OK).await;
    assert!(response.ends_with("ok"), "{response}");
    for line in [
        "content-length: 5".to_owned(),
        format!("host: {NAME}"),
        "x-forwarded-for: 127.0.0.1".to_owned(),
    ] {
        assert!(seen.lines().any(|seen| seen == line), "{line} in\n{seen}");
    }
}

#[tokio::test]
async fn expect_continue_is_answered_by_device() {
    let proxy = ReverseProxy::start().await;
    let application = async {
        let (mut stream, _) = within(proxy.application.accept()).await.unwrap();
        let seen = until(&mut stream, "hello").await;
        stream.write_all(OK.as_bytes()).await.unwrap();
        seen
    };
    let caller = async {
        let mut stream = proxy.cloud.open(&["http/1.1"]).await.unwrap();
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let leave = until(&mut stream, "\r\n\r\n").await;
        assert!(leave.starts_with("http/1.1 100 "), "{leave}");
        stream.write_all(b"hello").await.unwrap();
        until(&mut stream, "ok").await
    };
    let (seen, _) = tokio::join!(application, caller);
    assert!(!seen.contains("expect"), "{seen}");
}

#[tokio::test]
async fn bodiless_responses_keep_length_and_end() {
    let proxy = ReverseProxy::start().await;
    for (method, status, length) in [
        ("HEAD", "200 OK", "content-length: 1000\r\n"),
        // The header is optional here.
        ("GET", "304 Not Modified", ""),
    ] {
        let request = format!("{method} / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
        let response = format!("HTTP/1.1 {status}\r\nContent-Length: 1000\r\nETag: \"1\"\r\n\r\n");
        let (_, response) = proxy.exchange(&request, "\r\n\r\n", &response).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status}\r\n")),
            "{response}"
        );
        assert!(response.contains(length), "{response}");
        assert!(response.ends_with("\r\n\r\n"), "{response}");
    }
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    let response = "HTTP/1.1 204 No Content\r\n\r\n";
    let (_, response) = proxy.exchange(&request, "\r\n\r\n", response).await;
    assert!(response.starts_with("HTTP/1.1 204 "), "{response}");
    assert!(!response.contains("transfer-encoding"), "{response}");
}

#[tokio::test]
async fn response_has_one_length() {
    let proxy = ReverseProxy::start().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    for lengths in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
    ] {
        let response = format!("HTTP/1.1 200 OK\r\n{lengths}\r\n5\r\nhello\r\n0\r\n\r\n");
        let (_, response) = proxy.exchange(&request, "\r\n\r\n", &response).await;
        assert!(!response.contains("content-length: 2"), "{response}");
        assert!(response.contains("hello"), "{response}");
    }
}

#[tokio::test]
async fn equal_response_lengths_become_one() {
    let proxy = ReverseProxy::start().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    let browser = proxy.cloud.browser(&["h2"]);
    for second in ["2", "02"] {
        let response = format!(
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {second}\r\nContent-Length: 2\r\n\r\nok"
        );
        let (_, over_http1) = proxy.exchange(&request, "\r\n\r\n", &response).await;
        assert!(over_http1.contains("content-length: 2\r\n"), "{over_http1}");
        assert_eq!(over_http1.matches("content-length").count(), 1);
        let application = async {
            let (mut stream, _) = within(proxy.application.accept()).await.unwrap();
            until(&mut stream, "\r\n\r\n").await;
            stream.write_all(response.as_bytes()).await.unwrap();
        };
        let ((), response) = tokio::join!(application, browser.get(proxy.cloud.url("/")).send());
        let lengths = response.unwrap().headers().clone();
        let lengths: Vec<_> = lengths.get_all("content-length").iter().collect();
        assert_eq!(lengths, ["2"]);
    }
}

#[tokio::test]
async fn truncated_response_is_not_complete() {
    let proxy = ReverseProxy::start().await;
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n");
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n";
    let (_, response) = proxy.exchange(&request, "\r\n\r\n", response).await;
    assert!(!response.ends_with("0\r\n\r\n"), "{response}");
    let response = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello";
    let (_, response) = proxy.exchange(&request, "\r\n\r\n", response).await;
    assert!(response.contains("content-length: 10\r\n"), "{response}");
    assert!(response.ends_with("hello"), "{response}");
}

/// The application neither reads the rest nor waits for its end.
#[tokio::test]
async fn refused_upload_gets_response() {
    let proxy = ReverseProxy::start().await;
    let refused =
        "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!";
    for (response, status) in [(refused, "413 "), ("", "502 ")].repeat(10) {
        let application = async {
            let (mut stream, _) = within(proxy.application.accept()).await.unwrap();
            until(&mut stream, "\r\n\r\n").await;
            stream.write_all(response.as_bytes()).await.unwrap();
        };
        let caller = async {
            let stream = proxy.cloud.open(&["http/1.1"]).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            let upload = async {
                let head =
                    format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 8000000\r\n\r\n");
                writer.write_all(head.as_bytes()).await.unwrap();
                // Not all of the upload is read.
                let _ = writer.write_all(&vec![7; 8_000_000]).await;
            };
            let seen = async {
                let mut seen = Vec::new();
                let _ = reader.read_to_end(&mut seen).await;
                String::from_utf8_lossy(&seen).into_owned()
            };
            within(async { tokio::join!(upload, seen).1 }).await
        };
        let ((), seen) = tokio::join!(application, caller);
        assert!(seen.starts_with(&format!("HTTP/1.1 {status}")), "{seen}");
        assert!(status == "502 " || seen.ends_with("no!"), "{seen}");
    }
}

#[tokio::test]
async fn refused_upload_gets_response_over_http2() {
    let proxy = ReverseProxy::start().await;
    let browser = proxy.cloud.browser(&["h2"]);
    for _ in 0..10 {
        let application = async {
            let (mut stream, _) = within(proxy.application.accept()).await.unwrap();
            until(&mut stream, "\r\n\r\n").await;
            let refused = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 3\r\n\r\nno!";
            stream.write_all(refused.as_bytes()).await.unwrap();
        };
        let upload = browser.post(proxy.cloud.url("/")).body(vec![7; 8_000_000]);
        let ((), response) = tokio::join!(application, upload.send());
        let response = response.unwrap();
        assert_eq!(response.status(), 413);
        assert_eq!(response.text().await.unwrap(), "no!");
    }
}
