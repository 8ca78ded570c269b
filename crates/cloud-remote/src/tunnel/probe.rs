//! Looks from outside whether the public reaches this device: a TLS handshake with its own access point.
//!
//! A tunnel that is connected says that the relay is there, not that the public's name leads to it, or that the relay lets
//! callers through. So the device may call itself up, the way that the public does. What answers has to show the very
//! certificate that the device serves and to prove that it has the key: that is known here better than any authority knows
//! it, and holds for certificates of private authorities too.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::server::tls::CurrentCertificate;
use crate::timeouts::{MAX_DURATION, MIN_DURATION};
use crate::tunnel::{self, TunnelError};

/// For the name, the connection and the handshake together.
const LIMIT: Duration = Duration::from_secs(15);

/// Whether and how remote access looks from outside whether it is reachable; see
/// [`RemoteAccessBuilder::probe`](crate::RemoteAccessBuilder::probe).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// How often, while the tunnel is connected. After a failure it is looked again within a minute. Default 15 min; less than
    /// 100 ms counts as that, and more than a year as a year.
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

/// Why the access point does not seem reachable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProbeError {
    #[error("the access point's name cannot be resolved: {0}")]
    Resolve(#[source] io::Error),
    #[error("the access point cannot be connected: {0}")]
    Connect(#[source] TunnelError),
    #[error("the access point did not let the call through to this device: {0}")]
    Handshake(#[source] io::Error),
    #[error("the access point did not answer in time")]
    TimedOut,
    #[error("the access point is not a host name")]
    Name(#[from] InvalidDnsNameError),
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Calls the device up once.
pub(crate) async fn call(
    probe: Probe,
    access_point: String,
    served: Arc<CurrentCertificate>,
) -> Result<(), ProbeError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(OwnCertificateVerifier { served, algorithms }))
        .with_no_client_auth();
    let name = ServerName::try_from(access_point.clone())?;
    let host = probe.host.unwrap_or(access_point);
    let call = async {
        let stream = tunnel::dial(&host, probe.port)
            .await
            .map_err(|error| match error {
                TunnelError::Resolve(error) => ProbeError::Resolve(error),
                error => ProbeError::Connect(error),
            })?;
        TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(ProbeError::Handshake)
    };
    let stream = timeout(LIMIT, call)
        .await
        .map_err(|_| ProbeError::TimedOut)??;
    drop(stream);
    Ok(())
}

/// Accepts the certificate that this device serves, and no other.
#[derive(Debug)]
struct OwnCertificateVerifier {
    served: Arc<CurrentCertificate>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for OwnCertificateVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.served.current().cert.first() == Some(end_entity) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
