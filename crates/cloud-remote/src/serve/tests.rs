use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::TokioExecutor;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::duplex;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsConnector;

use super::*;
use crate::certificate::CertificatePem;
use crate::rotation::CheckedCertificate;

const NAME: &str = "sn0001.ui.example.com";
const IDLE: Duration = Duration::from_secs(180);

/// A device, and a caller that speaks HTTP/2 with it and answers its pings.
struct Pair {
    server: Arc<Server>,
    sender: SendRequest<Empty<Bytes>>,
    connection: JoinHandle<hyper::Result<()>>,
}

impl Pair {
    async fn new() -> Self {
        let pem = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
        let root = CertificateDer::from_pem_slice(pem.cert.pem().as_bytes()).unwrap();
        let pem = CertificatePem::new(pem.cert.pem(), pem.signing_key.serialize_pem());
        let late = || async {
            sleep(IDLE * 5).await;
            "late"
        };
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/late", get(late));
        let server = Server::new(
            Application::service(router),
            CurrentCertificate::new(CheckedCertificate::read(&pem).unwrap().key),
            SharedAccess::default(),
            Limits::default(),
            Tasks::default(),
        );
        let server = Arc::new(server.unwrap());
        let (caller, device) = duplex(64 * 1024);
        server.accept(device, None);

        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(NAME).unwrap();
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, caller);
        let stream = TokioIo::new(stream.await.unwrap());
        let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
        Self {
            server,
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
async fn a_caller_that_does_nothing_but_answer_pings_is_let_go() {
    let mut pair = Pair::new().await;
    for _ in 0..3 {
        sleep(IDLE * 2 / 3).await;
        assert_eq!(pair.page("/").await, "hello");
    }
    let start = Instant::now();
    let ended = timeout(IDLE + Duration::from_secs(60), &mut pair.connection).await;
    ended.expect("it is still there").unwrap().unwrap();
    assert!(start.elapsed() >= IDLE);
    pair.server.tasks.drain();
    pair.server.tasks.ended().await;
    assert_eq!(pair.server.slots.in_use(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_under_way_is_not_idle() {
    let mut pair = Pair::new().await;
    assert_eq!(pair.page("/late").await, "late");
    assert_eq!(pair.page("/").await, "hello");
}
