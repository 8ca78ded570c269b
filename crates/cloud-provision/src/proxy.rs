//! The proxy to the platform: none, a configured one, or that of the environment.
//!
//! [`cloud_net::Proxy`] decides, as for the connections to broker and relay, so all of them accept
//! the same URLs and variables. reqwest opens the connection. It does not say how a proxy refused,
//! so [`refusal`] asks the proxy once more.

use std::time::Duration;

use cloud_net::{ConnectError, Connector, InvalidProxy, Proxy, ProxyError};
use reqwest::Url;
use tokio::time::Instant;

/// Which proxy to use.
#[derive(Debug, Clone)]
pub(crate) enum ProxySetting {
    /// The proxy from the environment, if any.
    Environment,
    Direct,
    Url(Result<Proxy, InvalidProxy>),
}

impl ProxySetting {
    /// Returns the proxy for this server, unless it is reached directly.
    pub(crate) fn for_server(self, url: &Url) -> Result<Option<Proxy>, InvalidProxy> {
        let proxy = match self {
            Self::Environment => Proxy::from_env()?,
            Self::Direct => None,
            Self::Url(proxy) => Some(proxy?),
        };
        Ok(proxy.filter(|proxy| proxy.address_for(host(url)).is_some()))
    }
}

/// Returns the proxy in the form of the HTTP client.
pub(crate) fn for_reqwest(proxy: &Proxy) -> Result<reqwest::Proxy, InvalidProxy> {
    // The error is not the source of this one, because it may quote the URL.
    reqwest::Proxy::all(proxy.url()).map_err(|_| InvalidProxy::NotUsable(None))
}

/// Asks the proxy for a connection to this server. Returns its refusal; `None` if there is none.
pub(crate) async fn refusal(proxy: &Proxy, url: &Url, limit: Duration) -> Option<ProxyError> {
    let port = url.port_or_known_default()?;
    let connector = Connector::new().proxy(Some(proxy.clone()));
    match connector
        .connect(host(url), port, Instant::now() + limit)
        .await
    {
        Err(ConnectError::Proxy(error)) => Some(error),
        _ => None,
    }
}

/// Returns the host, an IPv6 address without brackets.
pub(crate) fn host(url: &Url) -> &str {
    let host = url.host_str().unwrap_or_default();
    host.trim_start_matches('[').trim_end_matches(']')
}
