//! A TLS client that speaks just enough HTTP/1.1 for nginx, on one thread.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::ways::Way;

/// Read and written at a time. TLS records are taken from a buffer of this size: rustls by itself would ask the system for
/// 4 KiB at a time.
const BLOCK: usize = 256 * 1024;
/// A limit on each exchange; whoever runs into it does not work.
const LIMIT: Duration = Duration::from_secs(60);

/// What all connections share.
pub(super) struct Client {
    connector: TlsConnector,
}

/// A connection to nginx through one of the ways.
pub(super) struct Connection {
    stream: TlsStream<BufReader<TcpStream>>,
    hostname: &'static str,
    block: Vec<u8>,
    /// Received, from the start of the block, and not yet used.
    received: usize,
}

impl Client {
    /// Trusts this certificate alone.
    pub(super) fn new(certificate: &str) -> Self {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
        roots.add(certificate).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Each new connection is to be a full handshake.
        config.resumption = rustls::client::Resumption::disabled();
        Self {
            connector: TlsConnector::from(Arc::new(config)),
        }
    }

    pub(super) async fn connect(&self, way: &Way) -> Connection {
        let tcp = TcpStream::connect(way.address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from(way.hostname).unwrap();
        let tcp = BufReader::with_capacity(BLOCK, tcp);
        let connecting = tokio::time::timeout(LIMIT, self.connector.connect(name, tcp));
        Connection {
            stream: connecting.await.expect("in time").unwrap(),
            hostname: way.hostname,
            block: vec![0; BLOCK],
            received: 0,
        }
    }
}

impl Connection {
    /// A small request and its answer.
    pub(super) async fn small(&mut self) {
        let length = self.request("GET /small", "").await;
        self.body(length).await;
    }

    /// Downloads so much.
    pub(super) async fn download(&mut self, bytes: u64) {
        let range = format!("Range: bytes=0-{}\r\n", bytes - 1);
        let length = self.request("GET /file", &range).await;
        assert_eq!(length, bytes);
        self.body(length).await;
    }

    /// Uploads so much, and waits until nginx has swallowed it.
    pub(super) async fn upload(&mut self, bytes: u64) {
        self.send("POST /sink", &format!("Content-Length: {bytes}\r\n"))
            .await;
        let block = vec![7; BLOCK];
        let mut left = bytes;
        while left > 0 {
            let now = left.min(BLOCK as u64);
            self.stream.write_all(&block[..now as usize]).await.unwrap();
            left -= now;
        }
        self.stream.flush().await.unwrap();
        // nginx answers at once, and reads on before it looks at the next request.
        let length = self.response().await;
        self.body(length).await;
        self.small().await;
    }

    async fn request(&mut self, what: &str, header: &str) -> u64 {
        self.send(what, header).await;
        self.response().await
    }

    async fn send(&mut self, what: &str, header: &str) {
        let request = format!("{what} HTTP/1.1\r\nHost: {}\r\n{header}\r\n", self.hostname);
        self.stream.write_all(request.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Reads the head of a response; yields the length of the body, part of which may have come already.
    async fn response(&mut self) -> u64 {
        loop {
            if let Some(end) = find(&self.block[..self.received], b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.block[..end]).unwrap();
                assert!(head.starts_with("HTTP/1.1 20"), "{head}");
                let (_, length) = head.split_once("Content-Length: ").expect("a length");
                let length = length.split("\r\n").next().unwrap().parse().unwrap();
                self.block.copy_within(end + 4..self.received, 0);
                self.received -= end + 4;
                return length;
            }
            self.read().await;
        }
    }

    async fn body(&mut self, length: u64) {
        let mut left = length;
        loop {
            let now = left.min(self.received as u64);
            left -= now;
            if left == 0 {
                self.block.copy_within(now as usize..self.received, 0);
                self.received -= now as usize;
                return;
            }
            self.received = 0;
            self.read().await;
        }
    }

    async fn read(&mut self) {
        let count = self
            .stream
            .read(&mut self.block[self.received..])
            .await
            .unwrap();
        assert_ne!(count, 0, "cut short");
        self.received += count;
    }
}

fn find(data: &[u8], what: &[u8]) -> Option<usize> {
    data.windows(what.len()).position(|window| window == what)
}
