//! Traffic counters of a tunnel.
//!
//! Plain numbers under the multiplexer's lock: counting has no measurable cost. The crate uses no
//! metrics library; applications read the counters.

/// Counters since the tunnel came up. Only channel data is counted, not headers.
///
/// With the feature `server` it can be serialized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TunnelStats {
    /// Channels that were opened, by either side.
    pub channels_opened: u64,
    /// Channels that were refused, because of a limit or because the tunnel was closing.
    pub channels_refused: u64,
    /// Channels that were closed because more data arrived than was read.
    pub channels_overrun: u64,
    /// Bytes received from the peer.
    pub bytes_received: u64,
    /// Bytes handed to the connection.
    pub bytes_sent: u64,
    /// Pauses in reading from the connection for a channel that is ahead of its reader, in version
    /// 0.
    pub read_pauses: u64,
    /// PAUSE frames sent.
    pub pauses_sent: u64,
    /// PAUSE frames received.
    pub pauses_received: u64,
    /// Times that a channel had to wait because its reader may be too far behind, in version 0 of a
    /// peer that does not slow down a sender.
    pub paced: u64,
    /// Messages after which throttling delayed the next large one.
    pub throttled: u64,
}

impl TunnelStats {
    /// Adds the counts of another tunnel.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.channels_opened, other.channels_opened),
            (&mut self.channels_refused, other.channels_refused),
            (&mut self.channels_overrun, other.channels_overrun),
            (&mut self.bytes_received, other.bytes_received),
            (&mut self.bytes_sent, other.bytes_sent),
            (&mut self.read_pauses, other.read_pauses),
            (&mut self.pauses_sent, other.pauses_sent),
            (&mut self.pauses_received, other.pauses_received),
            (&mut self.paced, other.paced),
            (&mut self.throttled, other.throttled),
        ];
        for (total, more) in pairs {
            *total += more;
        }
    }
}
