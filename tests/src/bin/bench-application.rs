//! The application of `cargo xtask bench device`, served directly over TLS or through the tunnel.
//!
//! `bench-application <certificate> <key>` listens on a free port of the loopback interface;
//! `bench-application <base path> <serial number> <API URL>` serves through the tunnel, and
//! registers the device if `CLESYDE_TOKEN` has a provisioning key. Prints a line of JSON when it
//! is ready; stops at Ctrl-C and at SIGTERM.
//!
//! `/small` is a kibibyte; `/file` is as long as the request's `Range` says; `/sink` discards a
//! body.

use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use cloud_facade::provision::ProvisioningKey;
use cloud_facade::remote::Limits;
use cloud_facade::{ClesydeCloud, Event};
use futures_util::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

type BoxError = Box<dyn Error + Send + Sync>;

/// Connections and requests that one caller may have: a load generator is one.
const LIMIT: usize = 2_048;

fn application() -> Router {
    let small = Bytes::from(vec![b's'; 1024]);
    let piece = Bytes::from(vec![b'f'; 64 * 1024]);
    let file = async move |headers: HeaderMap| {
        let length = headers
            .get(header::RANGE)
            .and_then(|range| range.to_str().ok()?.strip_prefix("bytes=0-")?.parse().ok())
            .map_or(0, |last: usize| last + 1);
        let pieces = futures_util::stream::unfold(length, move |left| {
            let now = piece.slice(..piece.len().min(left));
            let next =
                (!now.is_empty()).then(|| (Ok::<_, BoxError>(now.clone()), left - now.len()));
            std::future::ready(next)
        });
        (
            [(header::CONTENT_LENGTH, length)],
            Body::from_stream(pieces),
        )
            .into_response()
    };
    Router::new()
        .route("/small", get(async move || small.clone()))
        .route("/file", get(file))
        .route("/sink", post(discard))
}

async fn discard(body: Body) -> Result<(), StatusCode> {
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        piece.map_err(|_| StatusCode::BAD_REQUEST)?;
    }
    Ok(())
}

/// As most applications do it themselves.
async fn serve_directly(certificate: &str, key: &str) -> Result<(), BoxError> {
    let certificates = CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let tls = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!(
        r#"{{"ready": true, "address": "{}"}}"#,
        listener.local_addr()?
    );
    let service = TowerToHyperService::new(application());
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, service) = (tls.clone(), service.clone());
        tokio::spawn(async move {
            let stream = TokioIo::new(tls.accept(stream).await?);
            auto::Builder::new(TokioExecutor::new())
                .serve_connection(stream, service)
                .await
        });
    }
}

async fn serve_remotely(base: &str, serial_number: &str, api: &str) -> Result<(), BoxError> {
    let mut limits = Limits::default();
    limits.connections = LIMIT;
    limits.connections_per_address = LIMIT;
    limits.requests_per_address = LIMIT;
    let cloud = ClesydeCloud::builder(serial_number.parse()?, base, api)
        .application(application())
        .limits(limits)
        .build();
    if let Ok(key) = std::env::var("CLESYDE_TOKEN") {
        cloud.provision(&ProvisioningKey::new(&key)?).await?;
    }
    let mut events = cloud.events();
    cloud.initialize().await?;
    while !matches!(events.recv().await?, Event::RemoteConnected { .. }) {}
    println!(r#"{{"ready": true}}"#);
    std::future::pending().await
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let serve = async {
        match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [certificate, key] => serve_directly(certificate, key).await,
            [base, serial_number, api] => serve_remotely(base, serial_number, api).await,
            _ => Err(
                "usage: bench-application <certificate> <key> | <base path> <serial number> <API URL>"
                    .into(),
            ),
        }
    };
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        ended = serve => ended,
        stopped = tokio::signal::ctrl_c() => Ok(stopped?),
        _ = terminate.recv() => Ok(()),
    }
}
