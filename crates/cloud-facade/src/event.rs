//! Events of the connection, for the host.
//!
//! Their JSON is a contract with scripts: `docs/events.md` lists it, and names that exist stay.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// An event, sent once to each receiver.
///
/// Its JSON is an object with the name in `event` and the fields of the variant, durations in
/// seconds, times as in RFC 3339 except the end of a token, which is in Unix seconds, payloads as
/// text. A failed attempt to open the tunnel has the name of a lost one, as it has for the broker.
///
/// ```
/// use cloud_facade::Event;
///
/// let event = Event::RemoteConnected { url: "https://sn0001.ui.example.com/".to_owned() };
/// let json = serde_json::to_string(&event)?;
/// assert_eq!(json, r#"{"event":"remote.connected","url":"https://sn0001.ui.example.com/"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event")]
#[non_exhaustive]
pub enum Event {
    /// The configuration is loaded and everything is starting.
    #[serde(rename = "initialized")]
    Initialized,
    /// All subscriptions are granted and ONLINE is published.
    #[serde(rename = "iot.connected")]
    IotConnected,
    /// The connection to the broker was lost, or an attempt failed.
    #[serde(rename = "iot.disconnected")]
    IotDisconnected {
        /// The reason, in one line.
        reason: String,
        /// Delay before the next attempt.
        #[serde(serialize_with = "seconds")]
        retry_in: Duration,
    },
    /// Messages to the platform cannot be stored on disk, or stored messages were lost. Meanwhile
    /// they are kept in memory.
    #[serde(rename = "iot.outbox_failed")]
    OutboxStoreFailed {
        /// The reason, in one line.
        reason: String,
    },
    /// The broker refused a subscription that is not required: its messages do not arrive. Sent on
    /// each connection.
    #[serde(rename = "iot.subscription_refused")]
    IotSubscriptionRefused {
        /// The topic filter.
        filter: String,
        /// The reason, in one line.
        reason: String,
    },
    /// The broker granted a subscription at QoS 0 only: messages may be lost with a connection.
    /// Sent on each connection.
    #[serde(rename = "iot.subscription_downgraded")]
    IotSubscriptionDowngraded {
        /// The topic filter.
        filter: String,
    },
    /// Messages arrived faster than they were handled, and some were dropped. Sent once for each
    /// run of losses.
    #[serde(rename = "iot.messages_dropped")]
    IotMessagesDropped {
        /// The topic filter of the handler.
        filter: String,
        /// Number of messages that it has lost since the start.
        dropped: u64,
    },
    /// The handler of a message failed, or the message is malformed.
    #[serde(rename = "iot.handler_failed")]
    IotHandlerFailed {
        /// The topic filter of the handler.
        filter: String,
        /// The reason, in one line.
        reason: String,
    },
    /// A token for the tunnel was received.
    #[serde(rename = "remote.token")]
    RemoteTokenReceived {
        /// End of its validity, by the platform's clock.
        #[serde(serialize_with = "unix_seconds")]
        valid: SystemTime,
    },
    /// A request for a token failed; it is retried. An open tunnel stays open.
    #[serde(rename = "remote.token_failed")]
    RemoteTokenFailed {
        /// The reason, in one line.
        reason: String,
    },
    /// A tunnel with a newer token replaced the tunnel, without an interruption.
    #[serde(rename = "remote.renewed")]
    RemoteTunnelRenewed,
    /// The device has reached itself through its public access point. Sent once per tunnel, and
    /// after each recovery; only with a [probe](crate::CloudBuilder::probe).
    #[serde(rename = "remote.reachable")]
    RemoteReachable,
    /// The tunnel is open, but the device could not reach itself through its public access point.
    #[serde(rename = "remote.unreachable")]
    RemoteProbeFailed {
        /// The reason, in one line.
        reason: String,
    },
    /// The tunnel is open and its PING was answered.
    #[serde(rename = "remote.connected")]
    RemoteConnected {
        /// The device's public URL.
        url: String,
    },
    /// The tunnel could not be opened; this is retried. Also sent if there is no usable certificate
    /// to start with.
    #[serde(rename = "remote.disconnected")]
    RemoteConnectFailed {
        /// The reason, in one line.
        reason: String,
    },
    /// The tunnel was lost.
    #[serde(rename = "remote.disconnected")]
    RemoteDisconnected {
        /// The reason, in one line.
        reason: String,
    },
    /// A new certificate is stored, and served to new connections.
    #[serde(rename = "remote.certificate")]
    RemoteCertificateRotated {
        /// Its serial number, decimal.
        serial: String,
        /// Its expiry.
        #[serde(serialize_with = "rfc3339")]
        not_after: SystemTime,
    },
    /// The served certificate expires soon, and there is no newer one. Sent once at 30, 14 and 3
    /// days before.
    #[serde(rename = "remote.certificate_expiring")]
    RemoteCertificateExpiring {
        /// Its serial number, decimal.
        serial: String,
        /// Its expiry.
        #[serde(serialize_with = "rfc3339")]
        not_after: SystemTime,
        /// At most this many days are left: 30, 14 or 3.
        days: u16,
    },
    /// A new certificate could not be installed. The old one stays in use.
    #[serde(rename = "remote.certificate_failed")]
    RemoteCertificateRotationFailed {
        /// The requested serial number, decimal.
        serial: String,
        /// The reason, in one line.
        reason: String,
    },
    /// A new client certificate for the broker has passed a trial connection and is stored; the
    /// session reconnects with it at the next idle moment.
    #[serde(rename = "iot.certificate")]
    IotCertificateRotated {
        /// Its serial number, decimal.
        serial: String,
        /// Its expiry.
        #[serde(serialize_with = "rfc3339")]
        not_after: SystemTime,
    },
    /// The client certificate for the broker expires soon, and there is no newer one. Sent once at
    /// 30, 14 and 3 days before.
    #[serde(rename = "iot.certificate_expiring")]
    IotCertificateExpiring {
        /// Its serial number, decimal.
        serial: String,
        /// Its expiry.
        #[serde(serialize_with = "rfc3339")]
        not_after: SystemTime,
        /// At most this many days are left: 30, 14 or 3.
        days: u16,
    },
    /// A new client certificate could not be installed. The old one stays in use.
    #[serde(rename = "iot.certificate_failed")]
    IotCertificateRotationFailed {
        /// The requested serial number, decimal.
        serial: String,
        /// The reason, in one line.
        reason: String,
    },
    /// The configuration shadow's desired state differs from the reported one.
    #[serde(rename = "shadow.delta")]
    ShadowDeltaReceived {
        /// What differs, with the desired values.
        state: Value,
    },
    /// A message of the platform for the host.
    #[serde(rename = "platform.message")]
    PlatformMessageReceived {
        /// Its topic.
        topic: String,
        /// Its payload, verbatim.
        #[serde(serialize_with = "text")]
        payload: Bytes,
    },
    /// Everything has been stopped.
    #[serde(rename = "stopped")]
    Stopped,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&cloud_net::rfc3339(*time))
}

fn unix_seconds<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(cloud_net::unix_seconds(*time))
}

/// Always text, so that the type does not depend on the content.
fn text<S: Serializer>(payload: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&String::from_utf8_lossy(payload))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    /// Returns the event after this one. The compiler checks that no variant is missing.
    fn after(event: &Event) -> Option<Event> {
        let reason = "the reason".to_owned();
        let filter = "c/+".to_owned();
        let serial = "12".to_owned();
        let not_after = SystemTime::UNIX_EPOCH;
        Some(match event {
            Event::Initialized => Event::IotConnected,
            Event::IotConnected => Event::IotDisconnected {
                reason,
                retry_in: Duration::from_millis(1500),
            },
            Event::IotDisconnected { .. } => Event::OutboxStoreFailed { reason },
            Event::OutboxStoreFailed { .. } => Event::IotSubscriptionRefused { filter, reason },
            Event::IotSubscriptionRefused { .. } => Event::IotSubscriptionDowngraded { filter },
            Event::IotSubscriptionDowngraded { .. } => {
                Event::IotMessagesDropped { filter, dropped: 2 }
            }
            Event::IotMessagesDropped { .. } => Event::IotHandlerFailed { filter, reason },
            Event::IotHandlerFailed { .. } => Event::RemoteTokenReceived {
                valid: cloud_net::from_unix_seconds(17),
            },
            Event::RemoteTokenReceived { .. } => Event::RemoteTokenFailed { reason },
            Event::RemoteTokenFailed { .. } => Event::RemoteTunnelRenewed,
            Event::RemoteTunnelRenewed => Event::RemoteReachable,
            Event::RemoteReachable => Event::RemoteProbeFailed { reason },
            Event::RemoteProbeFailed { .. } => Event::RemoteConnected {
                url: "https://a/".to_owned(),
            },
            Event::RemoteConnected { .. } => Event::RemoteConnectFailed { reason },
            Event::RemoteConnectFailed { .. } => Event::RemoteDisconnected { reason },
            Event::RemoteDisconnected { .. } => {
                Event::RemoteCertificateRotated { serial, not_after }
            }
            Event::RemoteCertificateRotated { .. } => Event::RemoteCertificateExpiring {
                serial,
                not_after,
                days: 14,
            },
            Event::RemoteCertificateExpiring { .. } => {
                Event::RemoteCertificateRotationFailed { serial, reason }
            }
            Event::RemoteCertificateRotationFailed { .. } => {
                Event::IotCertificateRotated { serial, not_after }
            }
            Event::IotCertificateRotated { .. } => Event::IotCertificateExpiring {
                serial,
                not_after,
                days: 3,
            },
            Event::IotCertificateExpiring { .. } => {
                Event::IotCertificateRotationFailed { serial, reason }
            }
            Event::IotCertificateRotationFailed { .. } => Event::ShadowDeltaReceived {
                state: json!({ "a": 1 }),
            },
            Event::ShadowDeltaReceived { .. } => Event::PlatformMessageReceived {
                topic: "c/platform".to_owned(),
                payload: Bytes::from_static(b"{\"a\":1}\xff"),
            },
            Event::PlatformMessageReceived { .. } => Event::Stopped,
            Event::Stopped => return None,
        })
    }

    #[test]
    fn every_event_has_documented_json() {
        let reason = "the reason";
        let filter = "c/+";
        let (serial, not_after) = ("12", "1970-01-01T00:00:00Z");
        let expected = [
            json!({ "event": "initialized" }),
            json!({ "event": "iot.connected" }),
            json!({ "event": "iot.disconnected", "reason": reason, "retry_in": 1.5 }),
            json!({ "event": "iot.outbox_failed", "reason": reason }),
            json!({ "event": "iot.subscription_refused", "filter": filter, "reason": reason }),
            json!({ "event": "iot.subscription_downgraded", "filter": filter }),
            json!({ "event": "iot.messages_dropped", "filter": filter, "dropped": 2 }),
            json!({ "event": "iot.handler_failed", "filter": filter, "reason": reason }),
            json!({ "event": "remote.token", "valid": 17 }),
            json!({ "event": "remote.token_failed", "reason": reason }),
            json!({ "event": "remote.renewed" }),
            json!({ "event": "remote.reachable" }),
            json!({ "event": "remote.unreachable", "reason": reason }),
            json!({ "event": "remote.connected", "url": "https://a/" }),
            json!({ "event": "remote.disconnected", "reason": reason }),
            json!({ "event": "remote.disconnected", "reason": reason }),
            json!({ "event": "remote.certificate", "serial": serial, "not_after": not_after }),
            json!({ "event": "remote.certificate_expiring", "serial": serial, "not_after": not_after, "days": 14 }),
            json!({ "event": "remote.certificate_failed", "serial": serial, "reason": reason }),
            json!({ "event": "iot.certificate", "serial": serial, "not_after": not_after }),
            json!({ "event": "iot.certificate_expiring", "serial": serial, "not_after": not_after, "days": 3 }),
            json!({ "event": "iot.certificate_failed", "serial": serial, "reason": reason }),
            json!({ "event": "shadow.delta", "state": { "a": 1 } }),
            json!({ "event": "platform.message", "topic": "c/platform", "payload": "{\"a\":1}\u{fffd}" }),
            json!({ "event": "stopped" }),
        ];
        let every = std::iter::successors(Some(Event::Initialized), after);
        let every: Vec<Value> = every
            .map(|event| serde_json::to_value(event).unwrap())
            .collect();
        assert_eq!(every, expected);

        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/events.md");
        let documented = std::fs::read_to_string(path).unwrap();
        let rows = documented.lines().filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let name = cells.next()?.trim_end_matches('`').to_owned();
            let fields = cells.next()?.split('`').skip(1).step_by(2);
            Some((name, fields.map(str::to_owned).collect()))
        });
        let rows: BTreeSet<(String, BTreeSet<String>)> = rows.collect();
        let events = every.iter().map(|event| {
            let name = event["event"].as_str().unwrap().to_owned();
            let fields = event.as_object().unwrap().keys();
            let fields = fields.filter(|field| *field != "event").cloned().collect();
            (name, fields)
        });
        assert_eq!(rows, events.collect());
    }
}
