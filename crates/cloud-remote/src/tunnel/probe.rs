//! The reachability probe: a TLS handshake with the device's own access point.
//!
//! A connected tunnel shows that the relay is up, but not that the public host name leads to it, or
//! that the relay forwards connections. So the device can connect to itself in the same way as the
//! public. The peer must present the certificate that the device serves and prove that it has the
//! key. This also works for certificates of private authorities.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cloud_net::{ConnectError, Connector};
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use crate::certificate::leaf_verifier::LeafVerifier;
use crate::server::tls::CurrentCertificate;
use crate::timeouts::{MAX_DURATION, MIN_DURATION};

/// Timeout of name resolution, connection and handshake together.
const PROBE_TIMEOUT: Duration = Duration::from_secs(15);

/// Configuration of the reachability probe; see
/// [`RemoteAccessBuilder::probe`](crate::RemoteAccessBuilder::probe).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// The interval while the tunnel is connected. After a failure, the next probe follows within a
    /// minute. Default 15 min; clamped to between 100 ms and a year.
    pub interval: Duration,
    /// The host name or address to connect to. Default: the access point.
    pub host: Option<String>,
    /// The port. Default 443.
    pub port: u16,
}

impl Default for Probe {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(15 * 60),
            host: None,
            port: 443,
        }
    }
}

impl Probe {
    pub(crate) fn clamped(mut self) -> Self {
        self.interval = self.interval.clamp(MIN_DURATION, MAX_DURATION);
        self
    }
}

/// An error of the probe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("the access point cannot be connected: {0}")]
    Connect(#[from] ConnectError),
    #[error("the connection to the access point did not reach this device: {0}")]
    Handshake(#[source] io::Error),
    #[error("the access point did not respond in time")]
    TimedOut,
    #[error("the access point is not a host name")]
    Name(#[from] InvalidDnsNameError),
    #[error("the TLS configuration failed: {0}")]
    Tls(#[from] rustls::Error),
}

/// Connects once to the device's access point.
pub(crate) async fn call(
    connector: Connector,
    probe: Probe,
    access_point: String,
    served: Arc<CurrentCertificate>,
) -> Result<(), ProbeError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let is_own =
        move |certificate: &CertificateDer<'_>| served.current().cert.first() == Some(certificate);
    let verifier = LeafVerifier::new(provider.signature_verification_algorithms, is_own);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    let name = ServerName::try_from(access_point.clone())?;
    let host = probe.host.unwrap_or(access_point);
    let deadline = Instant::now() + PROBE_TIMEOUT;
    let call = async {
        let stream = connector.connect(&host, probe.port, deadline).await?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(ProbeError::Handshake)
    };
    let stream = timeout_at(deadline, call)
        .await
        .map_err(|_| ProbeError::TimedOut)??;
    drop(stream);
    Ok(())
}
