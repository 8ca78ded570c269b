//! The traffic of public connections, and the visitors that have connections open.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// The traffic of all public connections since the start. Each number only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
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

/// The open connections of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub connected_for: Duration,
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
