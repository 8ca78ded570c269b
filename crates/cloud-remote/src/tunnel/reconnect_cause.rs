//! Why the tunnel has to be connected again, counted by cause.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use snitun::CloseReason;

use super::TunnelError;
use crate::core::ConnectFault;

/// A cause for which the tunnel has to be connected again: an attempt failed, or the tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReconnectCause {
    /// The relay, or the proxy before it, could not be reached.
    Unreachable,
    /// The relay refused the token or the keys.
    Refused,
    /// The connection broke during the handshake.
    Handshake,
    /// The relay did not respond to an attempt in time.
    ConnectTimeout,
    /// The relay closed the tunnel.
    Closed,
    /// The connection of the tunnel failed.
    Broken,
    /// Nothing arrived any more.
    DeadLink,
    /// The relay violated the protocol.
    Protocol,
    /// A newer tunnel of the same device replaced it.
    Replaced,
    /// The token has expired.
    Expired,
    /// Anything else.
    Other,
}

impl ReconnectCause {
    /// All causes.
    pub const ALL: [Self; 11] = [
        Self::Unreachable,
        Self::Refused,
        Self::Handshake,
        Self::ConnectTimeout,
        Self::Closed,
        Self::Broken,
        Self::DeadLink,
        Self::Protocol,
        Self::Replaced,
        Self::Expired,
        Self::Other,
    ];

    /// A short name, for metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::Handshake => "handshake",
            Self::ConnectTimeout => "connect_timeout",
            Self::Closed => "closed",
            Self::Broken => "broken",
            Self::DeadLink => "dead_link",
            Self::Protocol => "protocol",
            Self::Replaced => "replaced",
            Self::Expired => "expired",
            Self::Other => "other",
        }
    }
}

impl From<&TunnelError> for ReconnectCause {
    fn from(error: &TunnelError) -> Self {
        match error.fault() {
            ConnectFault::Unreachable => Self::Unreachable,
            ConnectFault::Refused => Self::Refused,
            ConnectFault::Broken => Self::Handshake,
            ConnectFault::Busy => Self::Other,
        }
    }
}

impl From<&CloseReason> for ReconnectCause {
    fn from(reason: &CloseReason) -> Self {
        match reason {
            CloseReason::Peer | CloseReason::Shutdown => Self::Closed,
            CloseReason::Io { .. } => Self::Broken,
            CloseReason::PingTimeout | CloseReason::Idle | CloseReason::WriteStalled => {
                Self::DeadLink
            }
            CloseReason::Protocol(_) | CloseReason::Flooded | CloseReason::Cipher(_) => {
                Self::Protocol
            }
            CloseReason::Replaced => Self::Replaced,
            CloseReason::Expired => Self::Expired,
            _ => Self::Other,
        }
    }
}

/// The counts since the start. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReconnectCounter(Arc<[AtomicU64; ReconnectCause::ALL.len()]>);

impl ReconnectCounter {
    pub(crate) fn count(&self, cause: ReconnectCause) {
        self.0[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn get(&self, cause: ReconnectCause) -> u64 {
        self.0[cause as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reconnects_are_counted_by_cause() {
        let counter = ReconnectCounter::default();
        counter.count((&TunnelError::KeyAlreadyUsed).into());
        counter.count((&CloseReason::PingTimeout).into());
        counter.count((&CloseReason::Idle).into());
        let counts = ReconnectCause::ALL.map(|cause| (cause.name(), counter.get(cause)));
        let counted = counts.into_iter().filter(|(_, count)| *count > 0);
        let counted: Vec<_> = counted.collect();
        assert_eq!(counted, [("refused", 1), ("dead_link", 2)]);
    }
}
