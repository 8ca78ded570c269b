//! The challenge and its answer, as two state machines without I/O.
//!
//! After the token the server sends 32 random bytes, encrypted; the client answers with their
//! SHA-256 digest, encrypted. The server sends no confirmation, so the answer to the client's first
//! PING shows that it was accepted. The cipher states continue into the frames that follow, so a
//! completed handshake returns them.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::crypto::cipher::{DecryptError, Entropy, Opener, Role, SealError, Sealer};
use crate::crypto::connection_key::ConnectionKey;

/// Bytes of the challenge and of the answer before encryption.
pub const CHALLENGE_LEN: usize = 32;

/// Maximum length of a token: the server reads it with a single read of this size.
pub const MAX_TOKEN_LEN: usize = 2048;

/// The reason why a handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The peer's data does not decrypt.
    #[error(transparent)]
    Decrypt(#[from] DecryptError),
    /// The session cipher cannot encrypt.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The client's answer is not the digest of the challenge: its key or cipher differs from its
    /// token's.
    #[error(
        "the answer to the challenge is wrong; the client's key or cipher differs from its token's"
    )]
    WrongAnswer,
}

/// The cipher state of an established session, one part for each direction.
#[derive(Debug)]
pub struct Session {
    /// For the [`Encoder`](crate::Encoder).
    pub sealer: Sealer,
    /// For the [`Decoder`](crate::Decoder).
    pub opener: Opener,
}

impl Session {
    fn new(key: &ConnectionKey, role: Role) -> Self {
        let (cipher, key) = (key.cipher(), key.session_key());
        Self {
            sealer: Sealer::new(key, cipher, role),
            opener: Opener::new(key, cipher, role.peer()),
        }
    }
}

/// The client's side: waits for the challenge.
#[derive(Debug)]
pub struct ClientHandshake(Session);

impl ClientHandshake {
    /// Starts a handshake with `key`, which it consumes.
    pub fn new(key: impl Into<ConnectionKey>) -> Self {
        Self(Session::new(&key.into(), Role::Client))
    }

    /// Returns the length of the encrypted challenge.
    pub fn challenge_len(&self) -> usize {
        CHALLENGE_LEN + self.0.opener.cipher().overhead()
    }

    /// Decrypts the challenge, appends the answer to `out`, and returns the session.
    ///
    /// # Errors
    /// [`HandshakeError::Decrypt`] if the challenge does not decrypt. With `aes-cbc` a wrong key is
    /// not detected here.
    pub fn answer(
        mut self,
        challenge: &mut [u8],
        entropy: &mut dyn Entropy,
        out: &mut Vec<u8>,
    ) -> Result<Session, HandshakeError> {
        let digest = Zeroizing::new(<[u8; CHALLENGE_LEN]>::from(Sha256::digest(
            self.0.opener.open(challenge)?,
        )));
        self.0.sealer.seal(digest.as_slice(), entropy, out)?;
        Ok(self.0)
    }
}

/// The server's side: sends the challenge and waits for the answer.
#[derive(Debug)]
pub struct ServerHandshake {
    session: Session,
    expected: Zeroizing<[u8; CHALLENGE_LEN]>,
}

impl ServerHandshake {
    /// Generates a challenge of 32 bytes from `entropy` and appends it, encrypted with `key`, to
    /// `out`. Consumes the key.
    ///
    /// # Errors
    /// [`HandshakeError::Seal`].
    pub fn new(
        key: impl Into<ConnectionKey>,
        entropy: &mut dyn Entropy,
        out: &mut Vec<u8>,
    ) -> Result<Self, HandshakeError> {
        let mut session = Session::new(&key.into(), Role::Server);
        let mut challenge = Zeroizing::new([0; CHALLENGE_LEN]);
        entropy.fill(challenge.as_mut_slice());
        session.sealer.seal(challenge.as_slice(), entropy, out)?;
        Ok(Self {
            session,
            expected: Zeroizing::new(Sha256::digest(challenge.as_slice()).into()),
        })
    }

    /// Returns the length of the encrypted answer.
    pub fn answer_len(&self) -> usize {
        CHALLENGE_LEN + self.session.opener.cipher().overhead()
    }

    /// Verifies the encrypted answer and returns the session.
    ///
    /// # Errors
    /// [`HandshakeError::Decrypt`] or [`HandshakeError::WrongAnswer`].
    pub fn verify(mut self, answer: &mut [u8]) -> Result<Session, HandshakeError> {
        let answer = self.session.opener.open(answer)?;
        // Compares all bytes in constant time, so that the time does not reveal where they differ.
        let difference = answer
            .iter()
            .zip(self.expected.iter())
            .fold(answer.len() ^ CHALLENGE_LEN, |difference, (a, b)| {
                difference | usize::from(a ^ b)
            });
        if difference != 0 {
            return Err(HandshakeError::WrongAnswer);
        }
        Ok(self.session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::cipher::Cipher;
    use crate::crypto::key::SessionKey;

    fn entropy() -> impl FnMut(&mut [u8]) + Send {
        let mut next = 0_u8;
        move |dest: &mut [u8]| {
            for byte in dest {
                *byte = next;
                next = next.wrapping_add(1);
            }
        }
    }

    fn run(server: ConnectionKey, client: ConnectionKey) -> Result<(), HandshakeError> {
        let (mut challenge, mut answer) = (Vec::new(), Vec::new());
        let server = ServerHandshake::new(server, &mut entropy(), &mut challenge)?;
        let client = ClientHandshake::new(client);
        assert_eq!(challenge.len(), client.challenge_len());
        client.answer(&mut challenge, &mut entropy(), &mut answer)?;
        assert_eq!(answer.len(), server.answer_len());
        server.verify(&mut answer).map(drop)
    }

    #[test]
    fn handshake_requires_the_same_key() {
        for cipher in Cipher::ALL {
            let key = |byte| SessionKey::new([byte; 32], [2; 16]).with_cipher(cipher);
            assert_eq!(run(key(1), key(1)), Ok(()));
            assert!(run(key(1), key(3)).is_err());
        }
    }
}
