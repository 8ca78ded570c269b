//! An API over TLS with its own certificate authority.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::serve::Listener;
use rcgen::{CertificateParams, date_time_ymd};
use testkit::pki::Authority;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::{Api, granted, ok};

pub(crate) type Ca = Authority;

pub(crate) fn ca() -> Ca {
    Authority::new("test CA")
}

struct TlsListener {
    tcp: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, address) = self.tcp.accept().await.unwrap();
            // A client that rejects the certificate disconnects here.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// Validity of a server's certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dates {
    Now,
    Past,
    Future,
}

/// Starts an API with a certificate from this CA for this name.
pub(crate) async fn api(ca: &Ca, name: &str, dates: Dates, alpn: &[&[u8]]) -> Api {
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    let years = match dates {
        Dates::Now => None,
        Dates::Past => Some((2019, 2020)),
        Dates::Future => Some((2098, 2099)),
    };
    if let Some((from, to)) = years {
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(to, 1, 1);
    }
    let mut config = testkit::tls::server(&ca.sign(&params));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let listener = TlsListener {
        tcp,
        acceptor: TlsAcceptor::from(Arc::new(config)),
    };
    let answer = granted();
    Api::serve(listener, address, move |_, _| Some(ok(&answer)))
}
