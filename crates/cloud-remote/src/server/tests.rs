mod access_records;
mod callers;
mod hostile;

use std::time::Duration;

use ::http::Request;
use axum::Router;
use axum::routing::{get, post};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::auth::AuthRules;
use crate::certificate::CertificatePem;
use crate::certificate::verify::CheckedCertificate;
use crate::config::RemoteConfig;
use crate::limits::receive_window::STREAMS;
use crate::request_policy::options::HttpOptions;

const NAME: &str = "sn0001.ui.example.com";
const CALLER: [u8; 4] = [192, 0, 2, 1];
const IDLE: Duration = Duration::from_secs(180);

fn policy() -> RequestPolicy {
    let config = RemoteConfig::new("relay.example.com", 443, NAME);
    RequestPolicy::new(&config, HttpOptions::new()).unwrap()
}

/// A device to which the test passes connections.
struct Device {
    server: Arc<Server>,
    root: CertificateDer<'static>,
}

impl Device {
    fn serving(application: Application) -> Self {
        Self::observed(application, None)
    }

    fn observed(application: Application, observer: Option<Observer>) -> Self {
        let pem = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let root = CertificateDer::from_pem_slice(pem.cert.pem().as_bytes()).unwrap();
        let pem = CertificatePem::new(pem.cert.pem(), pem.signing_key.serialize_pem());
        let server = Server::new(
            application,
            CurrentCertificate::new(CheckedCertificate::read(&pem).unwrap().key),
            ServerSettings {
                access: SharedAccess::default(),
                auth: AuthLayer::new(AuthRules::new()),
                policy: policy(),
                limits: Limits::default(),
                observer,
            },
            TaskGroup::default(),
        );
        let server = Arc::new(server.unwrap());
        Self { server, root }
    }

    /// A public connection before TLS.
    fn call(&self, address: [u8; 4]) -> DuplexStream {
        let (caller, device) = duplex(64 * 1024);
        self.server.accept(device, Some(address.into()));
        caller
    }

    async fn call_with_tls(&self, protocol: &str) -> TlsStream<DuplexStream> {
        self.call_from(CALLER, protocol).await
    }

    async fn call_from(&self, address: [u8; 4], protocol: &str) -> TlsStream<DuplexStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let name = ServerName::try_from(NAME).unwrap();
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, self.call(address));
        stream.await.unwrap()
    }

    /// Asserts that all connections have ended and released their resources.
    async fn ended(&self) {
        self.server.tasks.drain();
        self.server.tasks.ended().await;
        assert_eq!(self.server.connections.in_use(), 0);
    }
}

/// A device and an HTTP/2 client that answers its pings.
struct Pair {
    device: Device,
    sender: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Pair {
    async fn new() -> Self {
        let late = || async {
            sleep(IDLE * 5).await;
            "late"
        };
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/late", get(late));
        let device = Device::serving(Application::service(router));
        let stream = TokioIo::new(device.call_with_tls("h2").await);
        let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
        Self {
            device,
            sender,
            connection: tokio::spawn(connection),
        }
    }

    async fn page(&mut self, path: &str) -> Bytes {
        let request = Request::get(format!("https://{NAME}{path}")).body(Empty::new());
        let response = self.sender.send_request(request.unwrap()).await.unwrap();
        response.into_body().collect().await.unwrap().to_bytes()
    }
}

#[tokio::test(start_paused = true)]
async fn caller_that_only_answers_pings_is_disconnected() {
    let mut pair = Pair::new().await;
    for _ in 0..3 {
        assert_eq!(pair.page("/").await, "hello");
        sleep(IDLE * 2 / 3).await;
    }
    assert_eq!(pair.page("/").await, "hello");
    let start = Instant::now();
    let ended = timeout(IDLE + Duration::from_secs(60), &mut pair.connection).await;
    ended.expect("it is still there").unwrap().unwrap();
    assert!(start.elapsed() >= IDLE);
    pair.device.ended().await;
}

#[tokio::test(start_paused = true)]
async fn request_in_progress_is_not_idle() {
    let mut pair = Pair::new().await;
    assert_eq!(pair.page("/late").await, "late");
    assert_eq!(pair.page("/").await, "hello");
}

/// Sends until the connection is full. Then this side does not poll the connection either: the
/// device waits for its application.
async fn is_let_go(mut caller: impl AsyncWrite + Unpin) {
    let start = Instant::now();
    let sent = timeout(IDLE * 2, caller.write_all(&vec![7; 16 * 1024 * 1024])).await;
    sent.expect("it is still there").unwrap_err();
    assert!(start.elapsed() >= IDLE, "{:?}", start.elapsed());
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn caller_is_dropped_when_application_stops_reading() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ui.sock");
    let _accepts_and_never_reads = tokio::net::UnixListener::bind(&path).unwrap();
    let upstream = || Upstream::unix(&path);
    let device = Device::serving(Application::passthrough(upstream()));
    is_let_go(device.call(CALLER)).await;
    device.ended().await;
    let device = Device::serving(Application::forward_tcp(upstream(), None));
    is_let_go(device.call_with_tls("http/1.1").await).await;
    device.ended().await;
}

#[tokio::test(start_paused = true)]
async fn upload_is_dropped_when_application_neither_reads_nor_answers() {
    let hang = post(|_: axum::body::Body| std::future::pending::<()>());
    let device = Device::serving(Application::service(Router::new().route("/", hang)));
    let mut caller = device.call_with_tls("http/1.1").await;
    let head = format!("POST / HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: 100000000\r\n\r\n");
    caller.write_all(head.as_bytes()).await.unwrap();
    is_let_go(caller).await;
    device.ended().await;
}

#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn websocket_is_dropped_when_application_stops_reading() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ui.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let device = Device::serving(Application::forward(Upstream::unix(&path)));
    let mut caller = device.call_with_tls("http/1.1").await;
    let head = format!(
        "GET / HTTP/1.1\r\nHost: {NAME}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    );
    caller.write_all(head.as_bytes()).await.unwrap();
    let (mut application, _) = listener.accept().await.unwrap();
    let mut request = [0; 1024];
    assert!(application.read(&mut request).await.unwrap() > 0);
    let switched =
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
    application.write_all(switched).await.unwrap();
    let mut response = [0; 12];
    caller.read_exact(&mut response).await.unwrap();
    assert_eq!(&response, b"HTTP/1.1 101");
    is_let_go(caller).await;
    device.ended().await;
}

/// gunicorn closes idle connections after 2 s, Node.js and uvicorn after 5 s. A request on a
/// closing connection is lost.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn pooled_connection_is_not_reused_near_its_close() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ui.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let device = Device::serving(Application::forward(Upstream::unix(&path)));
    let mut caller = device.call_with_tls("http/1.1").await;
    let mut used = Vec::new();
    for _ in 0..2 {
        let head = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
        caller.write_all(head.as_bytes()).await.unwrap();
        let (mut application, _) = timeout(IDLE, listener.accept())
            .await
            .expect("the old connection was used")
            .unwrap();
        let mut request = [0; 1024];
        assert!(application.read(&mut request).await.unwrap() > 0);
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        application.write_all(response).await.unwrap();
        let mut seen = [0; 1024];
        assert!(caller.read(&mut seen).await.unwrap() > 0);
        used.push(application);
        sleep(Duration::from_millis(1_900)).await;
    }
}

/// HTTP/2 carries many requests over one connection, but the application's HTTP/1.1 does not: each
/// takes a file descriptor, of which the device has about a thousand.
#[cfg(unix)]
#[tokio::test(start_paused = true)]
async fn requests_per_address_are_limited_like_connections() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ui.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let device = Device::serving(Application::forward(Upstream::unix(&path)));
    let (mut responses, mut senders) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let stream = TokioIo::new(device.call_with_tls("h2").await);
        let (mut sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..50 {
            let request = Request::get(format!("https://{NAME}/")).body(Empty::<Bytes>::new());
            responses.push(tokio::spawn(sender.send_request(request.unwrap())));
        }
        senders.push(sender);
    }
    let mut waiting = Vec::new();
    while let Ok(accepted) = timeout(Duration::from_secs(1), listener.accept()).await {
        waiting.push(accepted.unwrap().0);
    }
    assert_eq!(waiting.len(), Limits::default().connections_per_address);

    // Other callers are unaffected.
    let mut other = device.call_from([192, 0, 2, 2], "http/1.1").await;
    let head = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    other.write_all(head.as_bytes()).await.unwrap();
    waiting.push(listener.accept().await.unwrap().0);

    // Each response admits another request, and none is lost.
    while let Some(mut application) = waiting.pop() {
        let response = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        application.write_all(response).await.unwrap();
        while let Ok(accepted) = timeout(Duration::from_millis(10), listener.accept()).await {
            waiting.push(accepted.unwrap().0);
        }
    }
    for response in responses {
        assert_eq!(response.await.unwrap().unwrap().status(), 200);
    }
    drop((senders, other));
    device.ended().await;
}

/// RFC 9113 §6.5.2 and §6.9: a caller has at most the data in flight that the initial settings
/// allow.
#[tokio::test]
async fn connection_buffers_four_streams_unread() {
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;
    const INITIAL_WINDOW_SIZE: u16 = 4;
    /// Before any window update (§6.9.2).
    const BEGINNING: u32 = 65_535;

    let device = Device::serving(Application::service(Router::new()));
    let mut caller = device.call_with_tls("h2").await;
    let hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    caller.write_all(hello).await.unwrap();

    let (mut of_stream, mut of_connection) = (None, None);
    while of_stream.is_none() || of_connection.is_none() {
        let mut header = [0; 9];
        caller.read_exact(&mut header).await.unwrap();
        let len = u32::from_be_bytes([0, header[0], header[1], header[2]]);
        let mut payload = vec![0; len as usize];
        caller.read_exact(&mut payload).await.unwrap();
        if header[3] == SETTINGS {
            let mut settings = payload.as_chunks::<6>().0.iter();
            let value = settings.find_map(|[a, b, value @ ..]| {
                (u16::from_be_bytes([*a, *b]) == INITIAL_WINDOW_SIZE).then_some(*value)
            });
            of_stream = of_stream.or(value.map(u32::from_be_bytes));
        } else if header[3] == WINDOW_UPDATE {
            let more = u32::from_be_bytes(payload.try_into().unwrap());
            of_connection = Some(BEGINNING + more);
        }
    }
    assert_eq!(of_stream, Some(512 * 1024));
    assert_eq!(of_connection, Some(STREAMS * 512 * 1024));
    drop(caller);
    device.ended().await;
}

/// The log output.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl Log {
    /// Collects the lines of this test at the default level, until the guard is dropped. The
    /// runtime of a test has one thread, so all of its tasks log here.
    fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// Takes the lines collected so far.
    fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn refused_and_failed_calls_are_log_throttled() {
    let (log, _guard) = Log::capture();

    // Two devices, each with its own log throttle.
    for _ in 0..2 {
        let device = Device::serving(Application::service(Router::new()));
        let calls: Vec<_> = (0..1_000).map(|_| device.call(CALLER)).collect();
        drop(calls);
        device.ended().await;
    }
    let closed_port = Upstream::host("127.0.0.1", 1);
    let device = Device::serving(Application::passthrough(closed_port));
    for _ in 0..100 {
        // The device closes the connection.
        let read = device.call(CALLER).read_to_end(&mut Vec::new()).await;
        assert_eq!(read.unwrap(), 0);
    }
    device.ended().await;
    let lines = log.take();
    let count = |text| lines.matches(text).count();
    assert_eq!(count("too many connections"), 2 * 5, "{lines}");
    assert_eq!(count("cannot be reached"), 5, "{lines}");
}

/// A load test, or an office behind one address: possible with an option that the log names.
#[tokio::test]
async fn five_hundred_connections_of_one_address_are_served_if_permitted() {
    const COUNT: usize = 500;
    let (log, _guard) = Log::capture();
    let device = Device::serving(Application::service(
        Router::new().route("/", get(|| async { "hello" })),
    ));
    let default = Limits::default().connections_per_address;
    let calls: Vec<_> = (0..COUNT).map(|_| device.call(CALLER)).collect();
    assert_eq!(device.server.connections.in_use(), default);
    let lines = log.take();
    let named = format!("setting=\"Limits::connections_per_address\" maximum={default}");
    let count = lines.matches(&named).count();
    assert!((1..=5).contains(&count), "{lines}");
    drop(calls);
    while device.server.connections.in_use() > 0 {
        tokio::task::yield_now().await;
    }

    device.server.set_limits(Limits {
        connections: COUNT,
        connections_per_address: COUNT,
        ..Limits::default()
    });
    let mut callers = Vec::new();
    for _ in 0..COUNT {
        callers.push(device.call_with_tls("http/1.1").await);
    }
    let request = format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    for caller in &mut callers {
        caller.write_all(request.as_bytes()).await.unwrap();
        let mut status = [0; 12];
        caller.read_exact(&mut status).await.unwrap();
        assert_eq!(&status, b"HTTP/1.1 200");
    }
    assert_eq!(device.server.connections.in_use(), COUNT);
    assert_eq!(log.take(), "");
    drop(callers);
    device.ended().await;
}
