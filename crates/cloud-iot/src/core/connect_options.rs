//! How the next attempt connects: what earlier connections have taught about the server.

use crate::core::endpoint::Endpoint;

/// The endpoint of an attempt, and how to connect to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectOptions {
    pub(crate) endpoint: Endpoint,
    /// Whether a message that violates the protocol is dropped, because one has ended a connection
    /// before.
    pub(crate) lenient: bool,
    /// Whether the will is sent at QoS 0, because the server supports no other.
    pub(crate) will_at_most_once: bool,
    /// Whether the will is sent without the retain flag, because the server does not support it.
    pub(crate) will_not_retained: bool,
}
