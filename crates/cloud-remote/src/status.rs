//! The status and the events of remote access.
//!
//! The status is a `watch`: the latest value is always available. Events are a `broadcast`: a slow
//! receiver loses the oldest ones, receives an error with their number, and never blocks the
//! sender.

use std::sync::Arc;
use std::time::SystemTime;

use crate::certificate::CertificateStatus;
use crate::certificate::serial::CertificateSerial;
use crate::rotation::RotationError;
use crate::traits::SourceError;

/// Events that are buffered for a slow receiver. They are rare: at most some per minute.
pub(crate) const EVENT_CAPACITY: usize = 64;

/// The state of remote access.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemoteStatus {
    /// The state of the tunnel.
    pub tunnel: TunnelStatus,
    /// The expiry of the token, by the platform's clock; `None` without a token.
    pub token_valid: Option<SystemTime>,
    /// The certificate served to new connections.
    pub certificate: CertificateStatus,
}

impl RemoteStatus {
    /// Returns whether the tunnel is connected.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        matches!(self.tunnel, TunnelStatus::Connected { .. })
    }
}

/// The state of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TunnelStatus {
    /// There is no usable token.
    WaitingForToken {
        /// The error of the last token request, or the reason for which the last token was dropped.
        cause: Option<String>,
    },
    /// The tunnel is being connected.
    Connecting,
    /// The tunnel is connected: the relay has responded.
    Connected {
        /// The public URL of the device.
        url: String,
        /// The time of the connection, by the wall clock.
        since: SystemTime,
    },
    /// The tunnel is not connected; a retry is scheduled.
    Waiting {
        /// The time of the retry, by the current wall clock.
        retry_at: SystemTime,
        /// The reason for which the tunnel is not connected.
        cause: String,
    },
    /// Remote access has stopped.
    Stopped,
}

/// An event of remote access.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RemoteEvent {
    /// A token was received.
    TokenReceived {
        /// Its expiry, by the platform's clock.
        valid: SystemTime,
    },
    /// A token request failed; it is retried.
    TokenFailed {
        /// The reason.
        error: Arc<SourceError>,
    },
    /// The tunnel is connected, and the relay has responded.
    Connected {
        /// The public URL of the device.
        url: String,
    },
    /// The tunnel could not be connected; it is retried.
    ConnectFailed {
        /// The reason.
        reason: String,
    },
    /// The device has reached itself through its public access point; see
    /// [`RemoteAccessBuilder::probe`](crate::RemoteAccessBuilder::probe). Sent once for each
    /// connected tunnel, and when the probe succeeds after a failure.
    Reachable,
    /// The tunnel is connected, but the device cannot reach itself through its public access point.
    /// Sent when the failure begins.
    ProbeFailed {
        /// The reason.
        reason: String,
    },
    /// A new tunnel with the newest token has replaced the tunnel before the relay would have ended
    /// it. The device was reachable throughout. If no idle moment occurred in time, open
    /// connections were closed.
    TunnelRenewed,
    /// The tunnel has ended. Unless remote access was stopped, it is reconnected.
    Disconnected {
        /// The reason.
        reason: String,
    },
    /// A new certificate is stored, and is served to new connections.
    CertificateRotated {
        /// Its serial number.
        serial: CertificateSerial,
        /// The end of its validity.
        not_after: SystemTime,
    },
    /// The served certificate expires soon, and no other was desired or could be obtained. Sent 30,
    /// 14 and 3 days before the expiry, once each.
    CertificateExpiring {
        /// Its serial number.
        serial: CertificateSerial,
        /// The end of its validity.
        not_after: SystemTime,
        /// The notice period in days: 30, 14 or 3.
        days: u16,
    },
    /// The rotation to the desired certificate failed. The old one stays in use; the rotation is
    /// retried.
    RotationFailed {
        /// The desired serial number.
        serial: CertificateSerial,
        /// The reason.
        error: Arc<RotationError>,
    },
}
