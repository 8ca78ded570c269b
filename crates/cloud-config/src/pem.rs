//! PEM parsing. Only this module uses rustls-pemfile.
//!
//! It never writes PEM: the store keeps the original text, byte for byte.

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// Maximum number of certificates in one text. A chain has three or four; the roots of one service are a handful.
pub(crate) const MAX_CERTIFICATES: usize = 64;

/// Reason that a PEM text is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// Empty or white space.
    #[error("is empty")]
    Empty,
    /// An unterminated block or invalid base64.
    #[error("is not valid PEM (truncated or damaged)")]
    Syntax,
    /// A leading byte order mark, which the Python library rejects too.
    #[error("begins with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// No certificate.
    #[error("contains no certificate")]
    NoCertificate,
    /// No private key (PKCS#8, PKCS#1, and SEC1 are supported; encrypted keys are not).
    #[error("contains no private key (encrypted keys are not supported)")]
    NoKey,
    /// Too many certificates.
    #[error("contains more than {MAX_CERTIFICATES} certificates")]
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
    // An unterminated block ends the iterator without an error.
    match (
        found.len(),
        pem.matches("-----BEGIN CERTIFICATE-----").count(),
    ) {
        (0, 0) => Err(PemError::NoCertificate),
        (read, started) if read < started => Err(PemError::Syntax),
        _ => Ok(found),
    }
}

/// Returns the first private key in the text.
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
