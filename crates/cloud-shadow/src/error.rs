//! How a request can fail: refused by the shadow service, not answered, or not sent.

use std::fmt;

use cloud_net::UntrustedText;

use crate::bus::BusError;
use crate::limits::InvalidState;
use crate::topic::{InvalidName, Operation};

/// Why a request was not carried out, or why its outcome is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The state breaks a rule of the shadow service; nothing was sent.
    #[error(transparent)]
    Invalid(#[from] InvalidState),
    /// The shadow service refused.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// No answer in time. Whether the request was carried out is not known; after the next connection the document tells.
    #[error(
        "the shadow service did not answer the {0} in time; the document will be fetched again"
    )]
    TimedOut(Operation),
    /// The message bus did not take the request.
    #[error("the request could not be sent")]
    Bus(#[source] BusError),
    /// Too many requests wait for their turn already; nothing was sent.
    #[error("{0} shadow requests are waiting already; wait for one of them")]
    Busy(usize),
    /// The answer to the request cannot be read.
    #[error("the shadow service's answer cannot be read")]
    Unreadable(#[source] Malformed),
    /// The state is not of the type that the caller asked for, or that type cannot be written as JSON.
    #[error("the {section} state does not fit its type: {reason}")]
    Shape {
        /// `desired`, `reported` or `delta`.
        section: &'static str,
        /// What does not fit. It may quote the state.
        reason: UntrustedText,
    },
    /// The client was stopped, or the message bus is gone.
    #[error("the shadow client has ended")]
    Closed,
}

impl RequestError {
    /// Whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Rejected(rejection) => rejection.code.is_retryable(),
            Self::Bus(error) => error.is_retryable(),
            Self::TimedOut(_) | Self::Busy(_) => true,
            Self::Invalid(_) | Self::Unreadable(_) | Self::Shape { .. } | Self::Closed => false,
        }
    }

    /// Whether the shadow service says that there is no such shadow, which the first update changes.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Rejected(rejection) if rejection.code == RejectionCode::NotFound)
    }

    /// Whether the update named a version that is no longer the current one.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Rejected(rejection) if rejection.code == RejectionCode::Conflict)
    }
}

/// A message's payload is not what it should be. It says where and in what way, and quotes nothing: whoever can publish on a
/// shadow's topics would decide what stands in the logs, and how much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the payload is {} (line {line}, column {column})", if *.is_json { "JSON, but not of the expected form" } else { "not JSON" })]
#[non_exhaustive]
pub struct Malformed {
    /// Whether it is JSON at all.
    pub is_json: bool,
    /// The line of the fault, from 1 up.
    pub line: usize,
    /// The column of the fault, in bytes, from 1 up.
    pub column: usize,
}

impl From<serde_json::Error> for Malformed {
    fn from(error: serde_json::Error) -> Self {
        Self {
            is_json: error.is_data(),
            line: error.line(),
            column: error.column(),
        }
    }
}

/// The shadow service's refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the shadow service refused the {operation}: {code}: {message}")]
#[non_exhaustive]
pub struct Rejection {
    /// What was refused.
    pub operation: Operation,
    /// Why, for programs.
    pub code: RejectionCode,
    /// Why, for people.
    pub message: UntrustedText,
}

/// AWS's code for a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionCode {
    /// 400: not JSON, or not the form of a request.
    BadRequest,
    /// 401: not authenticated.
    Unauthorized,
    /// 403: the device's policy does not allow it.
    Forbidden,
    /// 404: no such thing, or no such shadow yet.
    NotFound,
    /// 409: the version named is not the current one.
    Conflict,
    /// 413: request or document too large.
    TooLarge,
    /// 415: not UTF-8.
    UnsupportedEncoding,
    /// 429: more than ten requests at once on a connection.
    TooManyRequests,
    /// 500: a fault of the service.
    Internal,
    /// A code that AWS does not document.
    Other(u16),
}

impl RejectionCode {
    /// Whether the same request may succeed later without anything being changed.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::TooManyRequests | Self::Internal => true,
            Self::Other(code) => code >= 500,
            _ => false,
        }
    }

    /// The number on the wire.
    #[must_use]
    pub fn as_u16(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::TooLarge => 413,
            Self::UnsupportedEncoding => 415,
            Self::TooManyRequests => 429,
            Self::Internal => 500,
            Self::Other(code) => code,
        }
    }
}

impl From<u16> for RejectionCode {
    fn from(code: u16) -> Self {
        match code {
            400 => Self::BadRequest,
            401 => Self::Unauthorized,
            403 => Self::Forbidden,
            404 => Self::NotFound,
            409 => Self::Conflict,
            413 => Self::TooLarge,
            415 => Self::UnsupportedEncoding,
            429 => Self::TooManyRequests,
            500 => Self::Internal,
            code => Self::Other(code),
        }
    }
}

impl fmt::Display for RejectionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_u16())
    }
}

/// Why a shadow client could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The thing's or the shadow's name is not one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The message bus did not take the subscription.
    #[error("cannot subscribe to {filter}")]
    Subscribe {
        /// The topic filter.
        filter: String,
        /// Why.
        #[source]
        source: BusError,
    },
    /// The message bus did not take the subscriptions in time.
    #[error("cannot subscribe to {filter}: no answer in time")]
    TimedOut {
        /// The topic filter that was waited for.
        filter: String,
    },
}

impl StartError {
    /// Whether starting again may succeed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Name(_) => false,
            Self::Subscribe { source, .. } => source.is_retryable(),
            Self::TimedOut { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_round_trip() {
        for code in 0..=999 {
            assert_eq!(RejectionCode::from(code).as_u16(), code);
        }
        assert!(RejectionCode::from(429).is_retryable());
        assert!(RejectionCode::from(503).is_retryable());
        assert!(!RejectionCode::from(403).is_retryable());
    }
}
