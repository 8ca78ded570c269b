//! A handle to a running server.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::broadcast;

use super::metrics::{Metrics, ServerMetrics};
use super::registry::{Registry, ServerEvent};
use crate::close::{CloseReason, OpenError};
use crate::driver::{Channel, TunnelHandle};

/// Inspects and controls a server. Cheap to clone; does not keep the server running.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    pub(super) registry: Arc<Registry>,
    pub(super) metrics: Arc<Metrics>,
}

impl ServerHandle {
    /// Returns whether a device is connected under this host name or alias.
    pub fn is_connected(&self, hostname: &str) -> bool {
        self.registry.find(hostname).is_some()
    }

    /// Returns the host names of all connected devices, in lower case and sorted.
    pub fn hostnames(&self) -> Vec<String> {
        self.registry.hostnames()
    }

    /// Returns the tunnel of the device with this host name or alias: to ping it, to read its
    /// statistics, or to wait for its end.
    pub fn tunnel(&self, hostname: &str) -> Option<TunnelHandle> {
        let peer = self.registry.find(hostname)?;
        Some(peer.tunnel.clone())
    }

    /// Opens a channel to the device with this host name or alias, for custom routing besides or
    /// instead of routing by the ClientHello. The device sees the address of `caller`, if one is
    /// given and the protocol version carries it. The device expects a TLS connection on the
    /// channel, beginning with the ClientHello.
    ///
    /// The limits on callers do not apply to it, and [`Server::stop`](super::Server::stop) does not
    /// wait for it to finish.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use std::time::Duration;
    /// use snitun::server::ServerHandle;
    /// use tokio::net::TcpStream;
    ///
    /// /// Serves a caller that selects the device by port.
    /// async fn by_port(server: ServerHandle, stream: TcpStream, caller: SocketAddr) -> std::io::Result<()> {
    ///     let hostname = format!("device-{}.example.com", stream.local_addr()?.port());
    ///     let channel = server.open(&hostname, Some(caller.ip())).map_err(std::io::Error::other)?;
    ///     snitun::copy_bidirectional(stream, channel, Duration::from_secs(105)).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`OpenError::NoDevice`] if no device is connected under that name, otherwise the tunnel's
    /// error.
    pub fn open(&self, hostname: &str, caller: Option<IpAddr>) -> Result<Channel, OpenError> {
        let peer = self.registry.find(hostname).ok_or(OpenError::NoDevice)?;
        peer.tunnel.open(caller)
    }

    /// Closes the tunnel of the device with this host name or alias; returns whether there was one.
    pub fn disconnect(&self, hostname: &str) -> bool {
        let peer = self.registry.find(hostname);
        if let Some(peer) = &peer {
            peer.tunnel.close_because(CloseReason::Local);
        }
        peer.is_some()
    }

    /// Returns the server's counters: connections, rejections by reason, and tunnel traffic. Locks
    /// each tunnel in turn, so call it every few seconds rather than for every request.
    pub fn metrics(&self) -> ServerMetrics {
        self.metrics.snapshot()
    }

    /// Subscribes to the server's events.
    pub fn subscribe(&self) -> broadcast::Receiver<ServerEvent> {
        self.registry.subscribe()
    }
}
