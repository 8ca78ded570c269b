//! Connects the tunnel: TCP to the relay, then the handshake and a first ping.
//!
//! The core limits the whole attempt, and cancels it by dropping the future.

pub(crate) mod probe;
pub(crate) mod reconnect_cause;
pub(crate) mod running;
pub(crate) mod totals;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cloud_net::Connector;
use snitun::ConnectionKey;
use snitun::client::{self, ClientConfig, ConnectError, Tunnel};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::core::ConnectFault;

/// Time limit of the TCP connection. The rest of the core's limit is for the handshake, and so its
/// error is the one that is reported.
const DIAL_TIMEOUT: Duration = Duration::from_secs(20);

/// An error of connecting the tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("the relay cannot be reached: {0}")]
    Connect(#[from] cloud_net::ConnectError),
    #[error("the connection to the relay failed: {0}")]
    Socket(#[source] io::Error),
    #[error("the relay rejected the tunnel: {0}")]
    Handshake(#[source] ConnectError),
    #[error("the tunnel that was to be replaced is in use")]
    Busy,
    #[error("the token's single-use key is already used")]
    KeyAlreadyUsed,
}

impl TunnelError {
    /// Classifies the error: whether the relay refused the token, or another token cannot help.
    pub(crate) fn fault(&self) -> ConnectFault {
        match self {
            Self::Busy => ConnectFault::Busy,
            // A tunnel that ends before it is up may have a key that does not match the token.
            Self::Handshake(ConnectError::Ended(_)) | Self::KeyAlreadyUsed => ConnectFault::Refused,
            Self::Handshake(error) if !error.is_retryable() => ConnectFault::Refused,
            Self::Handshake(_) => ConnectFault::Broken,
            Self::Connect(_) | Self::Socket(_) => ConnectFault::Unreachable,
        }
    }
}

/// The session key of a token: for all connections, or only for the first, depending on the cipher.
#[derive(Clone)]
pub(crate) struct SessionKeys(Arc<Mutex<Option<ConnectionKey>>>);

impl SessionKeys {
    pub(crate) fn new(key: ConnectionKey) -> Self {
        Self(Arc::new(Mutex::new(Some(key))))
    }

    /// Returns a key for one connection.
    pub(crate) fn next_key(&self) -> Result<ConnectionKey, TunnelError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = held.take().ok_or(TunnelError::KeyAlreadyUsed)?;
        *held = key.for_further().map(Into::into);
        Ok(key)
    }
}

/// Opens the tunnel over a TCP connection to the relay. Returns once the relay has responded to a
/// ping.
pub(crate) async fn open(stream: TcpStream, config: ClientConfig) -> Result<Tunnel, TunnelError> {
    client::connect(stream, config)
        .await
        .map_err(TunnelError::Handshake)
}

/// Connects to the relay over TCP, directly or through a proxy.
pub(crate) async fn dial(
    connector: &Connector,
    host: &str,
    port: u16,
) -> Result<TcpStream, TunnelError> {
    let deadline = Instant::now() + DIAL_TIMEOUT;
    let stream = connector.connect(host, port, deadline).await?;
    snitun::configure_tcp(&stream).map_err(TunnelError::Socket)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_key_reuse_depends_on_cipher() {
        for cipher in snitun::Cipher::ALL {
            let key = snitun::SessionKey::new([1; 32], [2; 16]);
            let keys = SessionKeys::new(key.with_cipher(cipher));
            assert!(keys.next_key().is_ok());
            let again = keys.clone().next_key();
            assert_eq!(again.is_ok(), cipher != snitun::Cipher::AesGcm);
        }
    }
}
