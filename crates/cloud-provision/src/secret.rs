//! Secret strings: zeroized on drop, `[redacted]` in every message.

use std::fmt;

use serde::Deserialize;
use zeroize::Zeroizing;

/// Maximum length of a provisioning key in bytes. The platform's have a few dozen; this leaves room
/// for a signed token.
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

/// A provisioning key. Any holder can register in the device's place.
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

/// Reason that a provisioning key is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// Empty or only white space.
    #[error("the provisioning key is empty")]
    Empty,
    /// More than 4096 bytes: probably the wrong file.
    #[error("the provisioning key is longer than {MAX_KEY} bytes; is it the right file?")]
    TooLong,
    /// Line breaks or control characters inside: probably the wrong file.
    #[error("the provisioning key contains a control character; is it the right file?")]
    ControlCharacter,
}

impl ProvisioningKey {
    /// Creates a key and trims the surrounding white space that a file or terminal adds.
    ///
    /// # Errors
    /// [`InvalidKey`], whose message does not contain the key.
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
    /// Wraps a PEM key (PKCS#8, PKCS#1, or SEC1) without validating it.
    #[must_use]
    pub fn new(pem: impl Into<String>) -> Self {
        Self(Zeroizing::new(pem.into()))
    }

    /// Returns the PEM text, for storage and TLS only, never for a message.
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
