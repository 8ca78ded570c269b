//! Proxy selection: a direct connection, or an HTTP proxy with CONNECT.
//!
//! A proxy sees the platform's name only: the exchange is TLS from end to end. The default proxy comes from the usual
//! environment variables `HTTPS_PROXY`, `ALL_PROXY`, and `NO_PROXY`, in upper or lower case.

use reqwest::{ClientBuilder, Proxy};

use crate::error::BuildError;
use crate::secret::ProxyUrl;

/// Which proxy to use.
#[derive(Debug, Clone)]
pub(crate) enum ProxySetting {
    /// The proxy from the environment, if any.
    Environment,
    Direct,
    Url(ProxyUrl),
}

impl ProxySetting {
    /// Applies the setting to a client that requests `https` URLs only.
    pub(crate) fn apply(&self, builder: ClientBuilder) -> Result<ClientBuilder, BuildError> {
        match self {
            Self::Environment => Ok(builder),
            Self::Direct => Ok(builder.no_proxy()),
            Self::Url(url) => {
                // An explicit proxy disables those of the environment.
                let proxy = Proxy::https(checked(url.expose())?)
                    .map_err(|_| BuildError::Proxy("is not usable"))?;
                Ok(builder.proxy(proxy))
            }
        }
    }
}

fn checked(url: &str) -> Result<reqwest::Url, BuildError> {
    let url = reqwest::Url::parse(url.trim()).map_err(|_| BuildError::Proxy("is not a URL"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(BuildError::Proxy("must begin with http:// or https://")),
    }
}
