//! The web application of the tests: downloads and uploads of known bytes, and a page that waits
//! for several callers.

use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::routing::{get, post};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use testkit::pki::Pair;

/// `GET /bytes/N` sends N bytes of [`pattern`], `POST /digest` answers with the SHA-256 of what it
/// got, and `GET /meet` answers once `visitors` requests are waiting there.
pub fn application(visitors: usize) -> Router {
    Router::new()
        .route(
            "/bytes/{count}",
            get(|Path(count): Path<usize>| async move { Body::from(pattern(count)) }),
        )
        .route("/digest", post(|body: Bytes| async move { digest(&body) }))
        .route(
            "/meet",
            get(|State(barrier): State<Arc<Barrier>>| async move {
                barrier.wait().await;
                "met"
            }),
        )
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(Arc::new(Barrier::new(visitors)))
}

/// Bytes with a long period, so that a lost or repeated part changes the digest.
pub fn pattern(count: usize) -> Vec<u8> {
    (0..count as u64)
        .map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
        .collect()
}

/// SHA-256 in hex.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// An HTTPS server on a loopback port, without any crate of ours. Ends when dropped.
#[derive(Debug)]
pub struct Origin {
    /// The listen address.
    pub address: std::net::SocketAddr,
    _server: JoinSet<()>,
}

impl Origin {
    /// Serves `application` under `certificate`.
    pub async fn start(certificate: &Pair, application: Router) -> anyhow::Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(testkit::tls::server(certificate)));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr().context("no address")?;
        let mut server = JoinSet::new();
        server.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, service) = (
                    acceptor.clone(),
                    TowerToHyperService::new(application.clone()),
                );
                connections.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let builder = auto::Builder::new(TokioExecutor::new());
                    // The client checks how a connection ends.
                    let _ = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Ok(Self {
            address,
            _server: server,
        })
    }
}
