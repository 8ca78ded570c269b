//! Connections through an HTTP proxy, and its failures.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_iot::{
    Cause, FallbackPort, Message, Proxy, ProxyFailure, ProxyReply, Session, SessionConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::common::*;

/// An HTTP proxy that opens tunnels to its allowed ports for clients with the password.
struct Tunnels {
    port: u16,
    /// Request line of each request.
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Tunnels {
    async fn open(password: Option<&'static str>, refused_port: Option<u16>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::<Mutex<Vec<String>>>::default();
        let notes = Arc::clone(&asked);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut tunnels = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tunnels.spawn(tunnel(stream, password, refused_port, Arc::clone(&notes)));
            }
        });
        Self {
            port,
            asked,
            _tasks: tasks,
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn tunnel(
    mut stream: TcpStream,
    password: Option<&str>,
    refused_port: Option<u16>,
    asked: Arc<Mutex<Vec<String>>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await.unwrap() == 0 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let line = head.lines().next().unwrap().to_owned();
    asked.lock().unwrap().push(line.clone());
    let target = line.strip_prefix("CONNECT ").unwrap();
    let target = target.strip_suffix(" HTTP/1.1").unwrap().to_owned();
    let expected = password.map(|password| format!("Proxy-Authorization: Basic {password}"));
    let status = if expected.is_some_and(|line| !head.lines().any(|given| given == line)) {
        "407 Proxy Authentication Required"
    } else if refused_port.is_some_and(|port| target.ends_with(&format!(":{port}"))) {
        "403 Forbidden"
    } else if let Ok(mut server) = TcpStream::connect(&target).await {
        let done = b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n";
        stream.write_all(done).await.unwrap();
        let _ = copy_bidirectional(&mut stream, &mut server).await;
        return;
    } else {
        "502 Bad Gateway"
    };
    // A refusal has a body, and the proxy keeps the connection open.
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 2\r\n\r\nno");
    stream.write_all(answer.as_bytes()).await.unwrap();
    let _ = stream.read(&mut [0]).await;
}

/// Returns the proxy's failure.
#[track_caller]
fn failure(cause: &Cause) -> &ProxyFailure {
    match cause {
        Cause::Proxy(error) => &error.failure,
        cause => panic!("{cause}"),
    }
}

async fn cause(config: SessionConfig) -> Cause {
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    let cause = lost(&mut events).await;
    session.stop(STOP).await;
    (*cause).clone()
}

#[tokio::test]
async fn messages_pass_through_a_proxy_with_a_password() {
    let site = Site::new().await;
    // "device:s3cret:/" in base64.
    let proxy = Tunnels::open(Some("ZGV2aWNlOnMzY3JldDov"), None).await;
    let mut config = site.config("device");
    let url = format!("http://device:s3cret%3A%2F@localhost:{}", proxy.port);
    config.proxy = Some(Proxy::new(&url).unwrap());
    let session = Session::builder(config).start().unwrap();
    online(&session).await;
    let receipt = session.publish(Message::new("t", "through")).unwrap();
    soon(receipt).await.unwrap();
    assert_eq!(site.broker.received("t"), ["through"]);
    let line = format!("CONNECT localhost:{} HTTP/1.1", site.broker.port);
    assert_eq!(proxy.asked(), [line]);
    session.stop(STOP).await;
}

#[tokio::test]
async fn wrong_proxy_password_is_reported_and_redacted() {
    let site = Site::new().await;
    let proxy = Tunnels::open(Some("ZGV2aWNlOnMzY3JldA=="), None).await;
    let mut config = site.config("device");
    let url = format!("http://device:wr0ng@127.0.0.1:{}", proxy.port);
    config.proxy = Some(Proxy::new(&url).unwrap());
    assert!(!format!("{config:?}").contains("wr0ng"));
    let cause = cause(config).await;
    assert_eq!(*failure(&cause), ProxyFailure::Authentication);
    assert!(!cause.is_retryable());
    assert!(!cause.to_string().contains("wr0ng"), "{cause}");
}

#[tokio::test]
async fn changed_proxy_ends_the_back_off() {
    let site = Site::new().await;
    let proxy = Tunnels::open(Some("ZGV2aWNlOnMzY3JldA=="), None).await;
    let url = |user: &str| Proxy::new(&format!("http://{user}@127.0.0.1:{}", proxy.port)).unwrap();
    let mut config = site.config("device");
    config.backoff.base_delay = Duration::from_secs(3_600);
    config.backoff.max_delay = Duration::from_secs(3_600);
    config.proxy = Some(url("device:wr0ng"));
    let session = Session::builder(config).start().unwrap();
    let mut events = session.events();
    let cause = lost(&mut events).await;
    assert_eq!(*failure(&cause), ProxyFailure::Authentication);
    session.set_proxy(Some(url("device:s3cret")));
    online(&session).await;
    // A connection in use stays.
    session.set_proxy(None);
    let receipt = session.publish(Message::new("t", "through")).unwrap();
    soon(receipt).await.unwrap();
    assert_eq!(proxy.asked().len(), 2);
    session.stop(STOP).await;
}

#[tokio::test]
async fn port_refused_by_proxy_switches_to_the_other() {
    let site = Site::new().await;
    let mut config = site.config("device");
    config.fallback_port = FallbackPort::Port(config.port);
    config.port = site.broker.side_port;
    let proxy = Tunnels::open(None, Some(config.port)).await;
    let url = format!("http://127.0.0.1:{}", proxy.port);
    config.proxy = Some(Proxy::new(&url).unwrap());
    let session = Session::builder(config.clone()).start().unwrap();
    let mut events = session.events();
    let reply = ProxyReply::HttpStatus(403);
    let refused = ProxyFailure::Refused { reply };
    assert_eq!(*failure(&*lost(&mut events).await), refused);
    online(&session).await;
    assert_eq!(session.port(), site.broker.port);
    session.stop(STOP).await;
    // The preferred port is used: no attempt on the other port.
    config.preferred_port = Some(session.port());
    let session = Session::builder(config).start().unwrap();
    online(&session).await;
    session.stop(STOP).await;
    assert_eq!(proxy.asked().len(), 3);
}

#[tokio::test]
async fn a_proxy_without_a_way_to_the_server() {
    let site = Site::new().await;
    let closed = closed_port().await;
    let proxy = Tunnels::open(None, None).await;
    let mut config = site.config("device");
    config.port = closed;
    let url = format!("http://127.0.0.1:{}", proxy.port);
    config.proxy = Some(Proxy::new(&url).unwrap());
    let reply = ProxyReply::HttpStatus(502);
    let unreachable = ProxyFailure::ServerUnreachable { reply };
    assert_eq!(*failure(&cause(config).await), unreachable);
}

#[tokio::test]
async fn no_proxy_at_its_address() {
    let site = Site::new().await;
    let mut config = site.config("device");
    for (proxy, says) in [
        (
            format!("127.0.0.1:{}", closed_port().await),
            "refused the TCP",
        ),
        ("nowhere.invalid:3128".to_owned(), "cannot be resolved"),
    ] {
        config.proxy = Some(Proxy::new(&format!("http://{proxy}")).unwrap());
        let cause = cause(config.clone()).await;
        assert!(matches!(failure(&cause), ProxyFailure::Unreachable(_)));
        // It is the proxy that refused, not the server.
        let text = cause.to_string();
        assert!(text.contains(says), "{text}");
        assert!(text.contains(&format!("the proxy {proxy}")), "{text}");
    }

    // A server of another kind, which sends something or nothing.
    for (answer, expected) in [
        (
            &b"220 mail.example ESMTP\r\n\r\n"[..],
            ProxyFailure::NotAProxy("HTTP"),
        ),
        (b"", ProxyFailure::Closed),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        config.proxy = Some(Proxy::new(&url).unwrap());
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(answer).await.unwrap();
        };
        let (cause, ()) = tokio::join!(cause(config.clone()), serve);
        assert_eq!(*failure(&cause), expected);
    }
}

async fn closed_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}
