//! The reading direction of a session cipher.

use std::fmt;

use aes::Aes256;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::array::Array;
use aes_gcm::{Aes256Gcm, KeyInit};
use aes_gcm_siv::Aes256GcmSiv;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};

use super::{Cipher, NONCE_LEN, TAG_LEN};
use crate::SessionKey;

/// Decrypts the units of one direction, in wire order.
pub struct Opener {
    cipher: Cipher,
    state: State,
}

enum State {
    Cbc(Box<cbc::Decryptor<Aes256>>),
    Gcm(Box<Aes256Gcm>),
    GcmSiv(Box<Aes256GcmSiv>),
}

/// A unit whose tag does not match or that is too short: the peer has another key, or someone changed the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an encrypted unit does not decrypt; the peer uses another key or cipher, or the bytes were changed"
)]
pub struct BadUnit;

impl Opener {
    pub(crate) fn new(key: &SessionKey, cipher: Cipher) -> Self {
        let state = match cipher {
            Cipher::AesCbc => State::Cbc(Box::new(cbc::Decryptor::new(
                key.key().into(),
                key.iv().into(),
            ))),
            Cipher::AesGcm => State::Gcm(Box::new(Aes256Gcm::new(key.key().into()))),
            Cipher::AesGcmSiv => State::GcmSiv(Box::new(Aes256GcmSiv::new(key.key().into()))),
        };
        Self { cipher, state }
    }

    /// Which cipher this is.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Decrypts the whole of `unit` in place and returns the plaintext within it.
    ///
    /// # Errors
    /// [`BadUnit`]; nothing that follows on this direction can be trusted then.
    pub fn open<'unit>(&mut self, unit: &'unit mut [u8]) -> Result<&'unit mut [u8], BadUnit> {
        match &mut self.state {
            State::Cbc(decryptor) => {
                let (blocks, rest) = Array::slice_as_chunks_mut(unit);
                if !rest.is_empty() {
                    return Err(BadUnit);
                }
                decryptor.decrypt_blocks(blocks);
                Ok(unit)
            }
            State::Gcm(aead) => open_unit(aead.as_ref(), unit),
            State::GcmSiv(aead) => open_unit(aead.as_ref(), unit),
        }
    }
}

fn open_unit<'unit, A>(aead: &A, unit: &'unit mut [u8]) -> Result<&'unit mut [u8], BadUnit>
where
    A: AeadInOut<NonceSize = aes_gcm::aead::consts::U12, TagSize = aes_gcm::aead::consts::U16>,
{
    let (nonce, sealed) = unit.split_first_chunk_mut::<NONCE_LEN>().ok_or(BadUnit)?;
    let (text, tag) = sealed.split_last_chunk_mut::<TAG_LEN>().ok_or(BadUnit)?;
    aead.decrypt_inout_detached(&Array(*nonce), &[], (&mut *text).into(), &Array(*tag))
        .map_err(|_| BadUnit)?;
    Ok(text)
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({}, [redacted])", self.cipher)
    }
}
