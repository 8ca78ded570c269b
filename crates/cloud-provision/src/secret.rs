//! Strings that must not be seen: wiped from memory on drop, `[redacted]` in every message.

use std::fmt;

use serde::Deserialize;
use zeroize::Zeroizing;

/// Longest provisioning key taken, in bytes. The platform's are a few dozen; this leaves room for a signed token.
const MAX_KEY: usize = 4096;

macro_rules! redacted {
    ($name:ident) => {
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "([redacted])"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[redacted]")
            }
        }
    };
}

/// The key that lets a device register. Whoever has it can register in the device's place.
///
/// ```
/// use cloud_provision::ProvisioningKey;
///
/// let key = ProvisioningKey::new(" 4711-secret\n")?;
/// assert_eq!(key.to_string(), "[redacted]");
/// # Ok::<(), cloud_provision::InvalidKey>(())
/// ```
#[derive(Clone)]
pub struct ProvisioningKey(Zeroizing<String>);

/// A provisioning key that cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// Nothing, or white space.
    #[error("the provisioning key is empty")]
    Empty,
    /// More than 4096 bytes: hardly a key, rather the wrong file.
    #[error("the provisioning key is longer than {MAX_KEY} bytes; is it the right file?")]
    TooLong,
    /// Line breaks or control characters inside: rather the wrong file.
    #[error("the provisioning key contains a control character; is it the right file?")]
    ControlCharacter,
}

impl ProvisioningKey {
    /// Takes a key, without the white space around it that a file or a terminal adds.
    ///
    /// # Errors
    /// [`InvalidKey`], whose message does not repeat the key.
    pub fn new(key: &str) -> Result<Self, InvalidKey> {
        let key = key.trim();
        match key {
            "" => Err(InvalidKey::Empty),
            key if key.len() > MAX_KEY => Err(InvalidKey::TooLong),
            key if key.chars().any(char::is_control) => Err(InvalidKey::ControlCharacter),
            key => Ok(Self(Zeroizing::new(key.to_owned()))),
        }
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

redacted!(ProvisioningKey);

/// A private key in PEM.
#[derive(Clone)]
pub struct PrivateKeyPem(Zeroizing<String>);

impl PrivateKeyPem {
    /// Takes a key that was made here (PKCS#8, PKCS#1 or SEC1). Nothing is checked yet.
    #[must_use]
    pub fn new(pem: impl Into<String>) -> Self {
        Self(Zeroizing::new(pem.into()))
    }

    /// The text itself: for storing and for TLS, never for a message.
    #[must_use]
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

redacted!(PrivateKeyPem);

impl<'de> Deserialize<'de> for PrivateKeyPem {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// A proxy's address, which may contain a password.
#[derive(Clone)]
pub(crate) struct ProxyUrl(Zeroizing<String>);

impl ProxyUrl {
    pub(crate) fn new(url: &str) -> Self {
        Self(Zeroizing::new(url.to_owned()))
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

redacted!(ProxyUrl);
