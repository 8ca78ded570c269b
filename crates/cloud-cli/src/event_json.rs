//! Events of a running device as JSON: the names and fields are a contract with scripts.

use std::net::SocketAddr;

use cloud_facade::Event;
use serde_json::{Value, json};

use crate::time_fmt::{now, rfc3339};

/// Returns the JSON for an event; `None` for an event without a name here.
pub(crate) fn event_json(event: &Event) -> Option<Value> {
    let mut json = match event {
        Event::Initialized => json!({ "event": "initialized" }),
        Event::IotConnected => json!({ "event": "iot.connected" }),
        Event::IotDisconnected { reason, retry_in } => {
            json!({ "event": "iot.disconnected", "reason": reason, "retry_in": retry_in.as_secs_f64() })
        }
        Event::RemoteTokenReceived { valid } => json!({ "event": "remote.token", "valid": valid }),
        Event::RemoteConnected { url } => json!({ "event": "remote.connected", "url": url }),
        Event::RemoteDisconnected { reason } => {
            json!({ "event": "remote.disconnected", "reason": reason })
        }
        Event::RemoteCertificateRotated { serial, not_after } => {
            json!({ "event": "remote.certificate", "serial": serial, "not_after": rfc3339((*not_after).into()) })
        }
        Event::RemoteCertificateRotationFailed { serial, reason } => {
            json!({ "event": "remote.certificate_failed", "serial": serial, "reason": reason })
        }
        Event::IotCertificateRotated { serial, not_after } => {
            json!({ "event": "iot.certificate", "serial": serial, "not_after": rfc3339((*not_after).into()) })
        }
        Event::IotCertificateRotationFailed { serial, reason } => {
            json!({ "event": "iot.certificate_failed", "serial": serial, "reason": reason })
        }
        Event::ShadowDelta { state } => json!({ "event": "shadow.delta", "state": state }),
        Event::PlatformMessage { topic, payload } => {
            // Always text, so that the type does not depend on the content.
            json!({ "event": "platform.message", "topic": topic, "payload": String::from_utf8_lossy(payload) })
        }
        Event::Stopped => json!({ "event": "stopped" }),
        _ => return None,
    };
    json["ts"] = now().into();
    Some(json)
}

/// Returns the JSON that reports the address of `run --health`, which is unknown in advance with
/// port 0.
pub(crate) fn health_json(address: SocketAddr) -> Value {
    json!({ "event": "health", "address": address.to_string(), "ts": now() })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    #[test]
    fn events_have_documented_names_and_fields() {
        let reason = || "the reason".to_owned();
        let cases = [
            (Event::Initialized, json!({ "event": "initialized" })),
            (Event::IotConnected, json!({ "event": "iot.connected" })),
            (
                Event::IotDisconnected {
                    reason: reason(),
                    retry_in: Duration::from_millis(1500),
                },
                json!({ "event": "iot.disconnected", "reason": "the reason", "retry_in": 1.5 }),
            ),
            (
                Event::RemoteTokenReceived { valid: 17 },
                json!({ "event": "remote.token", "valid": 17 }),
            ),
            (
                Event::RemoteConnected {
                    url: "https://a/".to_owned(),
                },
                json!({ "event": "remote.connected", "url": "https://a/" }),
            ),
            (
                Event::RemoteDisconnected { reason: reason() },
                json!({ "event": "remote.disconnected", "reason": "the reason" }),
            ),
            (
                Event::RemoteCertificateRotated {
                    serial: "12".to_owned(),
                    not_after: SystemTime::UNIX_EPOCH,
                },
                json!({ "event": "remote.certificate", "serial": "12", "not_after": "1970-01-01T00:00:00Z" }),
            ),
            (
                Event::PlatformMessage {
                    topic: "c/platform".to_owned(),
                    payload: b"{\"a\":1}".as_slice().into(),
                },
                json!({ "event": "platform.message", "topic": "c/platform", "payload": "{\"a\":1}" }),
            ),
            (Event::Stopped, json!({ "event": "stopped" })),
        ];
        for (event, expected) in cases {
            let mut json = event_json(&event).unwrap();
            let ts = json.as_object_mut().unwrap().remove("ts").unwrap();
            assert!(ts.as_str().unwrap().ends_with('Z'), "{ts}");
            assert_eq!(json, expected);
        }
    }
}
