//! A public client: like a web browser, it trusts only certificate authorities.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cloud_facade::config::{CertificateInfo, DeviceConfig};
use cloud_facade::iot::Proxy;
use cloud_net::{Connector, UntrustedText, root_cause};
use reqwest::tls::TlsInfo;
use reqwest::{Client, StatusCode, redirect};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::error::{CliError, Result};

/// Time limit for a connection with its TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit for a request, which includes that. The device may have a slow network.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// The relay serves tunnels and the public on one port.
pub(crate) const HTTPS_PORT: u16 = 443;

/// Maximum body to read. The status page is smaller; of another page, the beginning is enough.
const MAX_BODY: usize = 64 * 1024;

/// Returns the system's roots and those in `extra` (PEM).
pub(crate) fn roots(extra: Option<&[u8]>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // Some systems ship invalid roots; the others are used.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(pem) = extra {
        let failed = |error: &(dyn Error + 'static)| {
            CliError::with_cause("cannot use the root certificates", error)
        };
        for root in CertificateDer::pem_slice_iter(pem) {
            let root = root.map_err(|error| failed(&error))?;
            roots.add(root).map_err(|error| failed(&error))?;
        }
    }
    Ok(roots)
}

/// The error of [`PublicClient::fetch`].
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct FetchError {
    message: String,
    /// Whether the verified server sent no response in time.
    pub(crate) is_silent: bool,
    /// Whether the verified server demands a client certificate.
    pub(crate) is_guarded: bool,
}

impl From<FetchError> for CliError {
    fn from(error: FetchError) -> Self {
        Self::Failed(error.message)
    }
}

/// Fetches one page, reusing its connection.
#[derive(Debug)]
pub(crate) struct PublicClient {
    client: Client,
    url: String,
    host: String,
    port: u16,
    proxied: Option<Proxied>,
}

/// What a connection of its own through a proxy needs.
struct Proxied {
    connector: Connector,
    tls: TlsConnector,
}

impl fmt::Debug for Proxied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxied")
    }
}

/// The response to [`PublicClient::fetch`].
#[derive(Debug)]
pub(crate) struct PageResponse {
    /// Serial number, in decimal, of the verified certificate.
    pub(crate) serial: String,
    pub(crate) status: StatusCode,
    /// The beginning of the body.
    pub(crate) body: String,
}

impl PublicClient {
    /// Creates a client for a device whose access point has these addresses, or is reached through
    /// a proxy.
    pub(crate) fn new<R>(
        device: &DeviceConfig<R>,
        addresses: &[SocketAddr],
        proxy: Option<&Proxy>,
        roots: RootCertStore,
    ) -> Result<Self> {
        let failed = |error: &(dyn Error + 'static)| {
            CliError::with_cause("could not create an HTTP client", error)
        };
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let proxied = proxy.map(|proxy| Proxied {
            connector: Connector::new().proxy(Some(proxy.clone())),
            tls: TlsConnector::from(Arc::new(tls.clone())),
        });
        let client = match proxy {
            Some(proxy) => {
                let proxy = reqwest::Proxy::all(proxy.url()).map_err(|error| failed(&error))?;
                Client::builder().proxy(proxy)
            }
            None => Client::builder().no_proxy(),
        };
        let client = client
            .tls_backend_preconfigured(tls)
            .tls_info(true)
            .resolve_to_addrs(device.access_point.as_str(), addresses)
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Self {
            client,
            url: device.page_url(),
            host: device.access_point.to_string(),
            port: device.remote_endpoint.port_or(HTTPS_PORT),
            proxied,
        })
    }

    /// Returns the page's URL.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Fetches the page, with the certificate verified. Any status is accepted.
    ///
    /// # Errors
    /// The server could not be verified, or closed the connection.
    pub(crate) async fn fetch(&self) -> Result<PageResponse, FetchError> {
        let failed = |error: reqwest::Error| FetchError {
            // A timeout of the connection comes first.
            is_silent: error.is_timeout() && !error.is_connect(),
            is_guarded: demands_certificate(&error),
            message: format!(
                "{} cannot be fetched: {}",
                self.url,
                UntrustedText::of(&root_cause(&error))
            ),
        };
        let mut response = self.client.get(&self.url).send().await.map_err(failed)?;
        let certificate = match &self.proxied {
            Some(proxied) => proxied.certificate(&self.host, self.port).await,
            None => response
                .extensions()
                .get::<TlsInfo>()
                .and_then(TlsInfo::peer_certificate)
                .and_then(|der| CertificateInfo::from_der(&der.into())),
        };
        let serial = certificate
            .map(|certificate| certificate.serial)
            .ok_or_else(|| FetchError {
                is_silent: false,
                is_guarded: false,
                message: format!("{} presented no readable certificate", self.url),
            })?;
        let mut body = Vec::new();
        while body.len() < MAX_BODY
            && let Some(chunk) = response.chunk().await.map_err(failed)?
        {
            body.extend_from_slice(&chunk);
        }
        body.truncate(MAX_BODY);
        Ok(PageResponse {
            serial,
            status: response.status(),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

/// Returns whether a connection ended because the server demands a client certificate.
fn demands_certificate(error: &(dyn Error + 'static)) -> bool {
    let demanded = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
    let mut next = Some(error);
    while let Some(error) = next {
        // An I/O error is not the source of the error that it contains.
        let inner = error.downcast_ref().and_then(io::Error::get_ref);
        if inner.is_some_and(|inner| inner.downcast_ref() == Some(&demanded)) {
            return true;
        }
        next = error.source();
    }
    false
}

impl Proxied {
    /// Returns the server's verified certificate, which reqwest does not report for a connection
    /// through a proxy.
    async fn certificate(&self, host: &str, port: u16) -> Option<CertificateInfo> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let handshake = async {
            let stream = self.connector.connect(host, port, deadline).await.ok()?;
            let name = ServerName::try_from(host.to_owned()).ok()?;
            let stream = self.tls.connect(name, stream).await.ok()?;
            let chain = stream.get_ref().1.peer_certificates()?;
            CertificateInfo::from_der(chain.first()?)
        };
        timeout_at(deadline, handshake).await.ok()?
    }
}
