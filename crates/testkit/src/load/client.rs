//! A TLS client that speaks just enough HTTP/1.1 for a benchmark, on one thread.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls;

/// Size of reads and writes. TLS records are taken from a buffer of this size: rustls by itself
/// would read 4 KiB at a time.
const BLOCK: usize = 256 * 1024;
/// Timeout of each exchange.
const LIMIT: Duration = Duration::from_secs(60);

/// Where a client connects to.
#[derive(Debug, Clone)]
pub struct Target {
    /// The address.
    pub address: SocketAddr,
    /// The host name that the client requests.
    pub hostname: String,
}

/// State shared by all connections.
pub struct Client {
    connector: TlsConnector,
}

/// A connection over HTTP/1.1.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<BufReader<TcpStream>>,
    hostname: String,
    block: Vec<u8>,
    /// Received bytes at the start of the block that are not yet used.
    received: usize,
}

impl Client {
    /// Creates a client that trusts only these certificates, and offers one protocol by ALPN if it
    /// is named.
    pub fn new(certificates: &str, protocol: &[&str]) -> Self {
        let mut config = tls::client(certificates, protocol);
        // Each new connection does a full handshake.
        config.resumption = rustls::client::Resumption::disabled();
        Self {
            connector: TlsConnector::from(Arc::new(config)),
        }
    }

    /// Opens a connection.
    pub async fn connect(&self, target: &Target) -> Connection {
        Connection {
            stream: self.tls(target).await,
            hostname: target.hostname.clone(),
            block: vec![0; BLOCK],
            received: 0,
        }
    }

    /// Opens a connection without HTTP.
    pub(super) async fn tls(&self, target: &Target) -> TlsStream<BufReader<TcpStream>> {
        let tcp = TcpStream::connect(target.address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from(target.hostname.clone()).unwrap();
        let tcp = BufReader::with_capacity(BLOCK, tcp);
        let connecting = tokio::time::timeout(LIMIT, self.connector.connect(name, tcp));
        connecting.await.expect("in time").unwrap()
    }
}

impl Connection {
    /// Sends a small request and reads the response.
    pub async fn small(&mut self) {
        let length = self.request("GET /small", "").await;
        self.body(length).await;
    }

    /// Downloads this many bytes.
    pub async fn download(&mut self, bytes: u64) {
        let range = format!("Range: bytes=0-{}\r\n", bytes - 1);
        let length = self.request("GET /file", &range).await;
        assert_eq!(length, bytes);
        self.body(length).await;
    }

    /// Downloads this many bytes, 64 KiB at a time, while `more` says so, which is asked after
    /// each.
    pub async fn download_while(&mut self, bytes: u64, more: impl Fn() -> bool) {
        let range = format!("Range: bytes=0-{}\r\n", bytes - 1);
        let length = self.request("GET /file", &range).await;
        let mut left = length.saturating_sub(std::mem::take(&mut self.received) as u64);
        while left > 0 && more() {
            let piece = &mut self.block[..64 * 1024];
            let wanted = left.min(piece.len() as u64) as usize;
            self.stream.read_exact(&mut piece[..wanted]).await.unwrap();
            left -= wanted as u64;
        }
    }

    /// Downloads this many bytes at no more than `rate` bytes per second.
    pub async fn download_at(&mut self, bytes: u64, rate: f64) {
        /// The runtime's timers are no finer than 1 ms.
        const AHEAD: Duration = Duration::from_millis(2);
        let range = format!("Range: bytes=0-{}\r\n", bytes - 1);
        let length = self.request("GET /file", &range).await;
        assert_eq!(length, bytes);
        let start = Instant::now();
        let mut done = std::mem::take(&mut self.received) as u64;
        while done < bytes {
            let ahead = Duration::from_secs_f64(done as f64 / rate).saturating_sub(start.elapsed());
            if ahead > AHEAD {
                tokio::time::sleep(ahead).await;
            }
            self.read().await;
            done += std::mem::take(&mut self.received) as u64;
        }
    }

    /// Uploads this many bytes, and waits until nginx has read them.
    pub async fn upload(&mut self, bytes: u64) {
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
                let length = head
                    .lines()
                    .filter_map(|line| line.split_once(": "))
                    .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                    .expect("a length");
                let length = length.1.parse().unwrap();
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
