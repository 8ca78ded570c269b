//! The session ciphers and the two directions of one session.
//!
//! A *unit* is encrypted as a whole: a challenge, its answer, a frame header, or the caller's
//! address of a version 2 NEW. Channel data is not encrypted in this layer: it is the public
//! client's own TLS. The writer owns a [`Sealer`] and the reader an [`Opener`], because the default
//! cipher is a CBC stream in each direction that depends on the order on the wire.

mod open;
mod seal;

use std::fmt;
use std::str::FromStr;

pub use open::{DecryptError, Opener};
pub use seal::{SealError, Sealer};

/// Bytes of the nonce before an authenticated unit.
pub(crate) const NONCE_LEN: usize = 12;
/// Bytes of the tag after an authenticated unit.
pub(crate) const TAG_LEN: usize = 16;

/// The cipher of frame headers. The default, also for a token without the field, is `aes-cbc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cipher {
    /// AES-256-CBC without padding, as a continuous stream in each direction. Not authenticated.
    #[default]
    AesCbc,
    /// AES-256-GCM with counter nonces. Needs a fresh key for every connection.
    AesGcm,
    /// AES-256-GCM-SIV (RFC 8452) with random nonces.
    AesGcmSiv,
}

impl Cipher {
    /// All supported ciphers.
    pub const ALL: [Self; 3] = [Self::AesCbc, Self::AesGcm, Self::AesGcmSiv];

    /// Returns the name that tokens use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesCbc => "aes-cbc",
            Self::AesGcm => "aes-gcm",
            Self::AesGcmSiv => "aes-gcm-siv",
        }
    }

    /// Returns the number of bytes that encryption adds to a unit.
    pub const fn overhead(self) -> usize {
        match self {
            Self::AesCbc => 0,
            Self::AesGcm | Self::AesGcmSiv => NONCE_LEN + TAG_LEN,
        }
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An unknown cipher name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session cipher is not supported; use aes-cbc, aes-gcm or aes-gcm-siv")]
pub struct UnsupportedCipher;

impl FromStr for Cipher {
    type Err = UnsupportedCipher;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|cipher| cipher.name() == name)
            .ok_or(UnsupportedCipher)
    }
}

/// An end of the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The device: opens the connection, accepts channels, pings.
    Client,
    /// The public end: opens channels.
    Server,
}

impl Role {
    /// Returns the direction field of this writer's `aes-gcm` nonces.
    fn direction(self) -> u32 {
        match self {
            Self::Client => 0,
            Self::Server => 1,
        }
    }

    pub(crate) fn peer(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// A source of random bytes for header padding and the nonces of `aes-gcm-siv`.
///
/// The core has no random source of its own, so that tests are repeatable. Any `FnMut(&mut [u8])`
/// implements it.
pub trait Entropy: Send {
    /// Fills `dest` with random bytes.
    fn fill(&mut self, dest: &mut [u8]);
}

impl<F: FnMut(&mut [u8]) + Send> Entropy for F {
    fn fill(&mut self, dest: &mut [u8]) {
        self(dest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionKey;

    #[test]
    fn cipher_names_round_trip() {
        for cipher in Cipher::ALL {
            assert_eq!(cipher.to_string().parse::<Cipher>(), Ok(cipher));
        }
        assert_eq!("aes-ctr".parse::<Cipher>(), Err(UnsupportedCipher));
    }

    #[test]
    fn cbc_rejects_partial_blocks() {
        let key = SessionKey::new([7; 32], [9; 16]);
        let mut sealer = Sealer::new(&key, Cipher::AesCbc, Role::Client);
        let mut entropy = |dest: &mut [u8]| dest.fill(3);
        let sealed = sealer.seal(&[0; 17], &mut entropy, &mut Vec::new());
        assert_eq!(sealed, Err(SealError::UnitLength));
    }

    #[test]
    fn units_round_trip_and_tampering_is_detected() {
        let key = SessionKey::new([7; 32], [9; 16]);
        for cipher in Cipher::ALL {
            let mut sealer = Sealer::new(&key, cipher, Role::Client);
            let mut opener = Opener::new(&key, cipher, Role::Client);
            let mut entropy = |dest: &mut [u8]| dest.fill(3);
            for len in [32, 16, 32, 64] {
                let plain: Vec<u8> = (0..len).collect();
                let mut wire = Vec::new();
                sealer.seal(&plain, &mut entropy, &mut wire).unwrap();
                assert_eq!(wire.len(), plain.len() + cipher.overhead());
                assert_eq!(opener.open(&mut wire).unwrap(), plain);
            }
            let mut wire = Vec::new();
            sealer.seal(&[1; 32], &mut entropy, &mut wire).unwrap();
            wire[20] ^= 1;
            match (cipher, opener.open(&mut wire)) {
                (Cipher::AesCbc, Ok(plain)) => assert_ne!(plain, [1; 32]),
                (Cipher::AesCbc, Err(error)) => panic!("{error}"),
                (_, opened) => assert!(opened.is_err()),
            }
        }
    }

    #[test]
    fn gcm_unit_opens_once_in_order_for_the_peer_only() {
        let key = SessionKey::new([7; 32], [9; 16]);
        let mut sealer = Sealer::new(&key, Cipher::AesGcm, Role::Server);
        let opener = |writer| Opener::new(&key, Cipher::AesGcm, writer);
        let mut units = [0, 1, 2].map(|number| {
            let mut wire = Vec::new();
            let mut entropy = |dest: &mut [u8]| dest.fill(3);
            sealer.seal(&[number; 32], &mut entropy, &mut wire).unwrap();
            wire
        });
        assert_eq!(
            opener(Role::Client).open(&mut units[0].clone()),
            Err(DecryptError)
        );

        let mut opener = opener(Role::Server);
        assert_eq!(opener.open(&mut units[0].clone()).unwrap(), [0; 32]);
        assert_eq!(opener.open(&mut units[0]), Err(DecryptError));
        // A missing unit cannot be distinguished from one that the writer did not send.
        assert_eq!(opener.open(&mut units[2]).unwrap(), [2; 32]);
        assert_eq!(opener.open(&mut units[1]), Err(DecryptError));
    }
}
