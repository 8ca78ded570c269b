//! The host name of a local application.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use cloud_net::{ConnectError, Connector};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// A host name and a port, resolved for each connection. Clones share the bound on concurrent
/// lookups, so a resolver that hangs for this name does not block other lookups.
#[derive(Clone)]
pub struct UpstreamHost {
    name: Arc<str>,
    port: u16,
    connector: Connector,
}

impl UpstreamHost {
    pub(super) fn new(name: &str, port: u16) -> Self {
        Self {
            name: name.into(),
            port,
            connector: Connector::new(),
        }
    }

    /// Returns the host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(super) async fn connect(&self, deadline: Instant) -> Result<TcpStream, ConnectError> {
        self.connector
            .connect(&self.name, self.port, deadline)
            .await
    }
}

impl fmt::Debug for UpstreamHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "UpstreamHost({self})")
    }
}

impl fmt::Display for UpstreamHost {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.name, self.port)
    }
}

impl PartialEq for UpstreamHost {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.port) == (&other.name, other.port)
    }
}

impl Eq for UpstreamHost {}

impl Hash for UpstreamHost {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        (&self.name, self.port).hash(hasher);
    }
}
