//! What remote access tells about itself: a status to look at, and events to follow.
//!
//! The status is a `watch`: the latest value, always there. Events are a `broadcast`: a reader who is too slow loses
//! the oldest ones (and is told so), and never holds anything up.

use std::sync::Arc;
use std::time::SystemTime;

use time::OffsetDateTime;

use crate::BoxError;
use crate::dates::rfc3339;
use crate::rotation::CertificateError;
use crate::serial::CertificateSerial;
use crate::source::{SourceError, StoreError};

/// Events kept for a slow reader. They are rare: some in a minute in the worst of times.
pub(crate) const EVENTS: usize = 64;

/// The state of remote access at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteStatus {
    /// What the tunnel is doing.
    pub tunnel: TunnelStatus,
    /// Until when the token is valid, in Unix seconds by the platform's clock; `None` without a token.
    pub token_valid: Option<i64>,
    /// The certificate that is served to new connections.
    pub certificate: CertificateStatus,
}

impl RemoteStatus {
    /// Whether the public can reach the device.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.tunnel, TunnelStatus::Connected { .. })
    }
}

/// What the tunnel is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TunnelStatus {
    /// There is no usable token yet.
    WaitingForToken {
        /// Why the last request for one failed, or the last token was given up.
        cause: Option<String>,
    },
    /// Being connected.
    Connecting,
    /// Connected: the relay has answered.
    Connected {
        /// Where the public reaches the device.
        url: String,
        /// Since when, by the wall clock.
        since: SystemTime,
    },
    /// Not connected, and to be tried again.
    Waiting {
        /// When, by the wall clock of now.
        retry_at: SystemTime,
        /// Why it is not connected.
        cause: String,
    },
    /// Ended for good.
    Stopped,
}

/// What is known of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateStatus {
    /// Its serial number.
    pub serial: CertificateSerial,
    /// The first moment of its validity.
    pub not_before: OffsetDateTime,
    /// The last moment of its validity.
    pub not_after: OffsetDateTime,
}

impl CertificateStatus {
    /// [`not_after`](Self::not_after) as log lines and messages have it, in RFC 3339.
    #[must_use]
    pub fn not_after_text(&self) -> String {
        rfc3339(self.not_after)
    }

    /// Of a certificate that somebody else has read.
    #[must_use]
    pub fn new(
        serial: CertificateSerial,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Self {
        Self {
            serial,
            not_before,
            not_after,
        }
    }
}

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

/// Something that has happened.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RemoteEvent {
    /// A token has come.
    TokenReceived {
        /// Until when it is valid, in Unix seconds by the platform's clock.
        valid: i64,
    },
    /// No token has come; it will be asked for again.
    TokenFailed {
        /// Why.
        error: Arc<SourceError>,
    },
    /// The tunnel is connected, and the relay has answered.
    Connected {
        /// Where the public reaches the device.
        url: String,
    },
    /// The tunnel could not be connected; it will be tried again.
    ConnectFailed {
        /// Why.
        reason: String,
    },
    /// The device has reached itself through its public access point; see
    /// [`RemoteAccessBuilder::probe`](crate::RemoteAccessBuilder::probe). Told once for each connected tunnel, and when
    /// it succeeds again after a failure.
    Reachable,
    /// The tunnel is connected, but the device could not reach itself through its public access point. Told when that
    /// begins.
    ProbeFailed {
        /// Why.
        reason: String,
    },
    /// The tunnel was replaced by a new one with the newest token, before the relay would have ended it. It was
    /// connected all the time. If no moment without open connections has come in time, those were cut.
    TunnelRenewed,
    /// The tunnel has ended. Unless remote access was stopped, it will be connected again.
    Disconnected {
        /// Why.
        reason: String,
    },
    /// A new certificate is stored, and served to new connections.
    CertificateRotated {
        /// Its serial number.
        serial: CertificateSerial,
        /// The last moment of its validity.
        not_after: OffsetDateTime,
    },
    /// The certificate that is served comes near its end, and no other has been wished for or could be had. Told 30, 14
    /// and 3 days before, once each.
    CertificateExpiring {
        /// Its serial number.
        serial: CertificateSerial,
        /// The last moment of its validity.
        not_after: OffsetDateTime,
        /// No more than this many days before the end: 30, 14 or 3.
        days: u16,
    },
    /// The certificate that was wished for could not be had. The old one goes on serving; it will be tried again.
    RotationFailed {
        /// The serial number that was wished for.
        serial: CertificateSerial,
        /// Why.
        error: Arc<RotationError>,
    },
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
    Unproven(#[source] BoxError),
}
