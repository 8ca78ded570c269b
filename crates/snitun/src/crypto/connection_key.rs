//! Session keys that are bound to a cipher and to the number of connections that they permit.
//!
//! `aes-gcm` derives its nonces from a counter that starts at zero on every connection: a second
//! connection with the same key would repeat them, which reveals the key. The types prevent it. A
//! [`SessionKey`] cannot be cloned, and binding it to a cipher consumes it; a [`OneTimeKey`] cannot
//! be cloned either, and a handshake consumes it. The other two ciphers use a [`ReusableKey`],
//! which can be cloned for each connection.
//!
//! The types cannot detect the same key in two processes, or a key parsed twice from its text. A
//! server therefore remembers the `aes-gcm` keys of its devices
//! (`server::ServerConfig::max_used_keys`).

use std::sync::Arc;

use crate::crypto::cipher::Cipher;
use crate::crypto::key::SessionKey;

/// A key for any number of connections, with `aes-cbc` or `aes-gcm-siv`. Clones share the same key.
///
/// ```
/// # fn main() -> Result<(), snitun::KeyError> {
/// use snitun::{ClientHandshake, SessionKey};
///
/// let key = SessionKey::from_hex(&"5a".repeat(32), &"c3".repeat(16))?.aes_cbc();
/// let first = ClientHandshake::new(key.clone());
/// let second = ClientHandshake::new(key);
/// # drop((first, second));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ReusableKey {
    key: Arc<SessionKey>,
    cipher: Cipher,
}

/// A key for one connection, with `aes-gcm`.
///
/// It cannot be used for a second connection:
///
/// ```compile_fail,E0382
/// # fn main() -> Result<(), snitun::KeyError> {
/// use snitun::{ClientHandshake, SessionKey};
///
/// let key = SessionKey::from_hex(&"5a".repeat(32), &"c3".repeat(16))?.aes_gcm();
/// let first = ClientHandshake::new(key);
/// let second = ClientHandshake::new(key); // `key` has been moved
/// # Ok(())
/// # }
/// ```
///
/// ```compile_fail,E0599
/// # fn main() -> Result<(), snitun::KeyError> {
/// # use snitun::{ClientHandshake, SessionKey};
/// let key = SessionKey::from_hex(&"5a".repeat(32), &"c3".repeat(16))?.aes_gcm();
/// let first = ClientHandshake::new(key.clone()); // there is no `clone`
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct OneTimeKey {
    key: SessionKey,
}

/// A key for one connection with any cipher, as a handshake takes it. Either of the other two types
/// converts to it.
#[derive(Debug)]
pub enum ConnectionKey {
    /// It can be cloned.
    Reusable(ReusableKey),
    /// It cannot be cloned.
    OneTime(OneTimeKey),
}

impl SessionKey {
    /// Binds the key to `aes-cbc`.
    pub fn aes_cbc(self) -> ReusableKey {
        self.reusable(Cipher::AesCbc)
    }

    /// Binds the key to `aes-gcm-siv`.
    pub fn aes_gcm_siv(self) -> ReusableKey {
        self.reusable(Cipher::AesGcmSiv)
    }

    /// Binds the key to `aes-gcm`, for a single connection.
    pub fn aes_gcm(self) -> OneTimeKey {
        OneTimeKey { key: self }
    }

    /// Binds the key to a cipher that is known only at run time, for example from a token.
    ///
    /// It cannot be used for a second connection, or with another cipher:
    ///
    /// ```compile_fail,E0382
    /// # fn main() -> Result<(), snitun::KeyError> {
    /// # use snitun::{Cipher, SessionKey};
    /// let key = SessionKey::from_hex(&"5a".repeat(32), &"c3".repeat(16))?;
    /// let first = key.with_cipher(Cipher::AesGcm);
    /// let second = key.with_cipher(Cipher::AesCbc); // `key` has been moved
    /// # Ok(())
    /// # }
    /// ```
    pub fn with_cipher(self, cipher: Cipher) -> ConnectionKey {
        match cipher {
            Cipher::AesCbc | Cipher::AesGcmSiv => self.reusable(cipher).into(),
            Cipher::AesGcm => self.aes_gcm().into(),
        }
    }

    fn reusable(self, cipher: Cipher) -> ReusableKey {
        ReusableKey {
            key: Arc::new(self),
            cipher,
        }
    }
}

impl ConnectionKey {
    /// Returns the cipher that the key is bound to.
    pub fn cipher(&self) -> Cipher {
        match self {
            Self::Reusable(key) => key.cipher,
            Self::OneTime(_) => Cipher::AesGcm,
        }
    }

    /// Returns the key for further connections; `None` if the cipher permits none.
    ///
    /// ```
    /// # fn main() -> Result<(), snitun::KeyError> {
    /// # use snitun::{Cipher, SessionKey};
    /// # let key = || SessionKey::from_hex(&"5a".repeat(32), &"c3".repeat(16));
    /// assert!(key()?.with_cipher(Cipher::AesCbc).for_further().is_some());
    /// assert!(key()?.with_cipher(Cipher::AesGcm).for_further().is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn for_further(&self) -> Option<ReusableKey> {
        match self {
            Self::Reusable(key) => Some(key.clone()),
            Self::OneTime(_) => None,
        }
    }

    pub(crate) fn session_key(&self) -> &SessionKey {
        match self {
            Self::Reusable(key) => &key.key,
            Self::OneTime(key) => &key.key,
        }
    }
}

impl From<ReusableKey> for ConnectionKey {
    fn from(key: ReusableKey) -> Self {
        Self::Reusable(key)
    }
}

impl From<OneTimeKey> for ConnectionKey {
    fn from(key: OneTimeKey) -> Self {
        Self::OneTime(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_keeps_its_cipher_and_is_redacted() {
        for cipher in Cipher::ALL {
            let key = SessionKey::new([0xa1; 32], [0xb2; 16]).with_cipher(cipher);
            assert_eq!(key.cipher(), cipher);
            assert_eq!(key.for_further().is_some(), cipher != Cipher::AesGcm);
            let further = key.for_further().map(ConnectionKey::from);
            assert!(further.is_none_or(|key| key.cipher() == cipher));
            assert!(format!("{key:?}").contains("[redacted]"));
        }
    }
}
