//! What the reverse proxy needs to know of a request's connection.

use std::net::IpAddr;
use std::sync::Arc;

use crate::limits::connection_activity::ConnectionActivity;
use crate::limits::request_limit::RequestPermit;
use crate::reverse_proxy::pool::PrivateConnections;
use crate::server::request_monitor::RequestMonitor;

/// The connection and permit of a request; a request extension for the reverse proxy.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext {
    pub(crate) address: Option<IpAddr>,
    pub(crate) activity: Arc<ConnectionActivity>,
    /// The connections to the application that only this connection uses.
    pub(crate) private: Arc<PrivateConnections>,
    /// Held while any part of the request is with the application.
    pub(crate) permit: Arc<RequestPermit>,
    /// The record of the request, if there is an observer.
    pub(crate) monitor: Option<Arc<RequestMonitor>>,
}
