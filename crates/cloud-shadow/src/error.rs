//! Errors of requests and of the start.

use std::fmt;

pub use cloud_net::Malformed;
use cloud_net::UntrustedText;

use crate::bus::BusError;
use crate::limits::InvalidState;
use crate::topic::{InvalidName, Operation};

/// The reason why a request failed, or why its outcome is unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The state violates a rule of the shadow service; nothing was sent.
    #[error(transparent)]
    Invalid(#[from] InvalidState),
    /// The shadow service rejected the request.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// No response in time. The outcome is unknown; after the next connection the document shows
    /// it.
    #[error("the shadow service did not respond to the {0} in time; the document is fetched again")]
    TimedOut(Operation),
    /// The message bus did not take the request.
    #[error("the request could not be sent")]
    Bus(#[source] BusError),
    /// Too many requests are queued; nothing was sent.
    #[error("{0} shadow requests are queued already; wait for one of them")]
    Busy(usize),
    /// The response to the request cannot be parsed.
    #[error("the shadow service's response cannot be parsed")]
    Unreadable(#[source] Malformed),
    /// The state does not match the application's type, or that type cannot be serialized as JSON.
    #[error("the {section} state does not match its type: {reason}")]
    Shape {
        /// `desired`, `reported` or `delta`.
        section: &'static str,
        /// The mismatch. It may quote the state.
        reason: UntrustedText,
    },
    /// The client was stopped, or the message bus has ended.
    #[error("the shadow client has ended; start another one")]
    Closed,
}

impl RequestError {
    /// Returns whether the same request may succeed later without a change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Rejected(rejection) => rejection.code.is_retryable(),
            Self::Bus(error) => error.is_retryable(),
            Self::TimedOut(_) | Self::Busy(_) => true,
            Self::Invalid(_) | Self::Unreadable(_) | Self::Shape { .. } | Self::Closed => false,
        }
    }

    /// Returns whether the shadow does not exist; the first update creates it.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Rejected(rejection) if rejection.code == RejectionCode::NotFound)
    }

    /// Returns whether the update's version was not the current one.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Rejected(rejection) if rejection.code == RejectionCode::Conflict)
    }
}

/// A rejection by the shadow service.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the shadow service refused the {operation}: {code}: {message}")]
#[non_exhaustive]
pub struct Rejection {
    /// The rejected operation.
    pub operation: Operation,
    /// The reason, for programs.
    pub code: RejectionCode,
    /// The reason, for people.
    pub message: UntrustedText,
}

/// AWS's code of a rejection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum RejectionCode {
    /// 400: not JSON, or not a valid request.
    BadRequest,
    /// 401: not authenticated.
    Unauthorized,
    /// 403: the device's policy does not allow it.
    Forbidden,
    /// 404: no such thing, or no such shadow yet.
    NotFound,
    /// 409: the given version is not the current one.
    Conflict,
    /// 413: request or document too large.
    TooLarge,
    /// 415: not UTF-8.
    UnsupportedEncoding,
    /// 429: more than ten requests at once on a connection.
    TooManyRequests,
    /// 500: an internal error of the service.
    Internal,
    /// A code that AWS does not document.
    Other(u16),
}

impl RejectionCode {
    /// Returns whether the same request may succeed later.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        match self {
            Self::TooManyRequests | Self::Internal => true,
            Self::Other(code) => code >= 500,
            _ => false,
        }
    }

    /// Returns the number on the wire.
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

/// The reason why a shadow client could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The name of the thing or the shadow is invalid.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// The message bus rejected the subscription.
    #[error("cannot subscribe to {filter}")]
    Subscribe {
        /// The topic filter.
        filter: String,
        /// The bus error.
        #[source]
        source: BusError,
    },
    /// The message bus did not confirm the subscriptions in time.
    #[error(
        "cannot subscribe to {filter}: no response in time; start again when the bus is connected"
    )]
    TimedOut {
        /// The pending topic filter.
        filter: String,
    },
}

impl StartError {
    /// Returns whether another start may succeed.
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
