//! The HTTP proxy for the cloud: from the command line, otherwise from the usual environment
//! variables.
//!
//! API and broker use it; the tunnel connects to the relay directly. Connections within this
//! machine use a proxy only if the command line names one.

use cloud_facade::iot::Proxy;

use crate::error::{CliError, Result};
use crate::options::GlobalOptions;
use crate::value_parsers::is_loopback;

/// Returns the proxy from the command line.
///
/// # Errors
/// Usage error if it is invalid or contains credentials.
pub(crate) fn from_option(global: &GlobalOptions) -> Result<Option<&str>> {
    global.proxy.as_deref().map(validate).transpose()
}

/// Returns the proxy for the broker at `host`, if any.
pub(crate) fn for_broker(global: &GlobalOptions, host: &str) -> Result<Option<Proxy>> {
    let unusable = |error: &dyn std::fmt::Display| CliError::Usage(error.to_string());
    match from_option(global)? {
        Some(url) => Proxy::new(url)
            .map(Some)
            .map_err(|error| unusable(&format_args!("--proxy <URL>: {error}"))),
        None if is_loopback(host) => Ok(None),
        None => Proxy::from_env().map_err(|error| unusable(&error)),
    }
}

/// Whether a proxy resolves the API's name, so that the device need not.
pub(crate) fn resolves_names(global: &GlobalOptions) -> bool {
    let is_set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    global.proxy.is_some()
        || ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
            .into_iter()
            .any(is_set)
}

/// Validates a proxy's URL for the command line. Messages do not repeat it, as it may contain a
/// password.
fn validate(proxy: &str) -> Result<&str> {
    let refused = |why| {
        Err(CliError::Usage(format!(
            "the value for '--proxy <URL>' {why}"
        )))
    };
    match reqwest::Url::parse(proxy) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => refused(
            "contains a user name or a password, which other users could see; put that address into HTTPS_PROXY",
        ),
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(proxy),
        _ => refused("is not a URL such as http://proxy.example.com:3128"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_must_be_url_without_credentials() {
        for good in ["http://proxy.example.com:3128", "https://10.0.0.1:443/"] {
            assert!(validate(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "proxy.example.com:3128",
            "socks5://proxy.example.com",
            "http://me:s3cret@proxy.example.com:3128",
            "http://s3cret@proxy.example.com:3128",
        ] {
            let error = validate(bad).unwrap_err();
            assert!(matches!(error, CliError::Usage(_)), "{bad}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
