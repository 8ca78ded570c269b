//! Errors of starting and stopping remote access.

use crate::certificate::verify::CertificateError;
use crate::traits::StoreError;

/// An error of starting remote access. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The relay's address is invalid: a configuration error.
    #[error("the relay's address \"{host}\" port {port} is not a host name or address with a port")]
    Relay {
        /// The configured host.
        host: String,
        /// The configured port.
        port: u16,
    },
    /// The access point is not a host name: a configuration error.
    #[error("the access point \"{name}\" is not a host name")]
    AccessPoint {
        /// The configured name.
        name: String,
    },
    /// No application is set.
    #[error("no application is set: call application() before start()")]
    NoApplication,
    /// A probe is configured, but TLS does not terminate here: a configuration error.
    #[error(
        "a probe cannot verify an application with a certificate of its own: leave out the probe"
    )]
    Probe,
    /// The authentication rules cannot be enforced for this kind of application: a configuration
    /// error.
    #[error(
        "the authentication rules cannot be enforced for this kind of application: plain TCP takes client certificates \
         for all paths only, and TLS that is passed through takes none"
    )]
    Auth,
    /// The certificate could not be loaded. A retry can help.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored certificate cannot be served.
    #[error("the stored certificate cannot be served: {0}")]
    Certificate(#[from] CertificateError),
    /// The TLS configuration failed.
    #[error("the TLS configuration failed: {0}")]
    Tls(#[from] rustls::Error),
}

/// A connection or task was still open at the deadline of a stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("remote access did not end in time: {left} connections or tasks are still open")]
#[non_exhaustive]
pub struct StopError {
    /// The number of open connections and tasks.
    pub left: usize,
}
