//! Options of the reverse proxy.

use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::certificate::leaf_verifier::LeafVerifier;
use crate::certificate_pin::CertificatePin;
use crate::request_policy::host::host_of;
use crate::timeouts::MAX_DURATION;
use crate::upstream::UpstreamStream;

/// How the reverse proxy talks to the application; see
/// [`Application::forward_with`](crate::Application::forward_with).
///
/// ```
/// use cloud_remote::{ForwardOptions, UpstreamProtocol};
///
/// let options = ForwardOptions::new().protocol(UpstreamProtocol::Http2);
/// # let _ = options;
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct ForwardOptions {
    pub(super) protocol: UpstreamProtocol,
    pub(super) title_case_headers: bool,
    pub(super) restart_wait: Duration,
    pub(super) host_header: Option<HeaderValue>,
    pub(super) forwarded_headers: bool,
}

impl Default for ForwardOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl ForwardOptions {
    /// Creates the default options: HTTP/1.1, the request's host, headers about the caller, names
    /// of header fields in lower case, and 2 s for a restart.
    pub fn new() -> Self {
        Self {
            protocol: UpstreamProtocol::Http1,
            title_case_headers: false,
            restart_wait: Duration::from_secs(2),
            host_header: None,
            forwarded_headers: true,
        }
    }

    /// Sets the protocol.
    pub fn protocol(mut self, protocol: UpstreamProtocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Sends the names of header fields as `Content-Length` instead of `content-length`, over
    /// HTTP/1.1, for an application that compares them by case.
    pub fn title_case_headers(mut self, enabled: bool) -> Self {
        self.title_case_headers = enabled;
        self
    }

    /// Sends this `Host` to the application instead of the one in the request, for an application
    /// that answers for its own name only. A redirect to that name leads to the public one.
    pub fn host_header(mut self, host: SentHost) -> Self {
        self.host_header = Some(host.0);
        self
    }

    /// Sets whether the application gets `Forwarded` and `X-Forwarded-For`, `-Proto` and `-Host`.
    /// Default: it does. Those that the caller sent are removed in any case.
    pub fn forwarded_headers(mut self, enabled: bool) -> Self {
        self.forwarded_headers = enabled;
        self
    }

    /// Sets how long requests wait for an application that refuses connections, as one does that is
    /// being restarted. Counts from the first refusal, so that callers of an application that stays
    /// away do not wait. Zero disables it. Durations over a year are clamped to a year.
    pub fn restart_wait(mut self, wait: Duration) -> Self {
        self.restart_wait = wait.min(MAX_DURATION);
        self
    }
}

/// A host with or without a port, for [`ForwardOptions::host_header`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentHost(HeaderValue);

/// An error of parsing a [`SentHost`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a host with or without a port, such as localhost or app.example.com:8080")]
#[non_exhaustive]
pub struct SentHostError;

impl FromStr for SentHost {
    type Err = SentHostError;

    fn from_str(text: &str) -> Result<Self, SentHostError> {
        let value = HeaderValue::from_str(text).map_err(|_| SentHostError)?;
        host_of(&value).map(|_| Self(value)).ok_or(SentHostError)
    }
}

/// The protocol of the application.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum UpstreamProtocol {
    /// HTTP/1.1 without TLS.
    Http1,
    /// HTTP/2 without TLS, with prior knowledge (RFC 9113 §3.3). WebSockets are not supported.
    Http2,
    /// TLS with HTTP/2 or HTTP/1.1, as the application chooses.
    Tls(UpstreamTls),
}

impl UpstreamProtocol {
    pub(super) fn may_be_http2(&self) -> bool {
        !matches!(self, Self::Http1)
    }

    pub(super) fn may_be_http1(&self) -> bool {
        !matches!(self, Self::Http2)
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }
}

/// TLS towards the application, whose certificate is verified.
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
    /// For upgrades, which HTTP/2 does not have.
    http1_config: Arc<ClientConfig>,
}

/// An error of creating an [`UpstreamTls`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UpstreamTlsError {
    /// The name is neither a host name nor an IP address.
    #[error(
        "the application's certificate cannot be verified for this name: use a host name or an IP address"
    )]
    Name,
    /// TLS cannot be configured.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl UpstreamTls {
    /// Verifies the application's certificate for `name`, a host name or an IP address, against
    /// these roots.
    ///
    /// # Errors
    /// [`UpstreamTlsError`].
    pub fn new(name: &str, roots: RootCertStore) -> Result<Self, UpstreamTlsError> {
        let name = ServerName::try_from(name.to_owned()).map_err(|_| UpstreamTlsError::Name)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let http1_config = Arc::new(config.clone());
        config.alpn_protocols.insert(0, b"h2".to_vec());
        Ok(Self {
            name,
            config: Arc::new(config),
            http1_config,
        })
    }

    /// Verifies the application by the fingerprint of its certificate, one of `pins`, and not by
    /// roots, names and dates. `name` is sent to it.
    ///
    /// # Errors
    /// [`UpstreamTlsError`].
    pub fn pinned(
        name: &str,
        pins: impl IntoIterator<Item = CertificatePin>,
    ) -> Result<Self, UpstreamTlsError> {
        let mut tls = Self::new(name, RootCertStore::empty())?;
        let pins: Vec<_> = pins.into_iter().collect();
        let provider = tls.config.crypto_provider();
        let verifier: Arc<dyn ServerCertVerifier> = Arc::new(LeafVerifier::new(
            provider.signature_verification_algorithms,
            move |certificate: &CertificateDer<'_>| pins.contains(&CertificatePin::of(certificate)),
        ));
        for config in [&mut tls.config, &mut tls.http1_config] {
            let mut dangerous = Arc::make_mut(config).dangerous();
            dangerous.set_certificate_verifier(Arc::clone(&verifier));
        }
        Ok(tls)
    }

    /// Returns the encrypted stream, and whether it carries HTTP/2.
    pub(super) async fn connect(
        &self,
        stream: UpstreamStream,
        upgrade: bool,
    ) -> io::Result<(TlsStream<UpstreamStream>, bool)> {
        let config = if upgrade {
            &self.http1_config
        } else {
            &self.config
        };
        let connector = TlsConnector::from(Arc::clone(config));
        let stream = connector.connect(self.name.clone(), stream).await?;
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((stream, is_http2))
    }
}
