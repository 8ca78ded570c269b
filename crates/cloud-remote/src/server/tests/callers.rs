//! Callers as they come, and what the log says about their requests.

use tokio::net::TcpListener;

use super::*;

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
