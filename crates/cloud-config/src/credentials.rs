//! A certificate chain with its private key, and the trusted roots.
//!
//! Invariants: a [`Credentials`] value exists only if the key belongs to the first certificate; the
//! key is zeroized on drop and displayed as `[redacted]`; the PEM text is unchanged, because it is
//! what is stored.

use std::fmt;

use cloud_pki::key::{self, KeyError, PairError};
use cloud_pki::pem::{self, PemError};
use rustls::RootCertStore;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::certificate::CertificateInfo;

/// Maximum PEM length in bytes. A chain of four RSA-4096 certificates has 10 KiB; a full set of
/// public roots 220.
pub const MAX_PEM: usize = 256 * 1024;

/// Maximum number of certificates in one text: a full set of public roots has about 150.
const MAX_CERTIFICATES: usize = 512;

/// Reason that a certificate, a key, or a pair of them cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialsError {
    /// The certificate text cannot be read.
    #[error("the certificate {0}")]
    Certificate(#[source] PemError),
    /// Valid PEM, but not an X.509 certificate.
    #[error("the certificate is not valid X.509")]
    NotX509,
    /// The key text cannot be read.
    #[error("the private key {0}")]
    Key(#[source] PemError),
    /// A damaged key, or one of a type that TLS cannot use.
    #[error("the private key {0}")]
    UnusableKey(#[source] KeyError),
    /// Both are valid but do not belong together.
    #[error("the private key does not belong to the certificate")]
    Mismatch,
    /// More than [`MAX_PEM`] bytes.
    #[error("the text is longer than {MAX_PEM} bytes")]
    TooLong,
}

/// A private key: PEM for storage, DER for TLS. Zeroized on drop.
struct SecretKey {
    pem: Zeroizing<String>,
    der: PrivateKeyDer<'static>,
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.der.zeroize();
    }
}

/// A certificate chain (leaf first) and its leaf's private key.
///
/// ```
/// # let made = rcgen::generate_simple_self_signed(vec!["device.example".to_owned()]).unwrap();
/// # let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
/// use cloud_config::Credentials;
///
/// let credentials = Credentials::from_pem(&chain, &key)?;
/// assert_eq!(credentials.info().names, ["device.example"]);
/// assert!(!format!("{credentials:?}").contains("PRIVATE"));
/// # Ok::<(), cloud_config::CredentialsError>(())
/// ```
pub struct Credentials {
    chain_pem: String,
    chain: Vec<CertificateDer<'static>>,
    key: SecretKey,
    info: CertificateInfo,
}

impl Credentials {
    /// Parses a chain and a key (PKCS#8, PKCS#1, or SEC1) and verifies that they belong together.
    ///
    /// # Errors
    /// [`CredentialsError`], which names the invalid one. A retry cannot help.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, CredentialsError> {
        let (parsed, info) = read_chain(chain)?;
        let key = read_key(&parsed, key)?;
        Ok(Self {
            chain_pem: chain.to_owned(),
            chain: parsed,
            key,
            info,
        })
    }

    /// Returns the chain, leaf first. Never empty.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// Returns a copy of the private key for a TLS configuration, with its public part.
    #[must_use]
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.der.clone_key()
    }

    /// Returns the unchanged PEM of the chain.
    #[must_use]
    pub fn chain_pem(&self) -> &str {
        &self.chain_pem
    }

    /// Returns the unchanged PEM of the private key: a secret, for storage only.
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key.pem
    }

    /// Returns the leaf's readable content.
    #[must_use]
    pub fn info(&self) -> &CertificateInfo {
        &self.info
    }
}

impl Clone for Credentials {
    fn clone(&self) -> Self {
        let key = SecretKey {
            pem: self.key.pem.clone(),
            der: self.key.der.clone_key(),
        };
        Self {
            chain_pem: self.chain_pem.clone(),
            chain: self.chain.clone(),
            key,
            info: self.info.clone(),
        }
    }
}

impl PartialEq for Credentials {
    /// Compares the PEM texts byte for byte.
    fn eq(&self, other: &Self) -> bool {
        self.chain_pem == other.chain_pem && self.key.pem == other.key.pem
    }
}

impl Eq for Credentials {}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("subject", &self.info.subject)
            .field("serial", &self.info.serial)
            .field("key", &format_args!("[redacted]"))
            .finish()
    }
}

fn read_chain(
    pem: &str,
) -> Result<(Vec<CertificateDer<'static>>, CertificateInfo), CredentialsError> {
    if pem.len() > MAX_PEM {
        return Err(CredentialsError::TooLong);
    }
    let chain = pem::certificates(pem, MAX_CERTIFICATES).map_err(CredentialsError::Certificate)?;
    let mut infos = chain.iter().map(CertificateInfo::from_der);
    let leaf = infos.next().flatten().ok_or(CredentialsError::NotX509)?;
    if infos.any(|info| info.is_none()) {
        return Err(CredentialsError::NotX509);
    }
    Ok((chain, leaf))
}

/// Reads a key and checks that it belongs to the chain.
fn read_key(chain: &[CertificateDer<'static>], pem: &str) -> Result<SecretKey, CredentialsError> {
    if pem.len() > MAX_PEM {
        return Err(CredentialsError::TooLong);
    }
    let mut der = pem::private_key(pem).map_err(CredentialsError::Key)?;
    if let Some(leaf) = chain.first() {
        der = key::complete(der, leaf)?;
    }
    key::certified(chain.to_vec(), der.clone_key())?;
    Ok(SecretKey {
        pem: Zeroizing::new(pem.to_owned()),
        der,
    })
}

impl From<PairError> for CredentialsError {
    fn from(error: PairError) -> Self {
        match error {
            PairError::Key(error) => Self::UnusableKey(error),
            PairError::Mismatch => Self::Mismatch,
            _ => Self::NotX509,
        }
    }
}

/// Diagnosis of a certificate and key that may be damaged, which [`Credentials`] would reject.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PairReport {
    /// The certificate's readable content.
    pub info: CertificateInfo,
    /// Whether the key belongs to the certificate.
    pub key_matches: bool,
    /// Reason that the key cannot be used, if any.
    pub key_problem: Option<CredentialsError>,
}

impl PairReport {
    /// Inspects a certificate and a key, which need not match.
    ///
    /// # Errors
    /// If the certificate itself cannot be parsed.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, CredentialsError> {
        let (chain, info) = read_chain(chain)?;
        let key_problem = read_key(&chain, key).err();
        Ok(Self {
            info,
            key_matches: key_problem.is_none(),
            key_problem,
        })
    }
}

/// Trusted roots for a server's certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct RootCertificates {
    pem: String,
    certificates: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for RootCertificates {
    /// Shows only the count, to keep output short.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RootCertificates")
            .field("count", &self.certificates.len())
            .finish()
    }
}

impl RootCertificates {
    /// Parses one or more certificates, each of which must be usable as a root.
    ///
    /// # Errors
    /// [`CredentialsError`] if there is none or one is not usable.
    pub fn from_pem(pem: &str) -> Result<Self, CredentialsError> {
        if pem.len() > MAX_PEM {
            return Err(CredentialsError::TooLong);
        }
        let certificates =
            pem::certificates(pem, MAX_CERTIFICATES).map_err(CredentialsError::Certificate)?;
        let roots = Self {
            pem: pem.to_owned(),
            certificates,
        };
        let mut store = RootCertStore::empty();
        for certificate in &roots.certificates {
            store
                .add(certificate.clone())
                .map_err(|_| CredentialsError::NotX509)?;
        }
        Ok(roots)
    }

    /// Returns the certificates. Never empty.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// Returns the unchanged PEM text.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns the roots for a rustls client configuration.
    #[must_use]
    pub fn root_store(&self) -> RootCertStore {
        let mut store = RootCertStore::empty();
        // `from_pem` already validated each of them.
        store.add_parsable_certificates(self.certificates.iter().cloned());
        store
    }
}
