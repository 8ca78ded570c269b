//! Errors of a session's operations, one enum per operation.

pub(crate) mod cause;

use std::time::Duration;

use thiserror::Error;

use crate::error::cause::POLICY;
use crate::mqtt::reason_code::ReasonCode;
use crate::mqtt::topic::{TopicError, TopicFilter};
use crate::outbox::store::StoreError;

/// Why a session cannot start with this configuration. The caller must change it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The host is neither a DNS name nor an IP address.
    #[error("the host {0:?} is neither a DNS name nor an IP address (give no scheme and no port)")]
    Host(String),
    /// The port is 0.
    #[error("the port must not be 0")]
    Port,
    /// The client id is empty or too long.
    #[error("the client id has {length} bytes, it must have 1 to {limit}")]
    ClientId {
        /// Length in bytes.
        length: usize,
        /// Maximum length in bytes.
        limit: usize,
    },
    /// The keep-alive interval is out of range or not in whole seconds.
    #[error("the keep-alive interval is {0:?}, it must be 5 s to 65535 s in whole seconds")]
    KeepAlive(Duration),
    /// The topic of the will, the birth message or the goodbye message is not valid.
    #[error("the {message} message: {error}")]
    Topic {
        /// Which of the session's own messages.
        message: &'static str,
        /// What is wrong with its topic.
        error: TopicError,
    },
    /// The will, the birth message or the goodbye message is too large.
    #[error("the {message} message has {size} bytes of payload, at most {limit} are allowed")]
    TooLarge {
        /// Which of the session's own messages.
        message: &'static str,
        /// Size in bytes.
        size: usize,
        /// Limit in bytes.
        limit: usize,
    },
    /// There are more subscriptions than allowed.
    #[error(
        "{count} subscriptions are too many, at most {limit} are allowed; \
         combine some with wildcards"
    )]
    Subscriptions {
        /// Number of subscriptions.
        count: usize,
        /// Maximum number.
        limit: usize,
    },
    /// A filter is subscribed to twice.
    #[error("the filter {0} is subscribed to twice; remove one of the subscriptions")]
    DuplicateSubscription(TopicFilter),
    /// A limit, timeout or back-off value is out of range.
    #[error("{name} must be {range}")]
    OutOfRange {
        /// Name of the field.
        name: &'static str,
        /// Allowed range.
        range: &'static str,
    },
    /// The session was started outside a Tokio runtime.
    #[error("a session must be started inside a Tokio runtime with time and I/O enabled")]
    NoRuntime,
}

/// Why a message was not accepted. No part of it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic is not valid for publishing.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The payload is larger than allowed.
    #[error("the payload has {size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Size in bytes.
        size: usize,
        /// Limit in bytes.
        limit: usize,
    },
    /// The message's properties are not allowed.
    #[error("the message's properties: {0}")]
    Properties(String),
    /// The outbox is full. Try again when messages have been delivered.
    #[error("the outbox is full ({messages} messages, {bytes} bytes); try again later")]
    OutboxFull {
        /// Messages that wait or are unacknowledged.
        messages: usize,
        /// Their cost in bytes.
        bytes: usize,
    },
    /// The message could not be [stored](crate::Session::publish_stored).
    #[error(transparent)]
    NotStored(StoreError),
    /// The session is stopping or has stopped.
    #[error("the session has been stopped; start another one")]
    Stopped,
}

impl PublishError {
    /// Returns whether the same message may be accepted later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::OutboxFull { .. } => true,
            Self::NotStored(error) => error.is_retryable(),
            Self::Topic(_) | Self::TooLarge { .. } | Self::Properties(_) | Self::Stopped => false,
        }
    }
}

/// Why an accepted message was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The server refused the message, by the reason code of its PUBACK, or of the DISCONNECT with
    /// which it ended three connections because of this message. A transient reason (server busy,
    /// packet identifier in use, message rate too high, quota exceeded) counts only while the
    /// server accepts other messages, and is final the eighth time.
    #[error("{}", refused_message(*.0))]
    Refused(ReasonCode),
    /// The packet is larger than the server's limit.
    #[error("the packet has {size} bytes, the server accepts at most {limit}")]
    TooLarge {
        /// Packet size in bytes.
        size: usize,
        /// Limit of the server in bytes.
        limit: usize,
    },
    /// The server does not support its quality of service, or retained messages.
    #[error("the server does not support {0}")]
    NotSupported(&'static str),
    /// The message expired before it was delivered. At QoS 1 it may have arrived.
    #[error("the message was not delivered before it expired")]
    Expired,
    /// The outbox was full, and the [`Overflow`](crate::Overflow) policy dropped the message for a
    /// later one.
    #[error("the outbox was full and the message was dropped for a later one")]
    Displaced,
    /// The session stopped first. A QoS 1 message may have arrived; if it is
    /// [stored](crate::SessionBuilder::outbox_store), the next session sends it.
    #[error("the session was stopped before the message was acknowledged")]
    Stopped,
}

fn refused_message(reason: ReasonCode) -> String {
    if reason == ReasonCode::NOT_AUTHORIZED {
        format!(
            "the broker does not permit this device to publish to the topic: {POLICY} ({reason})"
        )
    } else {
        format!("the server refused the message: {reason}")
    }
}

impl DeliveryError {
    /// Returns a short name, for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Refused(_) => "refused",
            Self::TooLarge { .. } => "too_large",
            Self::NotSupported(_) => "not_supported",
            Self::Expired => "expired",
            Self::Displaced => "displaced",
            Self::Stopped => "stopped",
        }
    }

    /// Returns whether publishing the same message again may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Refused(ReasonCode::QUOTA_EXCEEDED | ReasonCode::UNSPECIFIED) | Self::Displaced
        )
    }
}

/// Why a request has no response.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request was not accepted.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The request was not delivered.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// No subscription of the session covers the reply topic.
    #[error(
        "the session is not subscribed to the reply topic {0:?}; \
         add a subscription that covers it to the configuration"
    )]
    NotSubscribed(String),
    /// The server of the current connection has refused the subscriptions that cover the reply
    /// topic, so no response can arrive. The request was not sent.
    #[error("the server refuses the subscription to the reply topic {0:?}: {POLICY}")]
    SubscriptionRefused(String),
    /// Another request waits for a response on the same topic.
    #[error("another request waits for a response on {0:?}; wait for it to end")]
    Busy(String),
    /// The maximum number of requests is waiting.
    #[error("{0} requests already wait for a response; wait for one to end")]
    TooMany(usize),
    /// No response arrived in time. The request may not have been sent.
    #[error("no response arrived within {0:?}")]
    Timeout(Duration),
    /// The session stopped.
    #[error("the session was stopped before a response arrived")]
    Stopped,
}

impl RequestError {
    /// Returns whether another request may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Publish(error) => error.is_retryable(),
            Self::Delivery(error) => error.is_retryable(),
            Self::Busy(_) | Self::TooMany(_) | Self::Timeout(_) => true,
            Self::NotSubscribed(_) | Self::SubscriptionRefused(_) | Self::Stopped => false,
        }
    }
}

/// Why there is no subscription; see [`Session::subscribe`](crate::Session::subscribe).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The session has the maximum number of subscriptions.
    #[error("there are {0} subscriptions already; drop one first")]
    TooMany(usize),
    /// The server refused the subscription, with this reason in one line.
    #[error("{0}")]
    Refused(String),
    /// The session is stopping or has stopped.
    #[error("the session has been stopped; start another one")]
    Stopped,
}

/// Why a message stream cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The filter is not valid.
    #[error(transparent)]
    Filter(#[from] TopicError),
    /// No subscription of the session overlaps the filter.
    #[error(
        "the session is not subscribed to anything under {0}; \
         add a subscription to the configuration"
    )]
    NotSubscribed(TopicFilter),
    /// The maximum number of streams is open.
    #[error("{0} streams are open already; drop one first")]
    TooMany(usize),
    /// The session holds no messages for readers that acknowledge them.
    #[error("the session holds no messages; set SessionConfig::hold")]
    HoldsNone,
    /// The session is stopping or has stopped.
    #[error("the session has been stopped; start another one")]
    Stopped,
}
