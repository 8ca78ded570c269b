//! PEM text in, DER out. The only place that knows rustls-pemfile.
//!
//! It reads, it never writes: what is stored is the text as it came, byte for byte.

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Most certificates taken from one text. A chain has three or four; a file of roots for one service, a handful.
pub(crate) const MAX_CERTIFICATES: usize = 64;

/// What is wrong with a PEM text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// Nothing but white space.
    #[error("is empty")]
    Empty,
    /// A block that is not closed, or whose base64 is broken.
    #[error("is not valid PEM (cut off, or damaged)")]
    Syntax,
    /// A Windows editor's mark stands before it, which neither this crate nor the Python library would read over.
    #[error("begins with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// Valid, but there is no certificate in it.
    #[error("holds no certificate")]
    NoCertificate,
    /// Valid, but there is no private key in it (PKCS#8, PKCS#1 and SEC1 are known; an encrypted one is not).
    #[error("holds no private key (encrypted keys are not supported)")]
    NoKey,
    /// More certificates than anything we talk to needs.
    #[error("holds more than {MAX_CERTIFICATES} certificates")]
    TooMany,
}

fn check_text(pem: &str) -> Result<(), PemError> {
    if pem.trim().is_empty() {
        return Err(PemError::Empty);
    }
    if pem.starts_with('\u{feff}') {
        return Err(PemError::ByteOrderMark);
    }
    Ok(())
}

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    check_text(pem)?;
    let mut found = Vec::new();
    for item in rustls_pemfile::certs(&mut pem.as_bytes()) {
        if found.len() == MAX_CERTIFICATES {
            return Err(PemError::TooMany);
        }
        found.push(item.map_err(|_| PemError::Syntax)?);
    }
    // An opened and never closed block ends the iterator without an error.
    match (
        found.len(),
        pem.matches("-----BEGIN CERTIFICATE-----").count(),
    ) {
        (0, 0) => Err(PemError::NoCertificate),
        (read, begun) if read < begun => Err(PemError::Syntax),
        _ => Ok(found),
    }
}

/// The first private key in the text.
pub(crate) fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, PemError> {
    check_text(pem)?;
    match rustls_pemfile::private_key(&mut pem.as_bytes()) {
        Ok(Some(key)) => Ok(key),
        Ok(None) if pem.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") => Err(PemError::NoKey),
        Ok(None) if pem.contains("PRIVATE KEY-----") => Err(PemError::Syntax),
        Ok(None) => Err(PemError::NoKey),
        Err(_) => Err(PemError::Syntax),
    }
}
