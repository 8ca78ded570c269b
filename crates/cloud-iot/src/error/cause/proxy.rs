//! Failures between the device and its HTTP proxy, or beyond the proxy.

use thiserror::Error;

use super::Cause;

/// Why the HTTP proxy does not provide a connection.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProxyCause {
    /// The proxy's name has no address.
    #[error("its name cannot be resolved; check its address, the network and DNS")]
    NameNotFound,
    /// The proxy cannot be reached.
    #[error("it cannot be reached: {0}")]
    Unreachable(Box<Cause>),
    /// The proxy requires a user name and a password, or other ones.
    #[error("it refused the user name and the password, or requires them; check its URL")]
    Authentication,
    /// The proxy does not allow this host and port.
    #[error(
        "it refused to connect to the server (HTTP status {status}); check its rules for this host and port"
    )]
    Refused {
        /// HTTP status of the response.
        status: u16,
    },
    /// The proxy cannot reach the server.
    #[error(
        "it could not reach the server (HTTP status {status}); check the endpoint and the proxy's network"
    )]
    ServerUnreachable {
        /// HTTP status of the response.
        status: u16,
    },
    /// The service at the proxy's address does not speak HTTP.
    #[error("the service at its address is not an HTTP proxy; check its host and port")]
    NotHttp,
    /// The proxy closed the connection before it responded.
    #[error("it closed the connection without a response")]
    Closed,
}
