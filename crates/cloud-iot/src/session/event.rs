//! State, events and result of a session.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloud_net::{Malformed, UntrustedText};

use crate::error::cause::Cause;
use crate::mqtt::reason_code::ReasonCode;
use crate::mqtt::topic::TopicFilter;
use crate::outbox::store::StoreError;

/// State of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionState {
    /// Connecting: TCP, TLS, CONNECT, SUBSCRIBE, on-connect hooks.
    Connecting {
        /// 1 for the first attempt; otherwise one more than the number of failures since the last
        /// connection that lasted for [`reset_after`](crate::Backoff::reset_after).
        attempt: u32,
    },
    /// Connected and subscribed, and the birth message is queued.
    Online {
        /// Start of the connection.
        since: Instant,
    },
    /// Waiting before the next attempt.
    Waiting {
        /// Total delay.
        retry_in: Duration,
        /// Why there is no connection.
        cause: Arc<Cause>,
    },
    /// Stopping, and saying goodbye.
    Stopping,
    /// Stopped; no task is left.
    Stopped,
}

impl SessionState {
    /// Returns whether the session is online.
    #[must_use]
    pub fn is_online(&self) -> bool {
        matches!(self, Self::Online { .. })
    }
}

/// An event of a session. Received messages are not events, because they would occupy memory for
/// slow receivers; use [`messages`](crate::Session::messages).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The session is online.
    Connected,
    /// The connection was lost, or could not be made.
    Disconnected {
        /// The cause.
        reason: Arc<Cause>,
        /// Delay before the next attempt.
        retry_in: Duration,
    },
    /// The session stopped.
    Stopped,
    /// A route's queue was full and messages were dropped. Sent once for each run of losses.
    RouteOverflow {
        /// Filter of the route.
        filter: TopicFilter,
        /// Number of messages that the route has dropped since the start of the session.
        dropped: u64,
    },
    /// A route's handler failed, panicked or timed out.
    RouteFailed {
        /// Filter of the route.
        filter: TopicFilter,
        /// The error.
        error: UntrustedText,
    },
    /// A payload did not match the type of a route's [JSON handler](crate::Router::json).
    RouteMalformed {
        /// Filter of the route.
        filter: TopicFilter,
        /// The error.
        error: Malformed,
        /// Number of such messages on the route since the start of the session.
        count: u64,
    },
    /// The server granted QoS 0 for a subscription at [QoS 1](crate::QoS::AtLeastOnce), as MQTT
    /// 5.0, 3.8.4 allows: messages that are published while there is no connection, or as it
    /// breaks, are not resent. The subscription is used nevertheless. Sent on each connection,
    /// before [`Connected`](Self::Connected). If QoS 1 is required, the server's settings must
    /// change.
    SubscriptionDowngraded {
        /// Filter of the subscription.
        filter: TopicFilter,
    },
    /// The server refused a subscription that is not [required](crate::Subscription::required), or
    /// its SUBSCRIBE would exceed the server's maximum packet size
    /// ([`PACKET_TOO_LARGE`](ReasonCode::PACKET_TOO_LARGE)): messages under the filter do not
    /// arrive. Sent on each connection, before [`Connected`](Self::Connected).
    SubscriptionRefused {
        /// Filter of the subscription.
        filter: TopicFilter,
        /// Reason code in the SUBACK.
        reason: ReasonCode,
        /// The server's words.
        message: Option<UntrustedText>,
    },
    /// The outbox cannot be stored. Until it can, messages are held in memory only, and
    /// [`Receipt::stored`](crate::Receipt::stored) reports it. Sent once for each run of failures.
    StoreFailed {
        /// The error.
        error: StoreError,
    },
}

/// Result of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StopReport {
    /// Whether the session ended cleanly: DISCONNECT was written after all messages, or there was
    /// no connection.
    pub clean: bool,
    /// Number of accepted messages that were not delivered; their receipts report it.
    pub undelivered: usize,
    /// How many of these are [stored](crate::SessionBuilder::outbox_store): the next session with
    /// the same store sends them.
    pub stored: usize,
}
