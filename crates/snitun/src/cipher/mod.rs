//! The session ciphers and the two directions of one session.
//!
//! A *unit* is what is encrypted at once: a challenge, its answer, a frame header, or the caller's address of a version 2
//! NEW. Channel data is never encrypted on this layer: it is the public client's own TLS. A [`Sealer`] belongs to whoever
//! writes and an [`Opener`] to whoever reads, because the default cipher is one running CBC stream in each direction and
//! its order is the order on the wire (docs/protocol.md, "SniTun").

mod open;
mod seal;

use std::fmt;
use std::str::FromStr;

pub use open::{BadUnit, Opener};
pub use seal::{SealError, Sealer};

/// Bytes of the nonce in front of an authenticated unit.
pub(crate) const NONCE_LEN: usize = 12;
/// Bytes of the tag behind an authenticated unit.
pub(crate) const TAG_LEN: usize = 16;

/// How frame headers are encrypted. The default, and what a token without the field means, is `aes-cbc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cipher {
    /// AES-256-CBC without padding, one running stream in each direction. Nothing is authenticated.
    #[default]
    AesCbc,
    /// AES-256-GCM with counted nonces. Needs a fresh key for every connection.
    AesGcm,
    /// AES-256-GCM-SIV (RFC 8452) with random nonces.
    AesGcmSiv,
}

impl Cipher {
    /// All ciphers that this crate implements.
    pub const ALL: [Self; 3] = [Self::AesCbc, Self::AesGcm, Self::AesGcmSiv];

    /// The name that tokens use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesCbc => "aes-cbc",
            Self::AesGcm => "aes-gcm",
            Self::AesGcmSiv => "aes-gcm-siv",
        }
    }

    /// How many bytes a unit grows by on the wire.
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

/// A cipher name that this crate does not know.
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

/// Which end of the tunnel we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The device: opens the connection, accepts channels, pings.
    Client,
    /// The public end: opens channels.
    Server,
}

impl Role {
    /// How the nonces of `aes-gcm` name the writer.
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

/// Where random bytes come from: channel header padding and the nonces of `aes-gcm-siv`.
///
/// The core has no random source of its own, so that tests are repeatable. Any `FnMut(&mut [u8])` will do.
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
    fn names_round_trip() {
        for cipher in Cipher::ALL {
            assert_eq!(cipher.to_string().parse::<Cipher>(), Ok(cipher));
        }
        assert_eq!("aes-ctr".parse::<Cipher>(), Err(UnsupportedCipher));
    }

    #[test]
    fn a_running_stream_takes_whole_blocks_only() {
        let key = SessionKey::new([7; 32], [9; 16]);
        let mut sealer = Sealer::new(&key, Cipher::AesCbc, Role::Client);
        let mut entropy = |dest: &mut [u8]| dest.fill(3);
        let sealed = sealer.seal(&[0; 17], &mut entropy, &mut Vec::new());
        assert_eq!(sealed, Err(SealError::UnitLength));
    }

    #[test]
    fn units_of_any_length_open_again_and_tampering_shows() {
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
    fn a_counted_unit_opens_once_in_order_and_not_for_its_writer() {
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
            Err(BadUnit)
        );

        let mut opener = opener(Role::Server);
        assert_eq!(opener.open(&mut units[0].clone()).unwrap(), [0; 32]);
        assert_eq!(opener.open(&mut units[0]), Err(BadUnit));
        // A unit that is left out cannot be told from one that the writer gave up.
        assert_eq!(opener.open(&mut units[2]).unwrap(), [2; 32]);
        assert_eq!(opener.open(&mut units[1]), Err(BadUnit));
    }
}
