//! The way to the platform: direct, or through an HTTP proxy that opens a tunnel with CONNECT.
//!
//! A proxy sees the platform's name and nothing of the exchange, which is TLS from end to end. Where nothing is set, the
//! variables that other programs go by count: `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or not.

use reqwest::{ClientBuilder, Proxy, Url};

use crate::error::BuildError;
use crate::secret::ProxyUrl;

/// Which proxy to use.
#[derive(Debug, Clone)]
pub(crate) enum Route {
    /// The one that the environment names, if it does.
    Environment,
    Direct,
    Through(ProxyUrl),
}

impl Route {
    /// For a client that speaks to `https` only.
    pub(crate) fn apply(&self, builder: ClientBuilder) -> Result<ClientBuilder, BuildError> {
        match self {
            Self::Environment => Ok(builder),
            Self::Direct => Ok(builder.no_proxy()),
            Self::Through(url) => {
                // A proxy that is set replaces those of the environment.
                let proxy = Proxy::https(checked(url.expose())?)
                    .map_err(|_| BuildError::Proxy("is not usable"))?;
                Ok(builder.proxy(proxy))
            }
        }
    }
}

fn checked(url: &str) -> Result<Url, BuildError> {
    let url = Url::parse(url.trim()).map_err(|_| BuildError::Proxy("is not a URL"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(BuildError::Proxy("must begin with http:// or https://")),
    }
}
