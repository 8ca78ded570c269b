//! The lines of `run --json`. `docs/events.md` lists them; the names and fields are a contract with
//! scripts.

use std::net::SocketAddr;

use cloud_facade::Event;
use serde_json::{Value, json};

use crate::time_fmt::now;

/// Returns an event with the current time.
pub(crate) fn event_json(event: &Event) -> Value {
    // Neither fails for an event: each field is a string, a number or a JSON value.
    let mut json = serde_json::to_value(event).unwrap_or_default();
    json["ts"] = now().into();
    json
}

/// Returns the JSON that reports the address of `run --health`, which is unknown in advance with
/// port 0.
pub(crate) fn health_json(address: SocketAddr) -> Value {
    json!({ "event": "health", "address": address.to_string(), "ts": now() })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn event_has_its_fields_and_time() {
        let mut json = event_json(&Event::RemoteCertificateExpiring {
            serial: "12".to_owned(),
            not_after: SystemTime::UNIX_EPOCH,
            days: 14,
        });
        let ts = json.as_object_mut().unwrap().remove("ts").unwrap();
        assert!(ts.as_str().unwrap().ends_with('Z'), "{ts}");
        let expected = json!({
            "event": "remote.certificate_expiring", "serial": "12", "not_after": "1970-01-01T00:00:00Z", "days": 14,
        });
        assert_eq!(json, expected);
    }
}
