//! What can go wrong between the device and its HTTP proxy, or beyond it.

use thiserror::Error;

use super::Cause;

/// Why there is no way through the HTTP proxy.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProxyCause {
    /// The proxy's name has no address.
    #[error("its name cannot be resolved; check its address, the network and DNS")]
    NameNotFound,
    /// There is no connection to the proxy.
    #[error("it cannot be reached: {0}")]
    Unreachable(Box<Cause>),
    /// The proxy wants a user name and a password, or others than it was given.
    #[error("it refused the user name and the password, or wants some; check its URL")]
    Authentication,
    /// The proxy does not open a way to this server and port.
    #[error(
        "it refused the way to the server (HTTP status {status}); check its rules for this host and port"
    )]
    Refused {
        /// Its answer.
        status: u16,
    },
    /// The proxy itself has no way to the server.
    #[error(
        "it could not reach the server (HTTP status {status}); check the endpoint and the proxy's network"
    )]
    ServerUnreachable {
        /// Its answer.
        status: u16,
    },
    /// What listens at the proxy's address does not speak HTTP.
    #[error("what answers at its address is no HTTP proxy; check its host and port")]
    NotHttp,
    /// The proxy ended the connection before it had answered.
    #[error("it closed the connection without an answer")]
    Closed,
}
