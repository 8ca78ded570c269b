//! What a tunnel has carried so far, counted where it happens.
//!
//! Plain numbers under the lock that the multiplexer has anyway: counting costs nothing that could be measured. There is no
//! metrics library here; whoever has one reads the numbers from time to time.

/// Counts since the tunnel came up. Only channel data is counted, not headers.
///
/// With the feature `server` it can be serialized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "server", derive(serde::Serialize))]
#[non_exhaustive]
pub struct TunnelStats {
    /// Channels that were opened, by either side.
    pub channels_opened: u64,
    /// Channels that were not, because of a limit or because the tunnel was closing.
    pub channels_refused: u64,
    /// Channels that were closed because more came in than was read.
    pub channels_overrun: u64,
    /// Bytes taken from the peer.
    pub bytes_received: u64,
    /// Bytes handed to the connection.
    pub bytes_sent: u64,
    /// Times that we asked the peer to pause a channel.
    pub pauses_sent: u64,
    /// Times that the peer asked us.
    pub pauses_received: u64,
    /// Messages after which throttling made us wait before the next large one.
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
            (&mut self.pauses_sent, other.pauses_sent),
            (&mut self.pauses_received, other.pauses_received),
            (&mut self.throttled, other.throttled),
        ];
        for (total, more) in pairs {
            *total += more;
        }
    }
}
