//! What a session tells about itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cloud_net::UntrustedText;

use crate::cause::Cause;
use crate::json::Malformed;
use crate::store::StoreError;
use crate::topic::TopicFilter;

/// Where a session stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionState {
    /// It makes a connection: TCP, TLS, CONNECT, SUBSCRIBE, on-connect hooks.
    Connecting {
        /// 1 for the first attempt of all; otherwise one more than the losses and failures since the last connection that
        /// held for [`reset_after`](crate::Backoff::reset_after).
        attempt: u32,
    },
    /// It is connected and subscribed, and the birth message has been handed over.
    Online {
        /// Since when.
        since: Instant,
    },
    /// It waits before the next attempt.
    Waiting {
        /// How long it waits in all.
        retry_in: Duration,
        /// Why there is no connection.
        cause: Arc<Cause>,
    },
    /// It has been told to stop and says goodbye.
    Stopping,
    /// It has ended; no task is left.
    Stopped,
}

impl SessionState {
    /// Whether messages flow.
    #[must_use]
    pub fn is_online(&self) -> bool {
        matches!(self, Self::Online { .. })
    }
}

/// Something that happened to a session. Received messages are not among these: they would pin
/// memory for readers that never come; use [`messages`](crate::SessionHandle::messages).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionEvent {
    /// The session is online.
    Connected,
    /// The connection was lost, or could not be made.
    Disconnected {
        /// Why.
        reason: Arc<Cause>,
        /// When the next attempt starts.
        retry_in: Duration,
    },
    /// The session has been stopped by its owner.
    Stopped,
    /// A route's queue was full and messages were dropped. Told once for each run of losses.
    RouteOverflow {
        /// The route.
        filter: TopicFilter,
        /// How many messages the route has lost since the session was started.
        dropped: u64,
    },
    /// A route's handler failed, panicked or took too long.
    RouteFailed {
        /// The route.
        filter: TopicFilter,
        /// What happened.
        error: UntrustedText,
    },
    /// A message was not what a route's [JSON handler](crate::Router::json) takes.
    RouteMalformed {
        /// The route.
        filter: TopicFilter,
        /// What is wrong with it.
        error: Malformed,
        /// How many such messages the route has had since the session was started.
        count: u64,
    },
    /// The server granted a subscription that was asked for [at least once](crate::QoS::AtLeastOnce) at QoS 0 only, as it
    /// may (MQTT 5.0, 3.8.4): what is published under the filter while there is no connection, or as it breaks, does not come
    /// again. The subscription is used all the same. Told each time that it is granted so, before
    /// [`Connected`](Self::Connected). Where that is not enough the server's settings or its operator have to be asked.
    SubscriptionDowngraded {
        /// What was asked for.
        filter: TopicFilter,
    },
    /// The outbox cannot be stored. Until it can, messages are held in memory only, and
    /// [`Receipt::stored`](crate::Receipt::stored) says so. Told once for each run of failures.
    StoreFailed {
        /// Why.
        error: StoreError,
    },
}
