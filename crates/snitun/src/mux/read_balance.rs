//! What a channel's reader has read, which pays for the pauses of the connection that it causes.

use std::time::Duration;

/// Rate of a reader from which on pauses cost no credit, in bytes per second: a caller with a
/// mobile connection.
const FAIR_RATE: usize = 1024 * 1024;
/// Maximum balance of a channel, in bytes: readers take data in bursts, as the buffer of a socket
/// becomes free.
const MAX_BALANCE: usize = 4 * FAIR_RATE;

/// Bytes of a channel that were read and have not paid for a pause yet.
#[derive(Debug, Default)]
pub(super) struct ReadBalance(usize);

impl ReadBalance {
    /// Adds bytes that were read.
    pub(super) fn add(&mut self, count: usize) {
        self.0 = (self.0 + count).min(MAX_BALANCE);
    }

    /// Pays for a pause; returns the time that is not paid for.
    pub(super) fn charge(&mut self, time: Duration) -> Duration {
        let balance = Duration::from_secs(self.0 as u64) / FAIR_RATE as u32;
        let paid = time.min(balance);
        let bytes = paid.as_nanos() * FAIR_RATE as u128 / 1_000_000_000;
        self.0 = self
            .0
            .saturating_sub(usize::try_from(bytes).unwrap_or(MAX_BALANCE));
        time - paid
    }
}
