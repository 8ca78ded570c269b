//! What happens in the life of the connection, as a host sees it.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde_json::Value;

/// A change, told once to everyone who listens.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event {
    /// The configuration is loaded and everything is starting.
    Initialized,
    /// All subscriptions are granted and ONLINE is out.
    IotConnected,
    /// The connection to the broker is gone, or could not be made.
    IotDisconnected {
        /// Why, in one line.
        reason: String,
        /// When the next attempt is made.
        retry_in: Duration,
    },
    /// Messages to the platform cannot be kept on disk, or those that were kept there are lost. They are held in memory as
    /// long as that lasts.
    OutboxNotStored {
        /// Why, in one line.
        reason: String,
    },
    /// A token for the tunnel has come.
    RemoteToken {
        /// Until when it is valid, in Unix seconds.
        valid: i64,
    },
    /// No token for the tunnel has come; it will be asked for again. A tunnel that is up stays so.
    RemoteTokenFailed {
        /// Why, in one line.
        reason: String,
    },
    /// The tunnel was replaced by one with a newer token; it was up all the time.
    RemoteRenewed,
    /// The device has reached itself through its public access point. Told once for each tunnel, and when it succeeds again;
    /// only with a probe, see [`CloudClient::probe`](crate::CloudClient::probe).
    RemoteReachable,
    /// The tunnel is up, but the device could not reach itself through its public access point.
    RemoteUnreachable {
        /// Why, in one line.
        reason: String,
    },
    /// The tunnel is up and has answered.
    RemoteConnected {
        /// Where the public reaches the device.
        url: String,
    },
    /// The tunnel is gone, or could not be made.
    RemoteDisconnected {
        /// Why, in one line.
        reason: String,
    },
    /// A new certificate is stored and served to new connections.
    RemoteCertificate {
        /// Its serial number, decimal.
        serial: String,
        /// When it runs out.
        not_after: SystemTime,
    },
    /// The certificate that is served comes near its end, and there is no newer one. Told 30, 14 and 3 days ahead, once each.
    RemoteCertificateExpiring {
        /// Its serial number, decimal.
        serial: String,
        /// When it runs out.
        not_after: SystemTime,
        /// No more than this many days are left: 30, 14 or 3.
        days: u16,
    },
    /// A new certificate was asked for and could not be taken over. The old one stays in use.
    RemoteCertificateFailed {
        /// The serial number that was asked for, decimal.
        serial: String,
        /// Why, in one line.
        reason: String,
    },
    /// A new client certificate for the broker has proven itself and is stored; the session moves to it at the next quiet
    /// moment.
    IotCertificate {
        /// Its serial number, decimal.
        serial: String,
        /// When it runs out.
        not_after: SystemTime,
    },
    /// The client certificate for the broker comes near its end, and there is no newer one. Told 30, 14 and 3 days ahead,
    /// once each.
    IotCertificateExpiring {
        /// Its serial number, decimal.
        serial: String,
        /// When it runs out.
        not_after: SystemTime,
        /// No more than this many days are left: 30, 14 or 3.
        days: u16,
    },
    /// A new client certificate was asked for and could not be taken over. The old one stays in use.
    IotCertificateFailed {
        /// The serial number that was asked for, decimal.
        serial: String,
        /// Why, in one line.
        reason: String,
    },
    /// The configuration shadow's desired state differs from the reported one.
    ShadowDelta {
        /// What differs, with the desired values.
        state: Value,
    },
    /// A message of the platform that the library has no use for itself.
    PlatformMessage {
        /// Its topic.
        topic: String,
        /// Its payload, as it came.
        payload: Bytes,
    },
    /// Everything has been stopped.
    Stopped,
}
