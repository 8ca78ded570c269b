//! Private keys that are made on the device and stay there.
//!
//! The platform gets a certificate signing request for each of the two keys, issues the certificates, and sends no key.
//! This is an extension of ours: today's platform does not know it, skips the requests, and sends its own keys, which
//! are then used and marked as such ([`KeyOrigin::Platform`]).
//!
//! What a key source hands over is checked before anything is sent, as the provisioning key works once only.
//!
//! Protocol: `docs/protocol.md`, "Provisioning".

use std::fmt;
use std::future::Future;

use rustls_pki_types::CertificateSigningRequestDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::provisioned::public_key_of;
use crate::secret::PrivateKeyPem;

/// Which of a device's two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyPurpose {
    /// For the client certificate that is shown to the broker.
    Iot,
    /// For the certificate that visitors get to see.
    Remote,
}

impl fmt::Display for KeyPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Iot => "the broker",
            Self::Remote => "remote access",
        })
    }
}

/// Where a private key was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrigin {
    /// By the platform, which sent it.
    Platform,
    /// On this device, by a [`KeySource`]: nobody else has it.
    Device,
}

/// Makes private keys on the device. `GeneratedKeys` (feature `csr`) does it in software; a host with a random source or a
/// key store of its own brings another.
///
/// The key must be there as PEM, since that is what is stored: one that cannot leave its chip does not fit.
pub trait KeySource: Sync {
    /// Makes a key for this purpose, and a signing request with it. Called once for each purpose and registration; when a
    /// request has to be sent again, the same ones are sent. The platform takes the public key from the request and
    /// decides the certificate's names itself: those for remote access are not known before.
    fn make_key(
        &self,
        purpose: KeyPurpose,
        serial: &str,
    ) -> impl Future<Output = Result<OwnKey, KeySourceError>> + Send;
}

/// A private key and the request for a certificate for it.
#[derive(Debug, Clone)]
pub struct OwnKey {
    pub(crate) private_key: PrivateKeyPem,
    pub(crate) request_pem: String,
}

impl OwnKey {
    /// Puts the two together: a key (PKCS#8, PKCS#1 or SEC1), and a PKCS#10 request signed with it, in PEM.
    #[must_use]
    pub fn new(private_key: PrivateKeyPem, request_pem: impl Into<String>) -> Self {
        Self {
            private_key,
            request_pem: request_pem.into(),
        }
    }

    fn check(&self) -> Result<(), KeySourceError> {
        let key = public_key_of(&self.private_key)
            .ok_or_else(|| KeySourceError::new("the key cannot be used"))?;
        let der = CertificateSigningRequestDer::from_pem_slice(self.request_pem.as_bytes())
            .map_err(|_| KeySourceError::new("the signing request is not PEM"))?;
        match X509CertificationRequest::from_der(&der) {
            Ok(([], request))
                if request.certification_request_info.subject_pki.raw == key.as_ref() =>
            {
                Ok(())
            }
            Ok(([], _)) => Err(KeySourceError::new(
                "the signing request is for another key",
            )),
            _ => Err(KeySourceError::new("the signing request is damaged")),
        }
    }
}

/// Why there is no key. Its words are shown: they must contain nothing of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeySourceError(String);

impl KeySourceError {
    /// With these words.
    pub fn new(words: impl Into<String>) -> Self {
        Self(words.into())
    }
}

/// Both keys of a device.
#[derive(Debug, Clone)]
pub(crate) struct OwnKeys {
    pub(crate) iot: OwnKey,
    pub(crate) remote: OwnKey,
}

impl OwnKeys {
    pub(crate) async fn make(
        source: &impl KeySource,
        serial: &str,
    ) -> Result<Self, (KeyPurpose, KeySourceError)> {
        let make = async |purpose| {
            let made = source.make_key(purpose, serial).await;
            made.and_then(|key| key.check().map(|()| key))
                .map_err(|error| (purpose, error))
        };
        Ok(Self {
            iot: make(KeyPurpose::Iot).await?,
            remote: make(KeyPurpose::Remote).await?,
        })
    }
}

#[cfg(feature = "csr")]
mod generated {
    use rcgen::{CertificateParams, DnType, KeyPair};
    use zeroize::Zeroize;

    use super::{KeyPurpose, KeySource, KeySourceError, OwnKey};
    use crate::secret::PrivateKeyPem;

    /// Fresh ECDSA P-256 keys, from the operating system's random source. Feature `csr`.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use cloud_provision::{Client, GeneratedKeys, KeyOrigin, ProvisioningKey};
    ///
    /// let client = Client::builder("https://api.example.com/v1").build()?;
    /// let key = ProvisioningKey::new("4711")?;
    /// let provisioned = client
    ///     .register_with_keys("SN0001", &key, &GeneratedKeys)
    ///     .await?;
    /// if provisioned.iot.key_origin == KeyOrigin::Platform {
    ///     println!("the platform made the key all the same");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[derive(Debug, Clone, Copy, Default)]
    pub struct GeneratedKeys;

    impl KeySource for GeneratedKeys {
        async fn make_key(&self, _: KeyPurpose, serial: &str) -> Result<OwnKey, KeySourceError> {
            make(serial).map_err(|error| KeySourceError::new(error.to_string()))
        }
    }

    fn make(serial: &str) -> Result<OwnKey, rcgen::Error> {
        let mut key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, serial);
        let request = params.serialize_request(&key)?.pem()?;
        let own = OwnKey::new(PrivateKeyPem::new(key.serialize_pem()), request);
        key.zeroize();
        Ok(own)
    }
}
#[cfg(feature = "csr")]
pub use generated::GeneratedKeys;
