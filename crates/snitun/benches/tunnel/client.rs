//! A TLS client that speaks just enough HTTP/1.1 for nginx, on one thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Size of reads and writes. TLS records are taken from a buffer of this size: rustls by itself
/// would read 4 KiB at a time.
const BLOCK: usize = 256 * 1024;
/// Timeout of each exchange.
const LIMIT: Duration = Duration::from_secs(60);

/// State shared by all connections.
pub(super) struct Client {
    connector: TlsConnector,
}

/// A connection to nginx through one of the routes.
pub(super) struct Connection {
    stream: TlsStream<BufReader<TcpStream>>,
    hostname: &'static str,
    block: Vec<u8>,
    /// Received bytes at the start of the block that are not yet used.
    received: usize,
}

impl Client {
    /// Creates a client that trusts only this certificate.
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
        // Each new connection does a full handshake.
        config.resumption = rustls::client::Resumption::disabled();
        Self {
            connector: TlsConnector::from(Arc::new(config)),
        }
    }

    pub(super) async fn connect(&self, address: SocketAddr, hostname: &'static str) -> Connection {
        let tcp = TcpStream::connect(address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from(hostname).unwrap();
        let tcp = BufReader::with_capacity(BLOCK, tcp);
        let connecting = tokio::time::timeout(LIMIT, self.connector.connect(name, tcp));
        Connection {
            stream: connecting.await.expect("in time").unwrap(),
            hostname,
            block: vec![0; BLOCK],
            received: 0,
        }
    }
}

impl Connection {
    /// Sends a small request and reads the response.
    pub(super) async fn small(&mut self) {
        let length = self.request("GET /small", "").await;
        self.body(length).await;
    }

    /// Downloads this many bytes.
    pub(super) async fn download(&mut self, bytes: u64) {
        let range = format!("Range: bytes=0-{}\r\n", bytes - 1);
        let length = self.request("GET /file", &range).await;
        assert_eq!(length, bytes);
        self.body(length).await;
    }

    /// Uploads this many bytes, and waits until nginx has read them.
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
        // nginx responds at once, and reads on before it handles the next request.
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

    /// Reads the head of a response; returns the length of the body, part of which may have arrived
    /// already.
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
