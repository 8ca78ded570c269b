//! The reading direction of a session cipher.

use std::fmt;

use aes::Aes256;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::array::Array;
use aes_gcm::{Aes256Gcm, KeyInit};
use aes_gcm_siv::Aes256GcmSiv;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};

use super::{Cipher, NONCE_LEN, Role, TAG_LEN};
use crate::SessionKey;

/// Decrypts the units of one direction, in wire order.
pub struct Opener {
    cipher: Cipher,
    state: State,
}

enum State {
    Cbc(Box<cbc::Decryptor<Aes256>>),
    Gcm {
        aead: Box<Aes256Gcm>,
        /// The writer's direction field in the nonces.
        direction: u32,
        /// Minimum counter of the next nonce.
        next: Option<u64>,
    },
    GcmSiv(Box<Aes256GcmSiv>),
}

/// A unit whose tag does not match, that is too short or that was received before: the peer has
/// another key, or the bytes were modified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an encrypted unit does not decrypt, or was received before; the peer uses another key or cipher, or the bytes were modified"
)]
pub struct DecryptError;

impl Opener {
    /// Creates an opener for the direction in which `writer` writes.
    pub(crate) fn new(key: &SessionKey, cipher: Cipher, writer: Role) -> Self {
        let state = match cipher {
            Cipher::AesCbc => State::Cbc(Box::new(cbc::Decryptor::new(
                key.key().into(),
                key.iv().into(),
            ))),
            Cipher::AesGcm => State::Gcm {
                aead: Box::new(Aes256Gcm::new(key.key().into())),
                direction: writer.direction(),
                next: Some(0),
            },
            Cipher::AesGcmSiv => State::GcmSiv(Box::new(Aes256GcmSiv::new(key.key().into()))),
        };
        Self { cipher, state }
    }

    /// Returns the cipher.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Decrypts the whole of `unit` in place and returns the plaintext within it.
    ///
    /// # Errors
    /// [`DecryptError`]; no later data in this direction can be trusted.
    pub fn open<'unit>(&mut self, unit: &'unit mut [u8]) -> Result<&'unit mut [u8], DecryptError> {
        match &mut self.state {
            State::Cbc(decryptor) => {
                let (blocks, rest) = Array::slice_as_chunks_mut(unit);
                if !rest.is_empty() {
                    return Err(DecryptError);
                }
                decryptor.decrypt_blocks(blocks);
                Ok(unit)
            }
            State::Gcm {
                aead,
                direction,
                next,
            } => {
                // Both directions share the key: without this check, an attacker could reflect or
                // replay units.
                let nonce = *unit.first_chunk::<NONCE_LEN>().ok_or(DecryptError)?;
                let (from, count) = split_nonce(nonce);
                if from != *direction || next.is_none_or(|least| count < least) {
                    return Err(DecryptError);
                }
                let text = open_unit(aead.as_ref(), unit)?;
                *next = count.checked_add(1);
                Ok(text)
            }
            State::GcmSiv(aead) => open_unit(aead.as_ref(), unit),
        }
    }
}

fn open_unit<'unit, A>(aead: &A, unit: &'unit mut [u8]) -> Result<&'unit mut [u8], DecryptError>
where
    A: AeadInOut<NonceSize = aes_gcm::aead::consts::U12, TagSize = aes_gcm::aead::consts::U16>,
{
    let (nonce, sealed) = unit
        .split_first_chunk_mut::<NONCE_LEN>()
        .ok_or(DecryptError)?;
    let (text, tag) = sealed
        .split_last_chunk_mut::<TAG_LEN>()
        .ok_or(DecryptError)?;
    aead.decrypt_inout_detached(&Array(*nonce), &[], (&mut *text).into(), &Array(*tag))
        .map_err(|_| DecryptError)?;
    Ok(text)
}

/// Splits a nonce into direction and counter.
fn split_nonce(nonce: [u8; NONCE_LEN]) -> (u32, u64) {
    let [a, b, c, d, count @ ..] = nonce;
    (u32::from_be_bytes([a, b, c, d]), u64::from_be_bytes(count))
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({}, [redacted])", self.cipher)
    }
}
