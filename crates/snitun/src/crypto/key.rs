//! The session key that both ends share for one token.
//!
//! The module `connection_key` binds a key to its cipher, which determines how often it may be
//! used.

use std::fmt;

use zeroize::Zeroizing;

use crate::hex;

/// Bytes of an AES-256 key.
pub const KEY_LEN: usize = 32;
/// Bytes of the initialization vector of `aes-cbc`.
pub const IV_LEN: usize = 16;

/// An AES-256 key and its initialization vector. Wiped on drop; never printed.
///
/// It is not `Clone`, since `aes-gcm` must not use a key twice: bind it to a cipher with
/// [`aes_cbc`](Self::aes_cbc) or a similar method; the resulting type determines whether another
/// connection can use it.
///
/// ```
/// # fn main() -> Result<(), snitun::KeyError> {
/// let key = snitun::SessionKey::from_hex(&"5a".repeat(32), &"c3".repeat(16))?;
/// assert_eq!(format!("{key:?}"), "SessionKey([redacted])");
/// # Ok(())
/// # }
/// ```
pub struct SessionKey {
    key: Zeroizing<[u8; KEY_LEN]>,
    iv: Zeroizing<[u8; IV_LEN]>,
}

/// The reason why a session key cannot be created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text of the key is not 64 hexadecimal digits.
    #[error("the session key must be 32 bytes, as 64 hexadecimal digits")]
    MalformedKey,
    /// The text of the initialization vector is not 32 hexadecimal digits.
    #[error("the session's initialization vector must be 16 bytes, as 32 hexadecimal digits")]
    MalformedIv,
    /// The operating system returned no random bytes.
    #[error("the operating system returned no random bytes for a session key")]
    Entropy,
}

impl SessionKey {
    /// Creates a key from bytes.
    pub fn new(key: [u8; KEY_LEN], iv: [u8; IV_LEN]) -> Self {
        Self {
            key: Zeroizing::new(key),
            iv: Zeroizing::new(iv),
        }
    }

    /// Parses a key from hexadecimal text of either case, as in tokens: 64 digits and 32 digits.
    ///
    /// # Errors
    /// [`KeyError::MalformedKey`] or [`KeyError::MalformedIv`].
    pub fn from_hex(key: &str, iv: &str) -> Result<Self, KeyError> {
        let mut made = Self::new([0; KEY_LEN], [0; IV_LEN]);
        hex::decode(key, made.key.as_mut_slice()).ok_or(KeyError::MalformedKey)?;
        hex::decode(iv, made.iv.as_mut_slice()).ok_or(KeyError::MalformedIv)?;
        Ok(made)
    }

    /// Generates a key with the operating system's random source.
    ///
    /// # Errors
    /// [`KeyError::Entropy`] if the system returns no random bytes.
    #[cfg(feature = "driver")]
    pub fn generate() -> Result<Self, KeyError> {
        let mut made = Self::new([0; KEY_LEN], [0; IV_LEN]);
        getrandom::fill(made.key.as_mut_slice()).map_err(|_| KeyError::Entropy)?;
        getrandom::fill(made.iv.as_mut_slice()).map_err(|_| KeyError::Entropy)?;
        Ok(made)
    }

    /// Returns the key as 64 lower-case hexadecimal digits.
    pub fn key_hex(&self) -> Zeroizing<String> {
        hex::encode(self.key.as_slice())
    }

    /// Returns the initialization vector as 32 lower-case hexadecimal digits.
    pub fn iv_hex(&self) -> Zeroizing<String> {
        hex::encode(self.iv.as_slice())
    }

    pub(crate) fn key(&self) -> &[u8; KEY_LEN] {
        &self.key
    }

    pub(crate) fn iv(&self) -> &[u8; IV_LEN] {
        &self.iv
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionKey([redacted])")
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_hex_round_trips_and_is_validated() {
        let key = SessionKey::from_hex(&"aB".repeat(32), &"0f".repeat(16)).unwrap();
        assert_eq!(*key.key_hex(), "ab".repeat(32));
        assert_eq!(*key.iv_hex(), "0f".repeat(16));
        assert_eq!(
            SessionKey::from_hex("ab", &"0f".repeat(16)).unwrap_err(),
            KeyError::MalformedKey
        );
        assert_eq!(
            SessionKey::from_hex(&"ab".repeat(32), &"0f".repeat(17)).unwrap_err(),
            KeyError::MalformedIv
        );
        assert!(!format!("{key:?} {key}").contains("ab"));
    }
}
