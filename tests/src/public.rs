//! A public client: TLS through the relay, with the device's certificate verified.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Opens a verified TLS connection to `host` through the relay.
pub async fn connect(
    relay: SocketAddr,
    host: &str,
    ca_pem: &str,
) -> anyhow::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(relay).await.context("no relay")?;
    stream.set_nodelay(true)?;
    let connector = TlsConnector::from(Arc::new(testkit::tls::client(ca_pem, &[])));
    let name = ServerName::try_from(host.to_owned())?;
    Ok(connector.connect(name, stream).await?)
}

/// An HTTP client that reaches `host` through the relay and verifies its certificate.
pub fn http_client(relay: SocketAddr, host: &str, ca_pem: &str) -> anyhow::Result<reqwest::Client> {
    let config = testkit::tls::client(ca_pem, &["h2", "http/1.1"]);
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(config)
        .resolve(host, relay)
        .no_proxy()
        .pool_max_idle_per_host(0)
        .build()?)
}

/// Fetches `https://{host}/{path}` through the relay.
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
