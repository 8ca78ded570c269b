//! Pacing: bounds how far bulk is ahead of its reader in version 0, with a peer that does not.
//!
//! Version 0 has no PAUSE, and the answer to a PING shows what the peer has read, not what the
//! caller or the application behind it has. An end of ours therefore reads less when a channel is
//! far ahead of its reader ([`backpressure`](super::backpressure)), and says so in its answers. The
//! Python package reads everything, and ends a channel that is 256 MiB ahead. Nothing shows its
//! reader's rate, so one is assumed: a channel that is further ahead of such a reader than
//! [`MAX_AHEAD`] waits. What is read at [`RATE`] or faster thus arrives whole, whatever its size.

use std::time::Duration;

use super::{ChannelKey, Mux};
use crate::time::Timestamp;

/// Assumed rate of a reader, in bytes per second: 134 Mbit/s.
const RATE: u64 = 16 * 1024 * 1024;
/// How far a channel may be ahead of that reader: 192 MiB. The rest of what the Python package
/// takes is for a reader that stalls for a moment.
const MAX_AHEAD: Duration = Duration::from_secs(12);
/// Time that a channel waits at least, so that it does not wake us for each frame.
const MIN_WAIT: Duration = Duration::from_millis(16);

/// The assumed reader of a channel.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    /// Time when it will have read everything.
    done_at: Timestamp,
}

impl Pacer {
    pub(super) fn on_send(&mut self, count: usize, now: Timestamp) {
        let time = Duration::from_nanos(count as u64 * 1_000_000_000 / RATE);
        self.done_at = self.done_at.max(now) + time;
    }

    /// Returns when more may be sent, if the reader is too far behind.
    pub(super) fn wait_until(&self, now: Timestamp) -> Option<Timestamp> {
        let excess = (self.done_at - now).saturating_sub(MAX_AHEAD);
        (!excess.is_zero()).then(|| now + excess.max(MIN_WAIT))
    }
}

impl Mux {
    /// Returns whether nothing but pacing bounds how far a channel is ahead of its reader.
    pub(super) fn paces(&self) -> bool {
        !self.config.version.has_flow_control()
            && !self.peer_has_backpressure
            && !self.timers.is_draining()
    }

    /// Returns when the first paced channel may send again.
    pub(super) fn pacing_deadline(&self) -> Option<Timestamp> {
        self.paced.iter().map(|(until, _)| *until).min()
    }

    /// Moves the paced channels that may send again to `ready`.
    pub(super) fn resume_paced(&mut self, now: Timestamp) {
        let paces = self.paces();
        let due = |(until, _): &mut (Timestamp, ChannelKey)| *until <= now || !paces;
        self.ready
            .extend(self.paced.extract_if(.., due).map(|(_, key)| key));
    }
}
