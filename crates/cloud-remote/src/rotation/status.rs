//! The state of a rotation, and its errors.

use std::time::SystemTime;

use cloud_net::{from_unix_seconds, rfc3339, unix_seconds};

use crate::BoxError;
use crate::certificate::serial::CertificateSerial;
use crate::certificate::verify::CertificateError;
use crate::traits::{SourceError, StoreError};

/// The state of the rotation to the desired certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RotationStatus {
    /// The desired certificate is in use, or none is desired.
    #[default]
    Idle,
    /// Another certificate is desired, and is requested once messaging is online.
    Pending {
        /// Its serial number.
        serial: CertificateSerial,
    },
    /// Another certificate is being requested, verified or installed.
    InProgress {
        /// Its serial number.
        serial: CertificateSerial,
    },
    /// The last attempt failed.
    Retrying {
        /// The serial number of the certificate.
        serial: CertificateSerial,
        /// The time of the next attempt, by the current wall clock.
        at: SystemTime,
    },
    /// The platform has named several certificates in quick succession.
    RateLimited {
        /// The serial number of the newest, which is requested.
        serial: CertificateSerial,
        /// The time of the request, by the current wall clock.
        until: SystemTime,
    },
}

/// Formats a status line, such as `certificate 42: rate limited until 2030-01-01T00:00:00Z`.
impl std::fmt::Display for RotationStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Idle => f.write_str("none"),
            Self::Pending { serial } => write!(f, "certificate {serial}: waits for messaging"),
            Self::InProgress { serial } => write!(f, "certificate {serial}: in progress"),
            Self::Retrying { serial, at } => {
                let at = seconds(*at);
                write!(f, "certificate {serial}: failed, next attempt at {at}")
            }
            Self::RateLimited { serial, until } => {
                let until = seconds(*until);
                write!(f, "certificate {serial}: rate limited until {until}")
            }
        }
    }
}

/// Formats a time as RFC 3339 without fractions of a second.
fn seconds(time: SystemTime) -> String {
    rfc3339(from_unix_seconds(unix_seconds(time)))
}

impl RotationStatus {
    /// Returns whether the rate limit delays the rotation.
    #[must_use]
    pub fn is_rate_limited(&self) -> bool {
        matches!(self, Self::RateLimited { .. })
    }
}

/// An error of a rotation. Each one is retried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// The platform could not be reached, or its response is invalid.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The platform sent an unusable certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The new certificate could not be stored, and so is not used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The trial use of the new certificate failed.
    #[error("the new certificate does not work: {0}")]
    TrialFailed(#[source] BoxError),
}
