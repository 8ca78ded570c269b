//! Why there is no connection: failures of the host, between the device and its proxy, or beyond
//! the proxy.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use thiserror::Error;

use crate::happy_eyeballs::is_unreachable;
use crate::host_and_port::HostAndPort;

/// Why there is no connection to a host.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name has no address: no network, a DNS failure, or a wrong name.
    #[error("{host} cannot be resolved ({reason}); check the name, the network and DNS")]
    NameNotFound {
        /// The name.
        host: String,
        /// The resolver's error.
        reason: String,
    },
    /// No address of the host accepted a connection.
    #[error("{}", no_connection(.host, *.port, .addresses, *.kind, .reason))]
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The addresses of the host. Those at the end may not have been tried.
        addresses: Vec<SocketAddr>,
        /// The kind of the most specific failure.
        kind: io::ErrorKind,
        /// That failure.
        reason: String,
    },
    /// The proxy does not provide a connection.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

fn no_connection(
    host: &str,
    port: u16,
    addresses: &[SocketAddr],
    kind: io::ErrorKind,
    reason: &str,
) -> String {
    let target = HostAndPort(host, port);
    let addresses: Vec<_> = addresses.iter().map(|at| at.ip().to_string()).collect();
    // An address needs no second mention.
    let tried = match &*addresses {
        [one] if one == host => String::new(),
        _ => format!(" (addresses: {})", addresses.join(", ")),
    };
    match kind {
        io::ErrorKind::ConnectionRefused => {
            format!("{target} refused the TCP connection{tried}; check the host and the port")
        }
        io::ErrorKind::TimedOut => {
            format!("{target} did not accept a TCP connection in time{tried}; check the network")
        }
        kind if is_unreachable(kind) => {
            format!("{target} cannot be reached{tried}; check the network")
        }
        _ => format!("no TCP connection to {target}{tried}: {reason}"),
    }
}

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
