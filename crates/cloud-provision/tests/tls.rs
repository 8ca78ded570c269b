//! Whom the client believes to be the platform.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is a test throughout"
)]

mod common;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::Version;
use axum::serve::Listener;
use cloud_provision::{Client, ProvisionError};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls_pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use common::{Api, granted, key, ok, quick};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
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
            // A client that does not like us goes away here.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// An API behind a certificate of this CA for this name.
async fn api(ca: &Ca, name: &str, expired: bool, alpn: &[&[u8]]) -> Api {
    let server_key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    if expired {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    }
    let cert = params.signed_by(&server_key, ca).unwrap();
    let private_key = PrivateKeyDer::try_from(server_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], private_key)
        .unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let listener = TlsListener {
        tcp,
        acceptor: TlsAcceptor::from(Arc::new(config)),
    };
    let answer = granted();
    Api::serve(listener, address, move |_| Some(ok(&answer)))
}

fn client(api: &Api, ca: &Ca) -> Client {
    let url = format!("https://127.0.0.1:{}", api.address.port());
    quick(Client::builder(&url))
        .additional_roots_pem(ca.pem())
        .build()
        .unwrap()
}

#[tokio::test]
async fn a_server_of_a_trusted_ca_is_asked_over_the_best_http_that_it_speaks() {
    let ca = ca();
    for (alpn, version) in [
        (
            &[b"h2".as_slice(), b"http/1.1"] as &[&[u8]],
            Version::HTTP_2,
        ),
        (&[b"http/1.1"], Version::HTTP_11),
        (&[], Version::HTTP_11),
    ] {
        let api = api(&ca, "127.0.0.1", false, alpn).await;
        client(&api, &ca).register("SN0001", &key()).await.unwrap();
        assert_eq!(api.received(0).version, version);
    }
}

#[tokio::test]
async fn a_server_that_cannot_prove_who_it_is_gets_no_key() {
    let (trusted, foreign) = (ca(), ca());
    for (api, what) in [
        (api(&foreign, "127.0.0.1", false, &[]).await, "foreign CA"),
        (
            api(&trusted, "other.example", false, &[]).await,
            "other name",
        ),
        (api(&trusted, "127.0.0.1", true, &[]).await, "expired"),
    ] {
        let error = client(&api, &trusted)
            .register("SN0001", &key())
            .await
            .unwrap_err();
        assert!(
            matches!(error, ProvisionError::Untrusted { .. }),
            "{what}: {error}"
        );
        assert!(!error.is_retryable() && !error.may_have_registered());
        assert_eq!(api.requests(), 0, "{what}");
        println!("{what}: {error}");
    }
}

#[tokio::test]
async fn a_server_without_tls_is_not_spoken_to_in_clear() {
    let api = Api::start(|_| Some(ok(&granted()))).await;
    let error = client(&api, &ca())
        .register("SN0001", &key())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ProvisionError::Untrusted { .. } | ProvisionError::Unreachable { .. }
        ),
        "{error}"
    );
    assert_eq!(api.requests(), 0);
}
