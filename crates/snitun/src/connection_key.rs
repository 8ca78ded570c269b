//! A session key that is bound to its cipher, and with it to how many connections it is good for.
//!
//! `aes-gcm` derives its nonces from a counter that starts at zero on every connection: a second connection under the same
//! key would repeat them, and that gives the key away. So the types keep count. A [`SessionKey`] cannot be cloned, and
//! binding it to a cipher uses it up; a [`OneTimeKey`] cannot be cloned either, and a handshake uses that up. The other two
//! ciphers make a [`ReusableKey`], which can be cloned for each connection.
//!
//! What the types cannot see is the same key in two processes, or made twice from its text. A server therefore remembers
//! the `aes-gcm` keys that it was shown (`server::ServerConfig::max_spent_keys`).
//!
//! Protocol: docs/protocol.md, "SniTun".

use std::sync::Arc;

use crate::cipher::Cipher;
use crate::key::SessionKey;

/// A key for any number of connections: one for `aes-cbc` or `aes-gcm-siv`. Clones are the same key.
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

/// A key for one connection: one for `aes-gcm`.
///
/// There is no way to a second connection:
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

/// A key for one connection, whatever the cipher: what a handshake takes. Either of the other two becomes one.
#[derive(Debug)]
pub enum ConnectionKey {
    /// It can be had again.
    Reusable(ReusableKey),
    /// It is the only one.
    OneTime(OneTimeKey),
}

impl SessionKey {
    /// The key for connections with `aes-cbc`.
    pub fn aes_cbc(self) -> ReusableKey {
        self.reusable(Cipher::AesCbc)
    }

    /// The key for connections with `aes-gcm-siv`.
    pub fn aes_gcm_siv(self) -> ReusableKey {
        self.reusable(Cipher::AesGcmSiv)
    }

    /// The key for the one connection that it is good for with `aes-gcm`.
    pub fn aes_gcm(self) -> OneTimeKey {
        OneTimeKey { key: self }
    }

    /// The key for a connection with a cipher that is only known at run time, as a token names it.
    ///
    /// Nor is there a second connection this way, or with another cipher:
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
    /// The cipher that the key is bound to.
    pub fn cipher(&self) -> Cipher {
        match self {
            Self::Reusable(key) => key.cipher,
            Self::OneTime(_) => Cipher::AesGcm,
        }
    }

    /// The key for further connections; `None` where the cipher permits none.
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
    fn a_key_keeps_the_cipher_it_was_bound_to_and_is_not_printed() {
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
