//! PEM (RFC 7468), read more generously than it is written.
//!
//! Texts that passed through a web form, a JSON document or an editor lose their line breaks or
//! gain a byte order mark and indentation. Every reader here accepts them. Other programs that read
//! the same files do not, so [`canonical`] rewrites such a text before it is stored.

use std::borrow::Cow;

use rustls_pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// Reason that a PEM text is invalid. Reads as the continuation of "the certificate …".
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// Empty or white space.
    #[error("is empty")]
    Empty,
    /// An unterminated block or invalid base64.
    #[error("is not valid PEM (truncated or damaged)")]
    Syntax,
    /// No certificate.
    #[error("is missing: the text contains no certificate in PEM")]
    NoCertificate,
    /// No private key.
    #[error("is missing: the text contains no private key in PEM")]
    NoKey,
    /// A private key that is protected by a password.
    #[error("is encrypted with a password; remove it, for example with `openssl pkey`")]
    EncryptedKey,
    /// No certificate signing request.
    #[error("is missing: the text contains no signing request in PEM")]
    NoRequest,
    /// More certificates than the limit.
    #[error("contains more than {0} certificates")]
    TooMany(usize),
}

/// Reads all certificates of a text, at least one and at most `limit`. Blocks of other types are
/// ignored.
///
/// # Errors
/// [`PemError`] if there is none, if there are too many, or if one is damaged.
pub fn certificates(pem: &str, limit: usize) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = blocks(pem)?;
    let mut found = Vec::new();
    for item in rustls_pemfile::certs(&mut text.as_bytes()) {
        if found.len() == limit {
            return Err(PemError::TooMany(limit));
        }
        found.push(item.map_err(|_| PemError::Syntax)?);
    }
    match found.is_empty() {
        true => Err(PemError::NoCertificate),
        false => Ok(found),
    }
}

/// Reads the first private key of a text: PKCS#8, PKCS#1 or SEC1. Blocks of other types, such as EC
/// parameters, are ignored.
///
/// # Errors
/// [`PemError`] if there is none, or if it is damaged or encrypted.
pub fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, PemError> {
    let text = blocks(pem)?;
    match rustls_pemfile::private_key(&mut text.as_bytes()) {
        Ok(Some(key)) => Ok(key),
        Ok(None) if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") => {
            Err(PemError::EncryptedKey)
        }
        Ok(None) => Err(PemError::NoKey),
        Err(_) => Err(PemError::Syntax),
    }
}

/// Reads the first certificate signing request of a text.
///
/// # Errors
/// [`PemError`] if there is none, or if it is damaged.
pub fn signing_request(pem: &str) -> Result<CertificateSigningRequestDer<'static>, PemError> {
    let text = blocks(pem)?;
    match rustls_pemfile::csr(&mut text.as_bytes()) {
        Ok(Some(request)) => Ok(request),
        Ok(None) => Err(PemError::NoRequest),
        Err(_) => Err(PemError::Syntax),
    }
}

/// Returns the text unchanged if every PEM reader accepts its layout, and rewritten otherwise:
/// blocks only, with lines of 64 characters. A text that cannot be read is returned unchanged.
#[must_use]
pub fn canonical(pem: &str) -> Cow<'_, str> {
    let strict = !pem.starts_with('\u{feff}')
        && !pem.contains('\\')
        && pem.lines().all(|line| line.trim_start() == line)
        && pem.matches(BEGIN).count()
            == pem
                .lines()
                .filter(|line| line.starts_with(BEGIN) && line.trim_end().ends_with("-----"))
                .filter(|line| line.matches("-----").count() == 2)
                .count();
    match blocks(pem) {
        Ok(mut text) if !strict => Cow::Owned(std::mem::take(&mut *text)),
        _ => Cow::Borrowed(pem),
    }
}

const BEGIN: &str = "-----BEGIN ";
const END: &str = "-----END ";
const DASHES: &str = "-----";
const LINE: usize = 64;

/// Rewrites the blocks of a text with one layout. What stands between blocks is left out.
fn blocks(pem: &str) -> Result<Zeroizing<String>, PemError> {
    let pem = pem.trim_start_matches('\u{feff}');
    if pem.trim().is_empty() {
        return Err(PemError::Empty);
    }
    // One allocation, which never moves and leaves no copy of a key: a line break per line, and
    // less than 64 bytes for what the shortest block may lack.
    let mut text = Zeroizing::new(String::with_capacity(pem.len() + pem.len() / 16 + 64));
    let mut rest = pem;
    while let Some((_, block)) = rest.split_once(BEGIN) {
        let (label, body) = block.split_once(DASHES).ok_or(PemError::Syntax)?;
        let (body, after) = body.split_once(END).ok_or(PemError::Syntax)?;
        let (end_label, after) = after.split_once(DASHES).ok_or(PemError::Syntax)?;
        if label != end_label || !label.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(PemError::Syntax);
        }
        // The header of RFC 1421 that OpenSSL writes in front of an encrypted key.
        if body.contains("Proc-Type:") && body.contains("ENCRYPTED") {
            return Err(PemError::EncryptedKey);
        }
        push_block(&mut text, label, body)?;
        rest = after;
    }
    Ok(text)
}

fn push_block(text: &mut String, label: &str, body: &str) -> Result<(), PemError> {
    text.push_str(BEGIN);
    text.push_str(label);
    text.push_str(DASHES);
    let mut column = 0;
    let mut characters = body.chars();
    while let Some(character) = characters.next() {
        match character {
            'A'..='Z' | 'a'..='z' | '0'..='9' | '+' | '/' | '=' => {
                if column % LINE == 0 {
                    text.push('\n');
                }
                text.push(character);
                column += 1;
            }
            // A line break that was escaped once too often.
            '\\' => match characters.next() {
                Some('n' | 'r') => {}
                _ => return Err(PemError::Syntax),
            },
            character if character.is_whitespace() => {}
            _ => return Err(PemError::Syntax),
        }
    }
    text.push('\n');
    text.push_str(END);
    text.push_str(label);
    text.push_str(DASHES);
    text.push('\n');
    Ok(())
}
