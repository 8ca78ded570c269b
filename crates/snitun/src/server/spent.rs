//! The `aes-gcm` keys that were used here.
//!
//! A second connection under such a key would repeat nonces (see `connection_key`), and a device that has lost its memory,
//! or someone who has read a token off the wire, may well come with one. So each is remembered, as its digest, until its
//! token has run out.
//!
//! Not here: keys used at another server, or before this one was started. Who issues tokens has to give each a fresh key.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

use crate::cipher::Cipher;
use crate::key::SessionKey;

#[derive(Debug)]
pub(super) struct SpentKeys {
    limit: usize,
    /// Until when each has to be remembered, in seconds since 1970, by the digest of the key.
    keys: Mutex<HashMap<[u8; 32], u64>>,
}

/// Why a key may not be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyRefused {
    #[error("its session key was used before, and aes-gcm needs a fresh one for every connection")]
    Spent,
    #[error("too many aes-gcm keys are to be remembered; see `max_spent_keys`")]
    TooMany,
}

impl SpentKeys {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            keys: Mutex::default(),
        }
    }

    /// Notes that `key` is used now, by a token that is good until `valid`; refuses it where it must not be used again.
    pub(super) fn spend(
        &self,
        key: &SessionKey,
        cipher: Cipher,
        valid: u64,
        now: u64,
    ) -> Result<(), KeyRefused> {
        if cipher != Cipher::AesGcm {
            return Ok(());
        }
        let digest = Sha256::digest(key.key()).into();
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.contains_key(&digest) {
            return Err(KeyRefused::Spent);
        }
        if keys.len() >= self.limit {
            keys.retain(|_, valid| *valid >= now);
        }
        if keys.len() >= self.limit {
            return Err(KeyRefused::TooMany);
        }
        keys.insert(digest, valid);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gcm_key_is_taken_once_and_forgotten_only_after_its_end() {
        let spent = SpentKeys::new(2);
        let spend = |byte, cipher, valid, now| {
            spent.spend(&SessionKey::new([byte; 32], [0; 16]), cipher, valid, now)
        };
        let gcm = Cipher::AesGcm;
        assert_eq!(spend(1, gcm, 100, 0), Ok(()));
        assert_eq!(spend(1, gcm, 100, 0), Err(KeyRefused::Spent));
        assert_eq!(spend(1, Cipher::AesCbc, 100, 0), Ok(()));
        assert_eq!(spend(2, gcm, 200, 0), Ok(()));
        // Full: nobody is let in at the price of forgetting a key that could still come again.
        assert_eq!(spend(3, gcm, 300, 100), Err(KeyRefused::TooMany));
        assert_eq!(spend(3, gcm, 300, 101), Ok(()));
        assert_eq!(spend(2, gcm, 200, 101), Err(KeyRefused::Spent));
        assert_eq!(spent.keys.lock().unwrap().len(), 2);
    }
}
