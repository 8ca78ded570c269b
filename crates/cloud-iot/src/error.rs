//! The errors of a session's operations, one enum for each family.

use std::time::Duration;

use thiserror::Error;

use crate::cause::POLICY;
use crate::reason::ReasonCode;
use crate::store::StoreError;
use crate::topic::{TopicError, TopicFilter};

/// Why a session cannot be started with this configuration. It is the caller's mistake.
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
        /// Its length in bytes.
        length: usize,
        /// The longest allowed, in bytes.
        limit: usize,
    },
    /// The keep-alive interval is out of range or not in whole seconds.
    #[error("the keep-alive interval is {0:?}, it must be 5 s to 65535 s in whole seconds")]
    KeepAlive(Duration),
    /// A topic of the will, the birth message or the goodbye cannot be published to.
    #[error("the {message} message: {error}")]
    Topic {
        /// Which of the session's own messages.
        message: &'static str,
        /// What is wrong with its topic.
        error: TopicError,
    },
    /// The will, the birth message or the goodbye is too large.
    #[error("the {message} message has {size} bytes of payload, at most {limit} are allowed")]
    TooLarge {
        /// Which of the session's own messages.
        message: &'static str,
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// There are more subscriptions than allowed.
    #[error("{count} subscriptions are too many, at most {limit} are allowed")]
    Subscriptions {
        /// How many there are.
        count: usize,
        /// The limit.
        limit: usize,
    },
    /// A filter is subscribed to twice.
    #[error("the filter {0} is subscribed to twice")]
    DuplicateSubscription(TopicFilter),
    /// A limit, time limit or back-off value is out of its range.
    #[error("{name} must be {range}")]
    OutOfRange {
        /// The field's name.
        name: &'static str,
        /// What is allowed.
        range: &'static str,
    },
    /// The session was started outside a Tokio runtime.
    #[error("a session must be started inside a Tokio runtime with time and I/O enabled")]
    NoRuntime,
}

/// Why a message was not accepted. Nothing of it was kept.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PublishError {
    /// The topic cannot be published to.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The payload is larger than allowed.
    #[error("the payload has {size} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The outbox holds as much as it may; try again when something was delivered.
    #[error("the outbox is full ({messages} messages, {bytes} bytes); try again later")]
    OutboxFull {
        /// Messages waiting or unacknowledged.
        messages: usize,
        /// What they count, in bytes.
        bytes: usize,
    },
    /// The message could not be [stored](crate::SessionHandle::publish_stored).
    #[error(transparent)]
    NotStored(StoreError),
    /// The session is stopping or has stopped.
    #[error("the session has been stopped")]
    Stopped,
}

impl PublishError {
    /// Whether the same message may be accepted later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::OutboxFull { .. } => true,
            Self::NotStored(error) => error.is_retryable(),
            Self::Topic(_) | Self::TooLarge { .. } | Self::Stopped => false,
        }
    }
}

/// Why an accepted message was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The server refused it, by the reason code of its PUBACK; or of the DISCONNECT with which it has ended
    /// three connections in answer to this message. A refusal that may pass (server busy, packet identifier in use, message
    /// rate too high, quota exceeded) only counts when the server takes others meanwhile, and ends it at the eighth time.
    #[error("{}", refused_message(*.0))]
    Refused(ReasonCode),
    /// Its packet is larger than this server takes.
    #[error("the packet has {size} bytes, the server takes at most {limit}")]
    TooLarge {
        /// The packet's size in bytes.
        size: usize,
        /// The server's limit in bytes.
        limit: usize,
    },
    /// The server does not support its quality of service, or retaining.
    #[error("the server does not support {0}")]
    NotSupported(&'static str),
    /// It was not delivered in the time that it was given. At QoS 1 it may have arrived all the same.
    #[error("the message was not delivered before it expired")]
    Expired,
    /// The outbox was full, and the message had to make room for a later one, as the
    /// [`Overflow`](crate::Overflow) policy says.
    #[error("the outbox was full and the message made room for a later one")]
    Displaced,
    /// The session was stopped first. A message at QoS 1 may have arrived all the same, and if it is
    /// [stored](crate::SessionBuilder::outbox_store) the next session sends it.
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
    /// Whether publishing the same message again may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Refused(ReasonCode::QUOTA_EXCEEDED | ReasonCode::UNSPECIFIED) | Self::Displaced
        )
    }
}

/// Why a request got no answer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The request was not accepted.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The request was not delivered.
    #[error(transparent)]
    Delivery(#[from] DeliveryError),
    /// None of the session's subscriptions brings the reply topic.
    #[error("the session is not subscribed to the reply topic {0:?}")]
    NotSubscribed(String),
    /// Another request waits for an answer on the same topic.
    #[error("another request waits for an answer on {0:?}; wait for it to end")]
    Busy(String),
    /// As many requests wait as may.
    #[error("{0} requests are waiting for their answers already; wait for one to end")]
    TooMany(usize),
    /// No answer came in time, be it that the request never left.
    #[error("no answer came within {0:?}")]
    Timeout(Duration),
    /// The session was stopped.
    #[error("the session was stopped before an answer came")]
    Stopped,
}

impl RequestError {
    /// Whether asking again may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Publish(error) => error.is_retryable(),
            Self::Delivery(error) => error.is_retryable(),
            Self::Busy(_) | Self::TooMany(_) | Self::Timeout(_) => true,
            Self::NotSubscribed(_) | Self::Stopped => false,
        }
    }
}

/// Why no stream of messages can be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The filter is not valid.
    #[error(transparent)]
    Filter(#[from] TopicError),
    /// None of the session's subscriptions brings anything that the filter matches.
    #[error("the session is not subscribed to anything under {0}")]
    NotSubscribed(TopicFilter),
    /// As many streams are open as may be.
    #[error("{0} streams are open already; drop one first")]
    TooMany(usize),
    /// The session is stopping or has stopped.
    #[error("the session has been stopped")]
    Stopped,
}
