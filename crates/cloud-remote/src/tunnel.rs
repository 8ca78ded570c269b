//! Connects the tunnel: TCP to the relay, then the handshake and a first ping.
//!
//! No time limit of its own for the whole: the planner gives the attempt up when it takes too long, and the future is
//! dropped.

use std::io;
use std::time::Duration;

use snitun::client::{self, ClientConfig, ConnectError, Tunnel};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::planner::ConnectFault;

/// For one address of the relay, so that a dead one leaves time for the next.
const ADDRESS_LIMIT: Duration = Duration::from_secs(8);

/// Why the tunnel could not be connected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("the relay's host name cannot be resolved: {0}")]
    Resolve(#[source] io::Error),
    #[error("the relay's host name has no address")]
    NoAddress,
    #[error("the relay cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    #[error("the relay did not let us in: {0}")]
    Handshake(#[source] ConnectError),
}

impl TunnelError {
    /// Whether it was the relay's answer to our token, or something that another token cannot help.
    pub(crate) fn fault(&self) -> ConnectFault {
        match self {
            // A tunnel that ends before it is up may well be due to a key that is not the token's.
            Self::Handshake(ConnectError::Ended(_)) => ConnectFault::Refused,
            Self::Handshake(error) if !error.is_retryable() => ConnectFault::Refused,
            Self::Resolve(_) | Self::NoAddress | Self::Unreachable(_) | Self::Handshake(_) => {
                ConnectFault::Unreachable
            }
        }
    }
}

/// Connects the tunnel. Returns once the relay has answered a ping.
pub(crate) async fn connect(
    host: &str,
    port: u16,
    config: ClientConfig,
) -> Result<Tunnel, TunnelError> {
    let stream = dial(host, port).await?;
    client::connect(stream, config)
        .await
        .map_err(TunnelError::Handshake)
}

/// Tries the relay's addresses in the resolver's order.
async fn dial(host: &str, port: u16) -> Result<TcpStream, TunnelError> {
    let mut last = TunnelError::NoAddress;
    for address in lookup_host((host, port))
        .await
        .map_err(TunnelError::Resolve)?
    {
        let attempt = timeout(ADDRESS_LIMIT, TcpStream::connect(address)).await;
        let connected = attempt
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
            .and_then(|stream| stream.set_nodelay(true).map(|()| stream));
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                tracing::debug!(%address, %error, "an address of the relay cannot be reached");
                last = TunnelError::Unreachable(error);
            }
        }
    }
    Err(last)
}
