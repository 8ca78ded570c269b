//! Certificates and private keys in PEM, read with the parsers that TLS uses.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, SubjectPublicKeyInfoDer};
use zeroize::Zeroize;

use crate::secret::PrivateKeyPem;

/// Parses a PEM text that must hold at least one certificate and no unreadable one.
pub(crate) fn certificates(pem: &str) -> Option<Vec<CertificateDer<'static>>> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .ok()?;
    // An unterminated block ends the iterator without an error.
    (!found.is_empty() && found.len() == pem.matches("-----BEGIN CERTIFICATE-----").count())
        .then_some(found)
}

/// Reports whether every certificate in the text can serve as a trust anchor.
pub(crate) fn are_roots(pem: &str) -> bool {
    let mut store = RootCertStore::empty();
    certificates(pem).is_some_and(|roots| roots.into_iter().all(|root| store.add(root).is_ok()))
}

/// Loads the key for TLS, or returns `None` if TLS does not support it.
pub(crate) fn signer(key: &PrivateKeyPem) -> Option<Arc<dyn SigningKey>> {
    let mut key = PrivateKeyDer::from_pem_slice(key.expose_secret().as_bytes()).ok()?;
    let signer = any_supported_type(&key).ok();
    // Only the encoded form inside the signer outlives this function.
    key.zeroize();
    signer
}

/// Derives the public key from a private key, or returns `None` if TLS does not support the key.
pub(crate) fn public_key_of(key: &PrivateKeyPem) -> Option<SubjectPublicKeyInfoDer<'static>> {
    Some(signer(key)?.public_key()?.into_owned())
}
