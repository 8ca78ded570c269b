//! Records of callers: of each request, each connection and each refusal, for access logs and
//! metrics.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cloud_net::UntrustedText;
use http::{StatusCode, Version};

/// What has happened to a caller, see
/// [`RemoteAccessBuilder::on_access`](crate::RemoteAccessBuilder::on_access).
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AccessRecord {
    /// An HTTP request has ended, with or without a response.
    Request(Box<RequestRecord>),
    /// A connection that the device does not read as HTTP has ended
    /// ([`Application::ForwardTcp`](crate::Application::ForwardTcp),
    /// [`Application::Passthrough`](crate::Application::Passthrough)).
    Connection(ConnectionRecord),
    /// A connection was refused before it reached the application.
    Refused(RefusedRecord),
}

/// An HTTP request that has ended. Its texts are the caller's, escaped and cut to 256 characters.
///
/// A WebSocket over HTTP/1.1 is recorded when its connection ends, one over HTTP/2 when it starts.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RequestRecord {
    /// The caller's address, if the relay sends it.
    pub address: Option<IpAddr>,
    /// The name of the user, if the [guard](crate::auth) has checked a password.
    pub user: Option<UntrustedText>,
    /// The arrival of the request's header.
    pub started: SystemTime,
    /// Time from the arrival of the header to the end of the response.
    pub duration: Duration,
    /// The method.
    pub method: UntrustedText,
    /// The path, without the query.
    pub path: UntrustedText,
    /// The query, which may hold secrets.
    pub query: Option<UntrustedText>,
    /// The version of HTTP.
    pub version: Version,
    /// The host that the request names.
    pub host: Option<UntrustedText>,
    /// The header `User-Agent`.
    pub user_agent: Option<UntrustedText>,
    /// The header `Referer`; its query may hold secrets.
    pub referer: Option<UntrustedText>,
    /// The status of the response; `None` if the request ended without one.
    pub status: Option<StatusCode>,
    /// Bytes of the request's body that the application has read. After an upgrade over HTTP/1.1,
    /// all bytes of the connection from the caller since, including TLS.
    pub received: u64,
    /// Bytes of the response's body that were sent; after an upgrade likewise.
    pub sent: u64,
    /// The local server that the request was forwarded to.
    pub upstream: Option<String>,
    /// The reason for which the device itself refused the request.
    pub refused: Option<Refusal>,
    /// Whether the request ended before its response was complete.
    pub cut: bool,
}

/// A connection that has ended, and that the device does not read as HTTP.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ConnectionRecord {
    /// The caller's address, if the relay sends it.
    pub address: Option<IpAddr>,
    /// The start of the connection, after a TLS handshake if the device has made one.
    pub started: SystemTime,
    /// How long it was open.
    pub duration: Duration,
    /// Bytes from the caller, as the tunnel carries them, so including TLS.
    pub received: u64,
    /// Bytes to the caller, likewise.
    pub sent: u64,
    /// The local server.
    pub upstream: String,
    /// Whether it ended with an error, or the device ended it.
    pub cut: bool,
}

/// A connection that was refused.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RefusedRecord {
    /// The caller's address, if the relay sends it.
    pub address: Option<IpAddr>,
    /// The reason.
    pub reason: Refusal,
}

/// A reason for which the device itself refuses a connection or a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Refusal {
    /// The access rules exclude the address.
    AccessRules,
    /// The maximum number of connections is open.
    Connections,
    /// The maximum number of connections of this caller is open.
    ConnectionsPerCaller,
    /// The TLS handshake failed or took too long.
    TlsHandshake,
    /// The caller has shown no password or client certificate, or a wrong one.
    Authentication,
    /// The request is for another host.
    Host,
    /// The request is malformed, or has too many header fields.
    Malformed,
    /// Too many requests are in progress.
    Requests,
    /// The caller is below the minimum data rate.
    Slow,
}

impl Refusal {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::AccessRules,
        Self::Connections,
        Self::ConnectionsPerCaller,
        Self::TlsHandshake,
        Self::Authentication,
        Self::Host,
        Self::Malformed,
        Self::Requests,
        Self::Slow,
    ];

    /// A short name, for logs and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AccessRules => "access_rules",
            Self::Connections => "connections",
            Self::ConnectionsPerCaller => "connections_per_caller",
            Self::TlsHandshake => "tls_handshake",
            Self::Authentication => "authentication",
            Self::Host => "host",
            Self::Malformed => "malformed",
            Self::Requests => "requests",
            Self::Slow => "slow",
        }
    }
}

/// The function that receives the records.
#[derive(Clone)]
pub(crate) struct Observer(Arc<dyn Fn(&AccessRecord) + Send + Sync>);

impl Observer {
    pub(crate) fn new(observe: impl Fn(&AccessRecord) + Send + Sync + 'static) -> Self {
        Self(Arc::new(observe))
    }

    pub(crate) fn record(&self, record: &AccessRecord) {
        (self.0)(record);
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Observer")
    }
}
