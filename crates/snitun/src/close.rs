//! Reasons for the end of tunnels and channels.

use crate::codec::decoder::DecodeError;
use crate::crypto::cipher::SealError;

/// The reason why a tunnel ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// Closed locally.
    #[error("the tunnel was closed locally")]
    Local,
    /// The server is stopping.
    #[error("the server is shutting down")]
    Shutdown,
    /// The peer ended the connection.
    #[error("the peer closed the tunnel")]
    Peer,
    /// The connection failed.
    #[error("the tunnel's connection failed: {message}")]
    Io {
        /// The kind of the I/O error.
        kind: std::io::ErrorKind,
        /// The system's error message.
        message: String,
    },
    /// The peer's data cannot be decoded.
    #[error("the peer violated the protocol: {0}")]
    Protocol(#[from] DecodeError),
    /// The peer makes us refuse or close channels faster than it reads the CLOSE frames.
    #[error("the peer opens and overruns channels faster than it reads the CLOSE frames")]
    Flooded,
    /// The session cipher cannot encrypt any more.
    #[error(transparent)]
    Cipher(#[from] SealError),
    /// A ping was not answered in time.
    #[error("the peer did not answer a ping in time")]
    PingTimeout,
    /// Nothing was read (for a client: nor written) within the idle timeout.
    #[error("no data arrived from the peer within the idle timeout")]
    Idle,
    /// The peer accepts no data.
    #[error("the peer did not read from the connection within the idle timeout")]
    WriteStalled,
    /// A newer connection for the same host name replaced it.
    #[error("a newer connection for the same host name replaced this one")]
    Replaced,
    /// The token has expired.
    #[error("the token has expired")]
    Expired,
}

impl CloseReason {
    /// Returns whether reconnecting with the same token can help.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Expired | Self::Replaced | Self::Local)
    }
}

/// The reason why a channel failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// More data arrived than the application read. The channel was closed; up to the limit of one
    /// channel its data can be read before this error, beyond the limit of all it was dropped.
    #[error("the channel was closed because the received data exceeds its receive limit")]
    Overrun,
    /// The peer opened another channel with the same id; the data of the two cannot be
    /// distinguished.
    #[error("the channel was closed because the peer opened another one with the same id")]
    DuplicateOpen,
    /// The tunnel ended.
    #[error("the tunnel ended while the channel was open")]
    TunnelClosed,
}

/// The reason why a channel cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The maximum number of channels is open.
    #[error("the tunnel has the maximum number of channels; try again later")]
    TooManyChannels,
    /// The id is in use.
    #[error("a channel with this id is already open")]
    DuplicateId,
    /// The tunnel has ended.
    #[error("the tunnel has ended")]
    Closed,
    /// No device is connected under the requested host name. Only a server's handle returns this.
    #[error("no device is connected under this host name")]
    NoDevice,
}
