//! The traffic of public connections, and the visitors that have connections open.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};

/// The traffic of all public connections since the start. Each number only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct Traffic {
    /// Connections that were admitted.
    pub connections: u64,
    /// HTTP requests.
    pub requests: u64,
    /// Bytes from callers, as the tunnel carries them, so including TLS.
    pub received: u64,
    /// Bytes to callers, likewise.
    pub sent: u64,
}

/// The open connections of one address. Its JSON has the names of the fields, and the time in
/// seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Visitor {
    /// The address; `None` for all connections whose address the relay does not send.
    pub address: Option<IpAddr>,
    /// Open connections.
    pub connections: u64,
    /// HTTP requests on these connections.
    pub requests: u64,
    /// Bytes from the visitor on these connections, including TLS.
    pub received: u64,
    /// Bytes to the visitor on these connections, including TLS.
    pub sent: u64,
    /// Time since the oldest of these connections was opened.
    #[serde(rename = "connected_for_s", serialize_with = "seconds")]
    pub connected_for: Duration,
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(duration.as_secs())
}

/// The counters of one connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConnectionTraffic {
    pub(crate) address: Option<IpAddr>,
    pub(crate) requests: u64,
    pub(crate) received: u64,
    pub(crate) sent: u64,
    pub(crate) open_for: Duration,
}

impl Traffic {
    pub(crate) fn add(&mut self, connection: ConnectionTraffic) {
        self.connections += 1;
        self.requests += connection.requests;
        self.received += connection.received;
        self.sent += connection.sent;
    }
}

/// Returns the visitors, by address.
pub(crate) fn visitors(connections: impl IntoIterator<Item = ConnectionTraffic>) -> Vec<Visitor> {
    let mut visitors = BTreeMap::new();
    for connection in connections {
        let visitor = visitors.entry(connection.address).or_insert(Visitor {
            address: connection.address,
            connections: 0,
            requests: 0,
            received: 0,
            sent: 0,
            connected_for: Duration::ZERO,
        });
        visitor.connections += 1;
        visitor.requests += connection.requests;
        visitor.received += connection.received;
        visitor.sent += connection.sent;
        visitor.connected_for = visitor.connected_for.max(connection.open_for);
    }
    visitors.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visitors_are_json_by_address() {
        let connection = |address: [u8; 4], seconds| ConnectionTraffic {
            address: Some(address.into()),
            requests: 2,
            received: 30,
            sent: 400,
            open_for: Duration::from_secs(seconds),
        };
        let one = [192, 0, 2, 1];
        let visitors = visitors([connection(one, 5), connection(one, 7)]);
        assert_eq!(
            serde_json::to_value(visitors).unwrap(),
            serde_json::json!([{
                "address": "192.0.2.1", "connections": 2, "requests": 4, "received": 60,
                "sent": 800, "connected_for_s": 7,
            }])
        );
    }
}
