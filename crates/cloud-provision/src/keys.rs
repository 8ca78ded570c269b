//! Private keys that are generated on the device and stay there.
//!
//! The platform receives a certificate signing request (CSR) for each of the two keys, issues the
//! certificates, and sends no key. This is an extension: a platform without it ignores the requests
//! and sends its own keys, which the client then uses and marks with [`KeyOrigin::Platform`].
//!
//! The output of a key source is validated before anything is sent, because the provisioning key
//! works only once.

use std::fmt;
use std::future::Future;

use cloud_pki::key::{self, PairError};
use cloud_pki::pem;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;

use crate::secret::PrivateKeyPem;

/// Purpose of a device's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyPurpose {
    /// The client certificate for the broker.
    Iot,
    /// The server certificate for remote access.
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

/// Where a private key was generated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrigin {
    /// On the platform, which sent it.
    Platform,
    /// On this device, by a [`KeySource`]: no other party has it.
    Device,
}

/// Generates private keys on the device. `GeneratedKeys` (feature `csr`) is a software
/// implementation; a host with its own random source or key store can provide another.
///
/// The key must be available as PEM, because PEM is what is stored: a key that cannot leave its
/// chip is not supported.
pub trait KeySource: Sync {
    /// Generates a key for this purpose and a signing request for it. Called once per purpose and
    /// registration; retries send the same requests. The platform takes only the public key from
    /// the request and chooses the certificate's names itself, because those for remote access are
    /// not known in advance.
    fn make_key(
        &self,
        purpose: KeyPurpose,
        serial: &str,
    ) -> impl Future<Output = Result<DeviceKey, KeySourceError>> + Send;
}

/// A private key and its certificate signing request.
#[derive(Debug, Clone)]
pub struct DeviceKey {
    pub(crate) private_key: PrivateKeyPem,
    pub(crate) request_pem: String,
}

impl DeviceKey {
    /// Combines a key (PKCS#8, PKCS#1, or SEC1) with a PKCS#10 request signed by it, in PEM.
    #[must_use]
    pub fn new(private_key: PrivateKeyPem, request_pem: impl Into<String>) -> Self {
        Self {
            private_key,
            request_pem: request_pem.into(),
        }
    }

    /// Checks that TLS can use the key, and that the signing request is for it.
    fn check(&self) -> Result<(), KeySourceError> {
        let private_key = pem::private_key(self.private_key.expose_secret())
            .map_err(|error| KeySourceError(format!("the private key {error}")))?;
        let der = pem::signing_request(&self.request_pem)
            .map_err(|error| KeySourceError(format!("the signing request {error}")))?;
        let Ok(([], request)) = X509CertificationRequest::from_der(&der) else {
            return Err(KeySourceError::new("the signing request is damaged"));
        };
        let public_key = request.certification_request_info.subject_pki.raw;
        key::check(private_key, public_key).map_err(|error| match error {
            PairError::Mismatch => KeySourceError::new("the signing request is for another key"),
            error => KeySourceError(error.to_string()),
        })
    }
}

/// Reason that no key is available. The message is displayed, so it must not contain part of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeySourceError(String);

impl KeySourceError {
    /// Creates an error with this message.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// The two keys of a device.
#[derive(Debug, Clone)]
pub(crate) struct DeviceKeys {
    pub(crate) iot: DeviceKey,
    pub(crate) remote: DeviceKey,
}

impl DeviceKeys {
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

    use super::{DeviceKey, KeyPurpose, KeySource, KeySourceError};
    use crate::secret::PrivateKeyPem;

    /// Generates new ECDSA P-256 keys from the operating system's random source. Feature `csr`.
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
    ///     println!("the platform generated the key");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[derive(Debug, Clone, Copy, Default)]
    pub struct GeneratedKeys;

    impl KeySource for GeneratedKeys {
        async fn make_key(&self, _: KeyPurpose, serial: &str) -> Result<DeviceKey, KeySourceError> {
            make(serial).map_err(|error| KeySourceError::new(error.to_string()))
        }
    }

    fn make(serial: &str) -> Result<DeviceKey, rcgen::Error> {
        let mut key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, serial);
        let request = params.serialize_request(&key)?.pem()?;
        let device_key = DeviceKey::new(PrivateKeyPem::new(key.serialize_pem()), request);
        key.zeroize();
        Ok(device_key)
    }
}
#[cfg(feature = "csr")]
pub use generated::GeneratedKeys;
