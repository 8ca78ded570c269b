//! A verifier that looks at the server's certificate alone, for certificates that no authority has
//! to issue.

use std::fmt;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Accepts a server whose certificate `accepts` holds for, and which proves that it has the key.
/// Names, dates and the issuer are not checked.
pub(crate) struct LeafVerifier<F> {
    accepts: F,
    algorithms: WebPkiSupportedAlgorithms,
}

impl<F> LeafVerifier<F>
where
    F: Fn(&CertificateDer<'_>) -> bool + Send + Sync,
{
    pub(crate) fn new(algorithms: WebPkiSupportedAlgorithms, accepts: F) -> Self {
        Self {
            accepts,
            algorithms,
        }
    }
}

impl<F> fmt::Debug for LeafVerifier<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeafVerifier")
    }
}

impl<F> ServerCertVerifier for LeafVerifier<F>
where
    F: Fn(&CertificateDer<'_>) -> bool + Send + Sync,
{
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if (self.accepts)(certificate) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
