//! The authorities that issue client certificates.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};

use crate::clock::PlatformClock;

/// Maximum number of authorities. TLS sends their names to each caller.
const MAX_ROOTS: usize = 64;

/// The authorities that issue client certificates. Clones share them.
///
/// A certificate is accepted if it, or an intermediate authority that the client sends, is signed
/// by one of them; within its dates; and if it has no extended key usages or the one of clients.
/// There is no revocation: to take a certificate back, replace the authority, or give certificates
/// a short life.
#[derive(Clone)]
pub struct ClientRoots(Arc<Verifier>);

struct Verifier {
    store: RootCertStore,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// An error of creating [`ClientRoots`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClientRootsError {
    /// The text has no certificates, damaged ones, or too many.
    #[error("the certificate of an authority {0}")]
    Pem(#[from] cloud_pki::pem::PemError),
    /// A certificate cannot be an authority.
    #[error("a certificate cannot be used as an authority: {0}")]
    Certificate(String),
}

impl ClientRoots {
    /// Reads the certificates of one or more authorities in PEM.
    ///
    /// # Errors
    /// [`ClientRootsError`].
    pub fn from_pem(pem: &str) -> Result<Self, ClientRootsError> {
        let mut store = RootCertStore::empty();
        for certificate in cloud_pki::pem::certificates(pem, MAX_ROOTS)? {
            store.add(certificate).map_err(refused)?;
        }
        Self::new(store)
    }

    fn new(store: RootCertStore) -> Result<Self, ClientRootsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::new(store.clone()), provider);
        let verifier = builder.build().map_err(refused)?;
        Ok(Self(Arc::new(Verifier { store, verifier })))
    }

    /// Returns the authorities of both.
    pub(super) fn with(&self, other: &Self) -> Result<Self, ClientRootsError> {
        let mut store = self.0.store.clone();
        store.extend(other.0.store.roots.iter().cloned());
        Self::new(store)
    }

    /// Returns the verifier for handshakes.
    pub(crate) fn tls_verifier(
        &self,
        demand: ClientCertificates,
        clock: PlatformClock,
    ) -> Arc<dyn ClientCertVerifier> {
        let verifier = Arc::clone(&self.0.verifier);
        Arc::new(TlsVerifier {
            verifier,
            demand,
            clock,
        })
    }

    pub(super) fn verify(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let verified = self
            .0
            .verifier
            .verify_client_cert(certificate, intermediates, now);
        verified.map(drop)
    }

    /// Returns whether this is the same value, not only the same content.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What TLS asks of a client, if there are rules for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClientCertificates {
    /// A certificate, if it has one.
    Optional,
    /// A certificate.
    Required,
}

/// rustls' verifier, by the platform's clock.
#[derive(Debug)]
struct TlsVerifier {
    verifier: Arc<dyn ClientCertVerifier>,
    demand: ClientCertificates,
    clock: PlatformClock,
}

impl ClientCertVerifier for TlsVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.demand == ClientCertificates::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verifier
            .verify_client_cert(certificate, intermediates, self.clock.for_rustls())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

fn refused(error: impl fmt::Display) -> ClientRootsError {
    ClientRootsError::Certificate(error.to_string())
}

impl fmt::Debug for ClientRoots {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "ClientRoots({})", self.0.store.len())
    }
}

#[cfg(test)]
mod tests {
    use testkit::pki::Authority;

    use super::*;

    #[test]
    fn text_without_an_authority_is_refused() {
        for (pem, part) in [
            ("", "is empty"),
            ("hello", "no certificate in PEM"),
            (
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----",
                "cannot be used",
            ),
        ] {
            let error = ClientRoots::from_pem(pem).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let pem = Authority::new("one").pem() + &Authority::new("two").pem();
        assert_eq!(
            format!("{:?}", ClientRoots::from_pem(&pem).unwrap()),
            "ClientRoots(2)"
        );
    }
}
