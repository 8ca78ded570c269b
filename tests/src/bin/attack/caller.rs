//! A public caller: TLS through the relay, from an address of its own.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use rustls::pki_types::ServerName;
use testkit::tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::plain_http;

/// For a TLS connection to a device that serves.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// A version of HTTP, as ALPN negotiates it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alpn {
    Http1,
    Http2,
}

/// Where a device's callers connect, and how they get an address.
#[derive(Clone)]
pub(crate) struct Entrance {
    pub(crate) address: SocketAddr,
    /// Whether a PROXY protocol header names the address; otherwise it is the one that the
    /// connection comes from.
    pub(crate) proxy_header: bool,
    pub(crate) host: String,
    /// Lines of header that callers send, each with its end.
    pub(crate) header: String,
    http1: Arc<rustls::ClientConfig>,
    http2: Arc<rustls::ClientConfig>,
}

impl Entrance {
    pub(crate) fn new(
        address: SocketAddr,
        proxy_header: bool,
        host: &str,
        ca: &str,
    ) -> Result<Self> {
        Ok(Self {
            address,
            proxy_header,
            host: host.to_owned(),
            header: String::new(),
            http1: tls::client(ca, &["http/1.1"]).into(),
            http2: tls::client(ca, &["h2"]).into(),
        })
    }

    /// A caller from this address. It must be one of 127.0.0.0/8 unless a PROXY header says it.
    pub(crate) fn caller(&self, source: impl Into<IpAddr>) -> Caller {
        Caller {
            entrance: self.clone(),
            source: source.into(),
        }
    }
}

/// See the [module](self).
#[derive(Clone)]
pub(crate) struct Caller {
    entrance: Entrance,
    source: IpAddr,
}

impl Caller {
    pub(crate) fn host(&self) -> &str {
        &self.entrance.host
    }

    /// Lines of header that the caller sends, each with its end.
    pub(crate) fn header(&self) -> &str {
        &self.entrance.header
    }

    /// The same caller with other lines of header.
    pub(crate) fn with_header(mut self, header: String) -> Self {
        self.entrance.header = header;
        self
    }

    pub(crate) async fn connect(&self, alpn: Alpn) -> Result<TlsStream<TcpStream>> {
        timeout(CONNECT_LIMIT, self.handshake(alpn))
            .await
            .context("no TLS connection in time")?
    }

    async fn handshake(&self, alpn: Alpn) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        if !self.entrance.proxy_header {
            socket.bind(SocketAddr::new(self.source, 0))?;
        }
        let mut stream = socket.connect(self.entrance.address).await?;
        stream.set_nodelay(true)?;
        if self.entrance.proxy_header {
            let (family, to) = match self.source {
                IpAddr::V4(_) => ("TCP4", "192.0.2.1"),
                IpAddr::V6(_) => ("TCP6", "2001:db8::443"),
            };
            let header = format!("PROXY {family} {} {to} 40000 443\r\n", self.source);
            stream.write_all(header.as_bytes()).await?;
        }
        let config = match alpn {
            Alpn::Http1 => &self.entrance.http1,
            Alpn::Http2 => &self.entrance.http2,
        };
        let name = ServerName::try_from(self.entrance.host.clone())?;
        Ok(TlsConnector::from(Arc::clone(config))
            .connect(name, stream)
            .await?)
    }

    /// The status of a GET over a new connection.
    pub(crate) async fn get(&self, path: &str) -> Result<u16> {
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\n{}Connection: close\r\n\r\n",
            self.host(),
            self.header()
        );
        self.send(request.as_bytes()).await
    }

    /// The status of the answer to these bytes, sent in HTTP/1.1 over a new connection.
    pub(crate) async fn send(&self, request: &[u8]) -> Result<u16> {
        let mut stream = self.connect(Alpn::Http1).await?;
        stream.write_all(request).await?;
        read_status(&mut stream).await
    }
}

/// Reads the begin of an answer in HTTP/1.1 and returns its status.
pub(crate) async fn read_status(stream: &mut TlsStream<TcpStream>) -> Result<u16> {
    let mut answer = Vec::new();
    while answer.len() < 12 {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    plain_http::status(&String::from_utf8_lossy(&answer))
        .context("the connection ended without an answer")
}
