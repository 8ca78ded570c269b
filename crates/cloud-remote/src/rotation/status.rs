//! The state of a rotation, and its errors.

use std::time::SystemTime;

use time::OffsetDateTime;

use crate::BoxError;
use crate::certificate::serial::CertificateSerial;
use crate::certificate::verify::CertificateError;
use crate::clock::rfc3339;
use crate::traits::{SourceError, StoreError};

/// How far the rotation to the certificate is that the platform desires.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RotationStatus {
    /// The desired certificate is in use, or none is desired.
    #[default]
    Idle,
    /// Another one is desired and is requested once messaging is online.
    Pending {
        /// Its serial number.
        serial: CertificateSerial,
    },
    /// Another one is requested, or being checked and installed.
    InProgress {
        /// Its serial number.
        serial: CertificateSerial,
    },
    /// The last attempt failed.
    Retrying {
        /// The serial number of the certificate.
        serial: CertificateSerial,
        /// The time of the next attempt, by the wall clock of now.
        at: SystemTime,
    },
    /// The platform has named several certificates in quick succession.
    RateLimited {
        /// The serial number of the newest, which is the one that is requested.
        serial: CertificateSerial,
        /// The time of the request, by the wall clock of now.
        until: SystemTime,
    },
}

/// For a status line, such as `certificate 42: rate limited until 2030-01-01T00:00:00Z`.
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

/// In RFC 3339, without fractions of a second.
fn seconds(time: SystemTime) -> String {
    rfc3339(OffsetDateTime::from(time).truncate_to_second())
}

impl RotationStatus {
    /// Whether the rate limit delays the rotation.
    #[must_use]
    pub fn is_rate_limited(&self) -> bool {
        matches!(self, Self::RateLimited { .. })
    }
}

/// Why a certificate was not replaced. It is tried again in every case.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// The platform could not be asked, or its answer could not be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The platform sent a certificate that cannot be used.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The new certificate could not be stored, so it is not used either.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The new certificate was tried out, and does not do what it is for.
    #[error("the new certificate does not work: {0}")]
    TrialFailed(#[source] BoxError),
}
