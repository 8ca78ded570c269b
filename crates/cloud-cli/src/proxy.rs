//! The proxy for the cloud: from the command line, otherwise from the usual environment variables.
//!
//! API, broker and relay use it. Connections within this machine use a proxy only if the command
//! line names one.

use cloud_facade::iot::Proxy;

use crate::error::{CliError, Result};
use crate::options::GlobalOptions;

/// Returns the proxy from the command line.
///
/// # Errors
/// Usage error if it is invalid or contains credentials.
pub(crate) fn from_option(global: &GlobalOptions) -> Result<Option<&str>> {
    global.proxy.as_deref().map(validate).transpose()
}

/// Returns the proxy for the cloud's servers, if any.
pub(crate) fn for_cloud(global: &GlobalOptions) -> Result<Option<Proxy>> {
    let proxy = match from_option(global)? {
        Some(url) => Proxy::new(url).map(Some),
        None => Proxy::from_env(),
    };
    proxy.map_err(|error| CliError::Usage(error.to_string()))
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
        Ok(url) if url.has_host() && Proxy::new(proxy).is_ok() => Ok(proxy),
        _ => refused(
            "is not a URL such as http://proxy.example.com:3128 or socks5://proxy.example.com:1080",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_must_be_url_without_credentials() {
        for good in ["http://proxy.example.com:3128", "socks5://10.0.0.1"] {
            assert!(validate(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "proxy.example.com:3128",
            "https://proxy.example.com",
            "http://me:s3cret@proxy.example.com:3128",
            "http://s3cret@proxy.example.com:3128",
        ] {
            let error = validate(bad).unwrap_err();
            assert!(matches!(error, CliError::Usage(_)), "{bad}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
