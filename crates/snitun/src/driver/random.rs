//! The random source of the driver: a ChaCha generator with a seed from the operating system.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::codec::frame::ChannelId;
use crate::crypto::cipher::Entropy;

/// The operating system returned no random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system returned no random bytes")]
pub struct EntropyError;

/// Generates ids, padding and nonces.
pub(crate) struct Random(StdRng);

impl Random {
    pub(crate) fn new() -> Result<Self, EntropyError> {
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut_slice()).map_err(|_| EntropyError)?;
        Ok(Self(StdRng::from_seed(*seed)))
    }

    pub(crate) fn id(&mut self) -> ChannelId {
        let mut id = ChannelId([0; 16]);
        self.fill(&mut id.0);
        id
    }
}

impl Entropy for Random {
    fn fill(&mut self, dest: &mut [u8]) {
        self.0.fill_bytes(dest);
    }
}
