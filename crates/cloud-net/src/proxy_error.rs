//! Failures between the device and its proxy, or beyond the proxy.

use std::fmt;

use thiserror::Error;

use crate::connect::ConnectError;

/// A proxy does not provide a connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("no connection to {target} through the proxy {proxy}: {failure}")]
#[non_exhaustive]
pub struct ProxyError {
    /// The server's host and port.
    pub target: String,
    /// The proxy's host and port.
    pub proxy: String,
    /// What happened.
    pub failure: ProxyFailure,
}

impl ProxyError {
    /// Creates an error. Server and proxy are named by their hosts and ports.
    pub fn new(target: impl Into<String>, proxy: impl Into<String>, failure: ProxyFailure) -> Self {
        Self {
            target: target.into(),
            proxy: proxy.into(),
            failure,
        }
    }
}

/// Why a proxy does not provide a connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProxyFailure {
    /// The proxy's name has no address, or the proxy cannot be reached.
    #[error("the proxy cannot be reached: {0}")]
    Unreachable(Box<ConnectError>),
    /// The proxy requires a user name and a password, or other ones.
    #[error("the proxy refused the user name and the password, or requires them; check its URL")]
    Authentication,
    /// The proxy does not allow this host and port.
    #[error(
        "the proxy refused to connect to the server ({reply}); check its rules for this host and port"
    )]
    Refused {
        /// The proxy's reply.
        reply: ProxyReply,
    },
    /// The proxy cannot reach the server.
    #[error(
        "the proxy could not reach the server ({reply}); check the server's address and the proxy's network"
    )]
    ServerUnreachable {
        /// The proxy's reply.
        reply: ProxyReply,
    },
    /// The service at the proxy's address speaks another protocol.
    #[error("the service at its address is not an {0} proxy; check its host and port")]
    NotAProxy(&'static str),
    /// The proxy closed the connection before it responded.
    #[error("the proxy closed the connection without a response")]
    Closed,
    /// The proxy did not respond within the time limit.
    #[error("the proxy did not open the connection within the time limit")]
    TimedOut,
}

/// How a proxy refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProxyReply {
    /// The status of an HTTP response.
    HttpStatus(u16),
    /// The meaning of a SOCKS reply.
    Socks(&'static str),
}

impl fmt::Display for ProxyReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HttpStatus(status) => write!(f, "HTTP status {status}"),
            Self::Socks(meaning) => write!(f, "SOCKS reply: {meaning}"),
        }
    }
}
