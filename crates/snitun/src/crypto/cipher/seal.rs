//! The writing direction of a session cipher.

use std::fmt;

use aes::Aes256;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::array::Array;
use aes_gcm::{Aes256Gcm, KeyInit};
use aes_gcm_siv::Aes256GcmSiv;
use cbc::cipher::{BlockModeEncrypt, KeyIvInit};

use super::{Cipher, Entropy, NONCE_LEN, Role};
use crate::SessionKey;

/// Encrypts the units of one direction, in wire order.
pub struct Sealer {
    cipher: Cipher,
    state: State,
}

enum State {
    Cbc(Box<cbc::Encryptor<Aes256>>),
    Gcm {
        aead: Box<Aes256Gcm>,
        direction: u32,
        /// The next nonce; `None` once all have been used.
        counter: Option<u64>,
    },
    GcmSiv(Box<Aes256GcmSiv>),
}

/// The reason why a unit could not be encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The nonces of this session are used up.
    #[error("the session cipher cannot encrypt another unit; open a new connection with a new key")]
    Exhausted,
    /// The cipher cannot encrypt a unit of this length: an error of the caller, as the protocol's
    /// own units all have a valid length.
    #[error(
        "a unit to encrypt has a length that the session cipher does not support; make it a multiple of 16 bytes"
    )]
    UnitLength,
}

impl Sealer {
    /// Creates a sealer for the direction in which `role` writes.
    pub(crate) fn new(key: &SessionKey, cipher: Cipher, role: Role) -> Self {
        let state = match cipher {
            Cipher::AesCbc => State::Cbc(Box::new(cbc::Encryptor::new(
                key.key().into(),
                key.iv().into(),
            ))),
            Cipher::AesGcm => State::Gcm {
                aead: Box::new(Aes256Gcm::new(key.key().into())),
                direction: role.direction(),
                counter: Some(0),
            },
            Cipher::AesGcmSiv => State::GcmSiv(Box::new(Aes256GcmSiv::new(key.key().into()))),
        };
        Self { cipher, state }
    }

    /// Returns the cipher.
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Appends `plain`, encrypted, to `out`. With `aes-cbc` a unit is a multiple of 16 bytes.
    ///
    /// # Errors
    /// [`SealError`]; `out` then contains no usable unit and the session is over.
    pub fn seal(
        &mut self,
        plain: &[u8],
        entropy: &mut dyn Entropy,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        match &mut self.state {
            State::Cbc(encryptor) => {
                let start = out.len();
                out.extend_from_slice(plain);
                let (blocks, rest) = Array::slice_as_chunks_mut(&mut out[start..]);
                if !rest.is_empty() {
                    return Err(SealError::UnitLength);
                }
                encryptor.encrypt_blocks(blocks);
                Ok(())
            }
            State::Gcm {
                aead,
                direction,
                counter,
            } => {
                let count = counter.ok_or(SealError::Exhausted)?;
                *counter = count.checked_add(1);
                let mut nonce = [0; NONCE_LEN];
                nonce[..4].copy_from_slice(&direction.to_be_bytes());
                nonce[4..].copy_from_slice(&count.to_be_bytes());
                append_unit(aead.as_ref(), nonce, plain, out)
            }
            State::GcmSiv(aead) => {
                let mut nonce = [0; NONCE_LEN];
                entropy.fill(&mut nonce);
                append_unit(aead.as_ref(), nonce, plain, out)
            }
        }
    }
}

/// Appends `nonce ‖ ciphertext ‖ tag`.
fn append_unit<A>(
    aead: &A,
    nonce: [u8; NONCE_LEN],
    plain: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), SealError>
where
    A: AeadInOut<NonceSize = aes_gcm::aead::consts::U12, TagSize = aes_gcm::aead::consts::U16>,
{
    out.extend_from_slice(&nonce);
    let start = out.len();
    out.extend_from_slice(plain);
    let tag = aead
        .encrypt_inout_detached(&Array(nonce), &[], (&mut out[start..]).into())
        .map_err(|_| SealError::UnitLength)?;
    out.extend_from_slice(&tag);
    Ok(())
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({}, [redacted])", self.cipher)
    }
}
