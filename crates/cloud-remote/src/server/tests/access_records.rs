//! The records that an observer receives.

use std::sync::Mutex;

use axum::body::Body;

use super::*;
use crate::access_record::{AccessRecord, ConnectionRecord, RequestRecord};

/// The records of a device.
#[derive(Clone, Default)]
struct Records(Arc<Mutex<Vec<AccessRecord>>>);

impl Records {
    fn device(application: Application) -> (Device, Self) {
        let records = Self::default();
        let taken = records.clone();
        let observer = Observer::new(move |record| taken.0.lock().unwrap().push(record.clone()));
        (Device::observed(application, Some(observer)), records)
    }

    async fn next(&self) -> AccessRecord {
        loop {
            let next = self.0.lock().unwrap().pop();
            match next {
                Some(record) => return record,
                None => sleep(Duration::from_millis(1)).await,
            }
        }
    }

    async fn request(&self) -> RequestRecord {
        match self.next().await {
            AccessRecord::Request(request) => *request,
            other => panic!("{other:?}"),
        }
    }

    async fn connection(&self) -> ConnectionRecord {
        match self.next().await {
            AccessRecord::Connection(connection) => connection,
            other => panic!("{other:?}"),
        }
    }

    async fn refusal(&self) -> &'static str {
        match self.next().await {
            AccessRecord::Refused(refused) => {
                assert_eq!(refused.address, Some(CALLER.into()));
                refused.reason.name()
            }
            other => panic!("{other:?}"),
        }
    }
}

async fn send(caller: &mut TlsStream<DuplexStream>, request: &str) {
    caller.write_all(request.as_bytes()).await.unwrap();
}

async fn read_until(caller: &mut TlsStream<DuplexStream>, end: &str) {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(end) {
        seen.push(caller.read_u8().await.unwrap());
    }
}

#[tokio::test]
async fn request_record_has_what_was_asked_and_answered() {
    let echo = post(|body: String| async move { format!("{body}{body}") });
    let router = Router::new().route("/echo", echo);
    let (device, records) = Records::device(Application::service(router));
    let mut caller = device.call_with_tls("http/1.1").await;
    let head = format!(
        "POST /echo?key=1 HTTP/1.1\r\nHost: {NAME}\r\nUser-Agent: t\x07est\r\n\
         Referer: https://a/?b\r\nContent-Length: 5\r\n\r\nhello"
    );
    send(&mut caller, &head.replace('\x07', "\t")).await;
    read_until(&mut caller, "hellohello").await;
    let record = records.request().await;
    assert_eq!(record.address, Some(CALLER.into()));
    assert_eq!(record.method.as_str(), "POST");
    assert_eq!(record.path.as_str(), "/echo");
    assert_eq!(record.query.unwrap().as_str(), "key=1");
    assert_eq!(record.version, ::http::Version::HTTP_11);
    assert_eq!(record.host.unwrap().as_str(), NAME);
    assert_eq!(record.user_agent.unwrap().as_str(), r"t\test");
    assert_eq!(record.referer.unwrap().as_str(), "https://a/?b");
    assert_eq!(record.status.unwrap(), 200);
    assert_eq!((record.received, record.sent), (5, 10));
    assert!(!record.cut && record.refused.is_none() && record.upstream.is_none());

    // A response without a body is complete, and so is one to HEAD.
    for method in ["HEAD", "GET"] {
        send(
            &mut caller,
            &format!("{method} / HTTP/1.1\r\nHost: {NAME}\r\n\r\n"),
        )
        .await;
        read_until(&mut caller, "\r\n\r\n").await;
        let record = records.request().await;
        assert_eq!((record.status.unwrap().as_u16(), record.cut), (404, false));
    }
    drop(caller);
    device.ended().await;
}

#[tokio::test]
async fn http2_request_record_names_the_host() {
    let router = Router::new().route("/", get(|| async { "x".repeat(10_000) }));
    let (device, records) = Records::device(Application::service(router));
    let stream = TokioIo::new(device.call_with_tls("h2").await);
    let (mut sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(format!("https://{NAME}/")).body(Empty::<Bytes>::new());
    let response = sender.send_request(request.unwrap()).await.unwrap();
    response.into_body().collect().await.unwrap();
    let record = records.request().await;
    assert_eq!(record.host.unwrap().as_str(), NAME);
    assert_eq!((record.sent, record.cut), (10_000, false));
    assert_eq!(record.version, ::http::Version::HTTP_2);
    drop(sender);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn request_that_its_caller_leaves_is_cut() {
    let endless = futures_util::stream::repeat_with(|| Ok::<_, io::Error>(vec![7; 1_024]));
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let never = move || async move {
        arrived.send(()).unwrap();
        std::future::pending::<()>().await;
    };
    let router = Router::new()
        .route("/endless", get(|| async { Body::from_stream(endless) }))
        .route("/never", get(never));
    let (device, records) = Records::device(Application::service(router));
    let mut caller = device.call_with_tls("http/1.1").await;
    send(
        &mut caller,
        &format!("GET /endless HTTP/1.1\r\nHost: {NAME}\r\n\r\n"),
    )
    .await;
    read_until(&mut caller, "200 OK").await;
    drop(caller);
    let record = records.request().await;
    assert_eq!((record.status.unwrap().as_u16(), record.cut), (200, true));
    assert!(record.sent > 0);

    let mut caller = device.call_with_tls("http/1.1").await;
    send(
        &mut caller,
        &format!("GET /never HTTP/1.1\r\nHost: {NAME}\r\n\r\n"),
    )
    .await;
    arrivals.recv().await.unwrap();
    drop(caller);
    let record = records.request().await;
    assert_eq!((record.status, record.cut), (None, true));
}

#[cfg(unix)]
#[tokio::test]
async fn websocket_record_follows_its_connection() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ui.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let upstream = Upstream::unix(&path);
    let name = upstream.to_string();
    let (device, records) = Records::device(Application::forward(upstream));
    let mut caller = device.call_with_tls("http/1.1").await;
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: {NAME}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    send(&mut caller, &head).await;
    let (mut application, _) = listener.accept().await.unwrap();
    assert!(application.read(&mut [0; 1024]).await.unwrap() > 0);
    let switched =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    application.write_all(switched).await.unwrap();
    read_until(&mut caller, "\r\n\r\n").await;
    assert!(records.0.lock().unwrap().is_empty());
    application.write_all(&[7; 3_000]).await.unwrap();
    caller.read_exact(&mut [0; 3_000]).await.unwrap();
    drop((caller, application));
    let record = records.request().await;
    assert_eq!(record.status.unwrap(), 101);
    assert_eq!(record.upstream.unwrap(), name);
    assert!((3_000..4_000).contains(&record.sent), "{}", record.sent);
    device.ended().await;
}

#[cfg(unix)]
#[tokio::test]
async fn connection_record_counts_bytes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ui.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let upstream = Upstream::unix(&path);
    let (device, records) = Records::device(Application::passthrough(upstream));
    let mut caller = device.call(CALLER);
    caller.write_all(b"hello").await.unwrap();
    let (mut application, _) = listener.accept().await.unwrap();
    application.read_exact(&mut [0; 5]).await.unwrap();
    application.write_all(&[7; 20]).await.unwrap();
    caller.read_exact(&mut [0; 20]).await.unwrap();
    drop((application, caller));
    let record = records.connection().await;
    assert_eq!((record.received, record.sent), (5, 20));
    assert_eq!(record.address, Some(CALLER.into()));

    drop((listener, directory));
    let read = device.call(CALLER).read_to_end(&mut Vec::new()).await;
    assert_eq!(read.unwrap(), 0);
    let record = records.connection().await;
    assert!(record.cut, "the application is not there");
    device.ended().await;
}

#[tokio::test]
async fn refusals_have_their_reason() {
    let (device, records) = Records::device(Application::service(Router::new()));
    let mut caller = device.call_with_tls("http/1.1").await;
    send(
        &mut caller,
        "GET / HTTP/1.1\r\nHost: other.example.com\r\n\r\n",
    )
    .await;
    read_until(&mut caller, "\r\n\r\n").await;
    let record = records.request().await;
    assert_eq!(record.refused.unwrap().name(), "host");
    assert_eq!(record.status.unwrap(), 421);
    send(&mut caller, "GET / HTTP/1.1\r\n\r\n").await;
    let record = records.request().await;
    assert_eq!(record.refused.unwrap().name(), "malformed");
    drop(caller);

    let mut caller = device.call(CALLER);
    caller.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    caller.read_to_end(&mut Vec::new()).await.unwrap();
    assert_eq!(records.refusal().await, "tls_handshake");

    let limit = Limits::default().connections_per_address;
    let open: Vec<_> = (0..=limit).map(|_| device.call(CALLER)).collect();
    assert_eq!(records.refusal().await, "connections_per_caller");
    drop(open);
    let denied = [ipnet::IpNet::from(IpAddr::from(CALLER))];
    device
        .server
        .access
        .set(access::AccessRules::new([], denied));
    drop(device.call(CALLER));
    loop {
        // The connections above end without a handshake.
        match records.refusal().await {
            "tls_handshake" => {}
            reason => {
                assert_eq!(reason, "access_rules");
                break;
            }
        }
    }
}
