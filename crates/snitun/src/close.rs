//! Why connections and channels end.

use crate::cipher::SealError;
use crate::decoder::DecodeError;

/// Why a tunnel ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// We closed it.
    #[error("the tunnel was closed on this side")]
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
        /// What kind of failure it was.
        kind: std::io::ErrorKind,
        /// What the system says about it.
        message: String,
    },
    /// What the peer sent cannot be understood.
    #[error("the peer broke the protocol: {0}")]
    Protocol(#[from] DecodeError),
    /// The peer makes us refuse or close channels faster than it reads that we do.
    #[error("the peer opens and overruns channels faster than it reads that they are closed")]
    Flooded,
    /// The session cipher cannot go on.
    #[error(transparent)]
    Cipher(#[from] SealError),
    /// A ping was not answered in time.
    #[error("the peer did not answer a ping in time")]
    PingTimeout,
    /// Nothing was read (at a client: nor written) for too long.
    #[error("nothing came from the peer for too long")]
    Idle,
    /// The peer does not take what we have to write.
    #[error("the peer did not read from the connection for too long")]
    WriteStalled,
    /// Another connection for the same host name took over.
    #[error("a newer connection for the same host name took over")]
    Replaced,
    /// The token has run out.
    #[error("the token has expired")]
    Expired,
}

impl CloseReason {
    /// Whether connecting again with the same token can help.
    pub fn is_retryable(&self) -> bool {
        !matches!(self, Self::Expired | Self::Replaced | Self::Local)
    }
}

/// Why a channel gives neither data nor a regular end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// More came in than the application read; the channel was closed and its data dropped.
    #[error("the channel was closed because more arrived than its receive limit allows")]
    Overrun,
    /// The peer opened another channel under the same id, by mistake; which of the two its data is for cannot be told.
    #[error("the channel was closed because the peer opened another one under the same id")]
    OpenedAgain,
    /// The tunnel ended.
    #[error("the tunnel ended while the channel was open")]
    TunnelClosed,
}

/// Why a channel cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// As many channels are open as the limits allow.
    #[error("the tunnel has as many channels as it may have; try again later")]
    TooManyChannels,
    /// The id is in use.
    #[error("a channel with this id is already open")]
    DuplicateId,
    /// The tunnel has ended.
    #[error("the tunnel has ended")]
    Closed,
    /// No device is connected under the host name that was asked for. Only a server's handle says so.
    #[error("no device is connected under this host name")]
    NoDevice,
}
