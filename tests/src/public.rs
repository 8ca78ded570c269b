//! The public at the other end: a TLS client that verifies the device's certificate through a relay.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// A client configuration that trusts the certificates in `ca_pem` and offers `alpn`.
pub fn client_config(ca_pem: &str, alpn: &[&[u8]]) -> anyhow::Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Opens a verified TLS connection to `host` by way of the relay.
pub async fn connect(
    relay: SocketAddr,
    host: &str,
    ca_pem: &str,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(relay).await.context("no relay")?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(client_config(ca_pem, &[])?);
    let name = ServerName::try_from(host.to_owned())?;
    Ok(connector.connect(name, stream).await?)
}

/// An HTTP client that reaches `host` by way of the relay and verifies its certificate.
pub fn http_client(relay: SocketAddr, host: &str, ca_pem: &str) -> anyhow::Result<reqwest::Client> {
    let config = client_config(ca_pem, &[b"h2", b"http/1.1"])?;
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured((*config).clone())
        .resolve(host, relay)
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()?)
}

/// Fetches `https://{host}/{path}` by way of the relay.
pub async fn fetch(
    relay: SocketAddr,
    host: &str,
    ca_pem: &str,
    path: &str,
) -> anyhow::Result<String> {
    let url = format!("https://{host}:{}/{path}", relay.port());
    let answer = http_client(relay, host, ca_pem)?
        .get(url)
        .send()
        .await?
        .error_for_status()?;
    Ok(answer.text().await?)
}

/// The decimal serial number of the leaf certificate that a verified connection to `host` gets.
pub async fn served_serial(relay: SocketAddr, host: &str, ca_pem: &str) -> anyhow::Result<String> {
    let stream = connect(relay, host, ca_pem).await?;
    let leaf = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(<[_]>::first)
        .context("no certificate")?;
    let (_, certificate) = x509_parser::parse_x509_certificate(leaf)?;
    Ok(certificate.serial.to_str_radix(10))
}
