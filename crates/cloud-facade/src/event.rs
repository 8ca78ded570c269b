//! Events of the connection, for the host.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;

/// An event, sent once to each receiver.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The configuration is loaded and everything is starting.
    Initialized,
    /// All subscriptions are granted and ONLINE is published.
    IotConnected,
    /// The connection to the broker was lost, or an attempt failed.
    IotDisconnected {
        /// The reason, in one line.
        reason: String,
        /// Delay before the next attempt.
        retry_in: Duration,
    },
    /// Messages to the platform cannot be stored on disk, or stored messages were lost. Meanwhile
    /// they are kept in memory.
    OutboxNotStored {
        /// The reason, in one line.
        reason: String,
    },
    /// A token for the tunnel was received.
    RemoteTokenReceived {
        /// End of its validity, in Unix seconds.
        valid: i64,
    },
    /// A request for a token failed; it is retried. An open tunnel stays open.
    RemoteTokenFailed {
        /// The reason, in one line.
        reason: String,
    },
    /// A tunnel with a newer token replaced the tunnel, without an interruption.
    RemoteTunnelRenewed,
    /// The device has reached itself through its public access point. Sent once per tunnel, and
    /// after each recovery; only with a probe, see
    /// [`CloudClient::probe`](crate::CloudClient::probe).
    RemoteReachable,
    /// The tunnel is open, but the device could not reach itself through its public access point.
    RemoteUnreachable {
        /// The reason, in one line.
        reason: String,
    },
    /// The tunnel is open and its PING was answered.
    RemoteConnected {
        /// The device's public URL.
        url: String,
    },
    /// The tunnel was lost, or an attempt failed.
    RemoteDisconnected {
        /// The reason, in one line.
        reason: String,
    },
    /// A new certificate is stored, and served to new connections.
    RemoteCertificateRotated {
        /// Its serial number, decimal.
        serial: String,
        /// Its expiry.
        not_after: SystemTime,
    },
    /// The served certificate expires soon, and there is no newer one. Sent once at 30, 14 and 3
    /// days before.
    RemoteCertificateExpiring {
        /// Its serial number, decimal.
        serial: String,
        /// Its expiry.
        not_after: SystemTime,
        /// At most this many days are left: 30, 14 or 3.
        days: u16,
    },
    /// A new certificate could not be installed. The old one stays in use.
    RemoteCertificateRotationFailed {
        /// The requested serial number, decimal.
        serial: String,
        /// The reason, in one line.
        reason: String,
    },
    /// A new client certificate for the broker has passed a trial connection and is stored; the
    /// session reconnects with it at the next idle moment.
    IotCertificateRotated {
        /// Its serial number, decimal.
        serial: String,
        /// Its expiry.
        not_after: SystemTime,
    },
    /// The client certificate for the broker expires soon, and there is no newer one. Sent once at
    /// 30, 14 and 3 days before.
    IotCertificateExpiring {
        /// Its serial number, decimal.
        serial: String,
        /// Its expiry.
        not_after: SystemTime,
        /// At most this many days are left: 30, 14 or 3.
        days: u16,
    },
    /// A new client certificate could not be installed. The old one stays in use.
    IotCertificateRotationFailed {
        /// The requested serial number, decimal.
        serial: String,
        /// The reason, in one line.
        reason: String,
    },
    /// The configuration shadow's desired state differs from the reported one.
    ShadowDelta {
        /// What differs, with the desired values.
        state: Value,
    },
    /// A message of the platform for the host.
    PlatformMessage {
        /// Its topic.
        topic: String,
        /// Its payload, verbatim.
        payload: Bytes,
    },
    /// Everything has been stopped.
    Stopped,
}
