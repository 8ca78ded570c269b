//! The HTTP proxy between this device and the cloud: from the command line, or else from the environment as other programs
//! have it.
//!
//! It is for the API and the broker; the tunnel goes straight to the relay. What stays on this machine goes through a proxy
//! only if that was asked for on the command line.

use cloud_facade::iot::Proxy;

use crate::cli::GlobalOptions;
use crate::failure::{Failure, Outcome};
use crate::values::is_loopback;

/// The one that was given on the command line, if it may stand there.
pub(crate) fn given(global: &GlobalOptions) -> Outcome<Option<&str>> {
    global.proxy.as_deref().map(public).transpose()
}

/// The one that leads to the broker at `host`, if any does.
pub(crate) fn to_broker(global: &GlobalOptions, host: &str) -> Outcome<Option<Proxy>> {
    let unusable = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
    match given(global)? {
        Some(url) => Proxy::new(url)
            .map(Some)
            .map_err(|error| unusable(&format_args!("--proxy <URL>: {error}"))),
        None if is_loopback(host) => Ok(None),
        None => Proxy::from_env().map_err(|error| unusable(&error)),
    }
}

/// Whether one finds the API's name, so that the name need not be known here.
pub(crate) fn finds_names(global: &GlobalOptions) -> bool {
    let named = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    global.proxy.is_some()
        || ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
            .into_iter()
            .any(named)
}

/// A proxy's address as it may stand on a command line. What is wrong with it is told without repeating it, as it may hold
/// a password.
fn public(proxy: &str) -> Outcome<&str> {
    let refused = |why| {
        Err(Failure::Usage(format!(
            "the value for '--proxy <URL>' {why}"
        )))
    };
    match reqwest::Url::parse(proxy) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => refused(
            "holds a user name or a password, which other users could see; put that address into HTTPS_PROXY",
        ),
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(proxy),
        _ => refused("is not a URL such as http://proxy.example.com:3128"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_a_url_without_secrets() {
        for good in ["http://proxy.example.com:3128", "https://10.0.0.1:443/"] {
            assert!(public(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "proxy.example.com:3128",
            "socks5://proxy.example.com",
            "http://me:s3cret@proxy.example.com:3128",
            "http://s3cret@proxy.example.com:3128",
        ] {
            let error = public(bad).unwrap_err();
            assert!(matches!(error, Failure::Usage(_)), "{bad}");
            assert!(!error.to_string().contains("s3cret"), "{error}");
        }
    }
}
