//! What remote access tells about itself: a status to look at, and events to follow.
//!
//! The status is a `watch`: the latest value, always there. Events are a `broadcast`: a reader who is too slow loses
//! the oldest ones (and is told so), and never holds anything up.

use std::sync::Arc;
use std::time::SystemTime;

use time::OffsetDateTime;

use crate::certificate::CertificateStatus;
use crate::certificate::serial::CertificateSerial;
use crate::rotation::RotationError;
use crate::traits::SourceError;

/// Events kept for a slow reader. They are rare: some in a minute in the worst of times.
pub(crate) const EVENT_CAPACITY: usize = 64;

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
