//! The way to the provisioning API, for the commands that ask it: whom to trust, and through which proxy.

use std::path::PathBuf;

use clap::Args;
use cloud_facade::provision::{Client, ClientBuilder};

use crate::failure::{Failure, Outcome, chain};
use crate::values::ApiUrl;

/// What such a command takes.
#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    /// Trust the root certificates in this PEM file, besides the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Ask the API through this proxy, http://HOST:PORT [default: HTTPS_PROXY or ALL_PROXY, but for what NO_PROXY names]
    #[arg(long, value_name = "URL")]
    proxy: Option<String>,
}

impl ApiArgs {
    /// A client for the API at this address.
    pub(crate) fn client(&self, url: &ApiUrl) -> Outcome<Client> {
        build(self.builder(url)?)
    }

    /// The same, for whoever wants to change more of it.
    pub(crate) fn builder(&self, url: &ApiUrl) -> Outcome<ClientBuilder> {
        let mut client = Client::builder(&url.to_string());
        if let Some(pem) = self.roots()? {
            client = client.additional_roots_pem(pem);
        }
        if let Some(proxy) = &self.proxy {
            client = client.proxy(public(proxy)?);
        }
        Ok(client)
    }

    /// Whether a proxy finds the API's name, so that it need not be known here.
    pub(crate) fn is_proxied(&self) -> bool {
        let named = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        self.proxy.is_some()
            || ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]
                .into_iter()
                .any(named)
    }

    /// The roots to trust besides the system's, in PEM.
    pub(crate) fn roots(&self) -> Outcome<Option<Vec<u8>>> {
        self.ca_file
            .as_ref()
            .map(|path| {
                std::fs::read(path).map_err(|error| {
                    Failure::at("could not read the root certificates in", path, &error)
                })
            })
            .transpose()
    }
}

pub(crate) fn build(client: ClientBuilder) -> Outcome<Client> {
    client
        .build()
        .map_err(|error| Failure::Failed(chain(&error)))
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
