//! The proxy for the cloud: from the settings, otherwise from the usual environment variables.
//!
//! API, broker and relay use it. Connections within this machine use a proxy only if the
//! settings name one.

use clap::error::ErrorKind;
use cloud_facade::iot::Proxy;

use crate::error::{CliError, Result};
use crate::options::GlobalOptions;
use crate::value_parsers::ProxyUrl;

/// Returns the proxy of the settings.
pub(crate) fn from_settings(global: &GlobalOptions) -> Option<&str> {
    global.proxy.as_ref().map(|proxy| proxy.as_str())
}

/// Returns the proxy for the cloud's servers, if any.
pub(crate) fn for_cloud(global: &GlobalOptions) -> Result<Option<Proxy>> {
    let proxy = match from_settings(global) {
        Some(url) => Proxy::new(url).map(Some),
        None => Proxy::from_env(),
    };
    proxy.map_err(|error| CliError::Usage(error.to_string()))
}

/// Refuses a user name and a password on the command line.
pub(crate) fn refuse_credentials(proxy: &ProxyUrl) -> Result<(), clap::Error> {
    match reqwest::Url::parse(proxy.as_str()) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => Err(clap::Error::raw(
            ErrorKind::InvalidValue,
            "the value for '--proxy <URL>' contains a user name or a password, which other users could see; put that \
             address into CLESYDE_PROXY, HTTPS_PROXY or the configuration file\n",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_must_be_url_without_credentials() {
        for good in ["http://proxy.example.com:3128", "socks5://10.0.0.1"] {
            refuse_credentials(&good.parse().unwrap()).unwrap();
        }
        for bad in ["", "proxy.example.com:3128", "https://proxy.example.com"] {
            assert!(bad.parse::<ProxyUrl>().is_err(), "{bad}");
        }
        for secret in [
            "http://me:s3cret@proxy.example.com:3128",
            "http://s3cret@proxy.example.com:3128",
        ] {
            let proxy: ProxyUrl = secret.parse().unwrap();
            assert!(!format!("{proxy:?}").contains("s3cret"));
            let error = refuse_credentials(&proxy).unwrap_err();
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
