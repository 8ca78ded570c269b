//! A fuzzer's input as a random source.

use std::convert::Infallible;

use rand::{Rng, TryRng};

/// The input as a random source; zeros once it is used up.
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl Choices<'_> {
    pub(crate) fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.fill_bytes(&mut byte);
        byte[0]
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl TryRng for Choices<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Infallible> {
        let (now, later) = self.0.split_at(dest.len().min(self.0.len()));
        dest[..now.len()].copy_from_slice(now);
        dest[now.len()..].fill(0);
        self.0 = later;
        Ok(())
    }
}
