//! Cache of used `aes-gcm` keys, against reuse.
//!
//! A second connection with such a key would repeat nonces (see `connection_key`), and a device
//! that lost its state, or an attacker who read a token off the wire, may well reuse one. So the
//! digest of each key is kept until its token expires.
//!
//! Keys used on another server, or before this one started, are unknown here: the issuer must
//! generate a fresh key for each token.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::crypto::cipher::Cipher;
use crate::crypto::key::SessionKey;

#[derive(Debug)]
pub(super) struct UsedKeys {
    limit: usize,
    /// Expiry of each key's token, in seconds since 1970, by the digest of the key.
    keys: Mutex<HashMap<[u8; 32], u64>>,
}

/// The reason why a key was rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyRejected {
    #[error("its session key was used before, and aes-gcm needs a fresh one for every connection")]
    AlreadyUsed,
    #[error("the cache of used aes-gcm keys is full; raise `max_used_keys`")]
    CacheFull,
}

impl UsedKeys {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            keys: Mutex::default(),
        }
    }

    /// Records the use of `key` by a token that expires at `valid`; rejects a key that must not be
    /// used again.
    pub(super) fn record_use(
        &self,
        key: &SessionKey,
        cipher: Cipher,
        valid: u64,
        now: u64,
    ) -> Result<(), KeyRejected> {
        if cipher != Cipher::AesGcm {
            return Ok(());
        }
        let digest = Sha256::digest(key.key()).into();
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.contains_key(&digest) {
            return Err(KeyRejected::AlreadyUsed);
        }
        if keys.len() >= self.limit {
            keys.retain(|_, valid| *valid >= now);
        }
        if keys.len() >= self.limit {
            return Err(KeyRejected::CacheFull);
        }
        keys.insert(digest, valid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gcm_key_is_accepted_once_until_its_token_expires() {
        let used = UsedKeys::new(2);
        let spend = |byte, cipher, valid, now| {
            used.record_use(&SessionKey::new([byte; 32], [0; 16]), cipher, valid, now)
        };
        let gcm = Cipher::AesGcm;
        assert_eq!(spend(1, gcm, 100, 0), Ok(()));
        assert_eq!(spend(1, gcm, 100, 0), Err(KeyRejected::AlreadyUsed));
        assert_eq!(spend(1, Cipher::AesCbc, 100, 0), Ok(()));
        assert_eq!(spend(2, gcm, 200, 0), Ok(()));
        // Full: no key that could be replayed is evicted for a new one.
        assert_eq!(spend(3, gcm, 300, 100), Err(KeyRejected::CacheFull));
        assert_eq!(spend(3, gcm, 300, 101), Ok(()));
        assert_eq!(spend(2, gcm, 200, 101), Err(KeyRejected::AlreadyUsed));
        assert_eq!(used.keys.lock().unwrap().len(), 2);
    }
}
