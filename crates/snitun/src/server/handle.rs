//! A server, seen from outside.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::broadcast;

use super::metrics::{Metrics, ServerMetrics};
use super::registry::{Registry, ServerEvent};
use crate::close::{CloseReason, OpenError};
use crate::driver::{Channel, TunnelHandle};

/// Looks at a server and reaches into it. Cheap to clone; does not keep the server running.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    pub(super) registry: Arc<Registry>,
    pub(super) metrics: Arc<Metrics>,
}

impl ServerHandle {
    /// Whether a device is connected under this host name or alias.
    pub fn is_connected(&self, hostname: &str) -> bool {
        self.registry.find(hostname).is_some()
    }

    /// The host names of all connected devices, in lower case and in order.
    pub fn hostnames(&self) -> Vec<String> {
        self.registry.hostnames()
    }

    /// The tunnel of the device under this host name or alias: to ping it, to see what it carries, to wait for its end.
    pub fn tunnel(&self, hostname: &str) -> Option<TunnelHandle> {
        let peer = self.registry.find(hostname)?;
        Some(peer.tunnel.clone())
    }

    /// Opens a channel to the device under this host name or alias: for routing of one's own, beside or instead of that by
    /// the ClientHello. The device gets to see the `caller`, where one is given and the protocol version carries it. It expects
    /// a TLS connection on the channel, beginning with the ClientHello.
    ///
    /// None of the limits on callers applies to it, and [`Server::stop`](super::Server::stop) does not wait for it to finish.
    ///
    /// ```
    /// use std::net::SocketAddr;
    /// use std::time::Duration;
    /// use snitun::server::ServerHandle;
    /// use tokio::net::TcpStream;
    ///
    /// /// Serves a caller of whom the port says whom it wants.
    /// async fn by_port(server: ServerHandle, stream: TcpStream, caller: SocketAddr) -> std::io::Result<()> {
    ///     let hostname = format!("device-{}.example.com", stream.local_addr()?.port());
    ///     let channel = server.open(&hostname, Some(caller.ip())).map_err(std::io::Error::other)?;
    ///     snitun::relay(stream, channel, Duration::from_secs(105)).await?;
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`OpenError::NoDevice`] when no device is connected under that name, otherwise why the tunnel opens no channel.
    pub fn open(&self, hostname: &str, caller: Option<IpAddr>) -> Result<Channel, OpenError> {
        let peer = self.registry.find(hostname).ok_or(OpenError::NoDevice)?;
        peer.tunnel.open(caller)
    }

    /// Closes the tunnel of the device under this host name or alias; returns whether there was one.
    pub fn disconnect(&self, hostname: &str) -> bool {
        let peer = self.registry.find(hostname);
        if let Some(peer) = &peer {
            peer.tunnel.close_because(CloseReason::Local);
        }
        peer.is_some()
    }

    /// What the server has done so far: connections, refusals by their reason, and what the tunnels have carried. Looks at
    /// each tunnel in turn, so it is for every few seconds rather than for every request.
    pub fn metrics(&self) -> ServerMetrics {
        self.metrics.snapshot()
    }

    /// What happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<ServerEvent> {
        self.registry.subscribe()
    }
}
