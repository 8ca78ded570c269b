//! Errors of starting and stopping remote access.

use crate::certificate::verify::CertificateError;
use crate::traits::StoreError;

/// Why remote access did not start. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The relay's address makes no sense. A fault of the configuration.
    #[error("the relay's address \"{host}\" port {port} is not a host name or address with a port")]
    Relay {
        /// The host that was given.
        host: String,
        /// The port that was given.
        port: u16,
    },
    /// The access point is not a host name. A fault of the configuration.
    #[error("the access point \"{name}\" is not a host name")]
    AccessPoint {
        /// What was given.
        name: String,
    },
    /// There is nothing to serve.
    #[error("remote access was given no application to serve")]
    NoApplication,
    /// A probe was asked for, but TLS does not end here. A fault of the configuration.
    #[error(
        "a probe cannot tell whether an application with a certificate of its own is reachable"
    )]
    Probe,
    /// The certificate could not be loaded. Trying again can help.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate cannot be served.
    #[error("the stored certificate cannot be served: {0}")]
    Certificate(#[from] CertificateError),
    /// TLS could not be set up.
    #[error("TLS could not be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Something still ran when a stop's deadline was over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("remote access did not end in time: {left} connections or tasks are left")]
pub struct StopError {
    /// How many.
    pub left: usize,
}
