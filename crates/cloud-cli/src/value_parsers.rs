//! Parsers for the values of options. An invalid value is a usage error (exit 2).

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;

use cloud_facade::config::{Endpoint, NameError};
use cloud_facade::iot::Proxy;
use cloud_facade::remote::Upstream;
use cloud_facade::shadow::{StateError, parse_state};
use ipnet::IpNet;
use reqwest::Url;
use serde_json::{Map, Value};

/// The byte order mark, which Windows editors write at the beginning of a file.
pub(crate) const BYTE_ORDER_MARK: char = '\u{feff}';

/// Advice in the errors of addresses.
const WRITE_HOST_PORT: &str = "write HOST:PORT, such as 127.0.0.1:8080";

/// Parses a range of addresses, or one address.
pub(crate) fn range(text: &str) -> Result<IpNet, String> {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| {
            "is neither an address nor a range such as 192.0.2.0/24 or 2001:db8::/32".to_owned()
        })
}

/// An address to connect to: host and port, both required.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// The error of an invalid address.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    #[error("has no port; {WRITE_HOST_PORT}, or [V6]:PORT")]
    NoPort,
    #[error("has no host; {WRITE_HOST_PORT}")]
    NoHost,
    #[error("is a URL; {WRITE_HOST_PORT}: the bytes are passed on as they are")]
    Url,
    #[error("needs the path of a socket, such as unix:/run/app.sock; or {WRITE_HOST_PORT}")]
    NoPath,
    #[error(transparent)]
    Name(#[from] NameError),
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains("://") {
            return Err(AddressError::Url);
        }
        if text.starts_with(':') && text.parse::<IpAddr>().is_err()
            || text.bytes().all(|byte| byte.is_ascii_digit())
        {
            return Err(AddressError::NoHost);
        }
        let endpoint: Endpoint = text.parse()?;
        let port = endpoint.port.ok_or(AddressError::NoPort)?;
        Ok(Self {
            host: endpoint.host.as_str().to_owned(),
            port,
        })
    }
}

/// The prefix of a Unix socket's path.
const UNIX: &str = "unix:";

/// A local application: a TCP address, or the path of a Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum LocalApplication {
    Tcp(Address),
    Unix(PathBuf),
}

impl FromStr for LocalApplication {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix(UNIX) {
            Some(path) if path.starts_with('/') => Ok(Self::Unix(path.into())),
            Some(_) => Err(AddressError::NoPath),
            None => text.parse().map(Self::Tcp),
        }
    }
}

impl LocalApplication {
    /// Returns the application as an upstream for remote access.
    pub(crate) fn upstream(&self) -> Upstream {
        match self {
            Self::Tcp(address) => Upstream::host(&address.host, address.port),
            Self::Unix(path) => Upstream::unix(path),
        }
    }

    /// Resolves the name once, in the background, and warns on failure: it may be misspelt, or
    /// become known later.
    pub(crate) fn warn_if_unresolvable(&self, option: &'static str) {
        let Self::Tcp(address) = self else {
            return;
        };
        if address.host.parse::<IpAddr>().is_ok() {
            return;
        }
        let (host, port) = (address.host.clone(), address.port);
        tokio::spawn(async move {
            if let Err(error) = tokio::net::lookup_host((host.as_str(), port)).await {
                tracing::warn!(
                    host, %error,
                    "the host given with {option} cannot be resolved; requests fail until it can; check the spelling"
                );
            }
        });
    }
}

impl fmt::Display for LocalApplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "{UNIX}{}", path.display()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The base URL of the provisioning API: `https`, or `http` on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiUrl(Url);

/// The error of an invalid URL.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ApiUrlError {
    #[error("is not a URL such as https://api.example.com")]
    NotAUrl,
    #[error(
        "must begin with https://; http:// is only for this machine (127.0.0.1, [::1] or localhost)"
    )]
    Insecure,
    #[error("must not have a query or a fragment")]
    Query,
    #[error("must not contain a user name or a password")]
    Credentials,
}

impl FromStr for ApiUrl {
    type Err = ApiUrlError;

    fn from_str(text: &str) -> Result<Self, ApiUrlError> {
        let url = Url::parse(text).map_err(|_| ApiUrlError::NotAUrl)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(ApiUrlError::Credentials);
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(ApiUrlError::Query);
        }
        let host = url.host_str().ok_or(ApiUrlError::NotAUrl)?;
        match url.scheme() {
            "https" => Ok(Self(url)),
            "http" if is_loopback(host) => Ok(Self(url)),
            "http" => Err(ApiUrlError::Insecure),
            _ => Err(ApiUrlError::NotAUrl),
        }
    }
}

impl ApiUrl {
    /// Returns the host, without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        self.0
            .host_str()
            .unwrap_or_default()
            .trim_start_matches('[')
            .trim_end_matches(']')
    }
}

impl fmt::Display for ApiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_str().fmt(f)
    }
}

/// The URL of a proxy. Its `Debug` does not show it, as it may contain a password.
#[derive(Clone)]
pub(crate) struct ProxyUrl(String);

/// The error of an invalid URL.
#[derive(Debug, thiserror::Error)]
#[error("is not a URL such as http://proxy.example.com:3128 or socks5://proxy.example.com:1080")]
pub(crate) struct ProxyUrlError;

impl FromStr for ProxyUrl {
    type Err = ProxyUrlError;

    fn from_str(text: &str) -> Result<Self, ProxyUrlError> {
        match Url::parse(text) {
            Ok(url) if url.has_host() && Proxy::new(text).is_ok() => Ok(Self(text.to_owned())),
            _ => Err(ProxyUrlError),
        }
    }
}

impl fmt::Debug for ProxyUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyUrl([redacted])")
    }
}

impl ProxyUrl {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Parses any JSON value.
pub(crate) fn json_value(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))
}

/// Parses a state for a shadow, a JSON object.
pub(crate) fn shadow_state(text: &str) -> Result<Map<String, Value>, String> {
    match parse_state(text) {
        Ok(state) => Ok(state),
        Err(error @ StateError::NotKept(_)) => Err(error.to_string()),
        Err(_) => match json_value(text)? {
            Value::Object(state) => Ok(state),
            _ => Err("is not a JSON object such as {\"key\": 1}".to_owned()),
        },
    }
}

/// Whether a host is a name or an address of this machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_requires_host_and_port() {
        for good in [
            "localhost:8080",
            "127.0.0.1:1",
            "[::1]:65535",
            "box.local:443",
        ] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "localhost",
            "127.0.0.1",
            "[::1]",
            "::1",
            ":80",
            "a:0",
            "a:65536",
            "a:-1",
            "a:http",
            "a b:1",
            "h/p:1",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
        assert_eq!("localhost".parse::<Address>(), Err(AddressError::NoPort));
    }

    #[test]
    fn application_is_address_or_socket() {
        for good in ["127.0.0.1:8080", "localhost:80", "unix:/run/app.sock"] {
            assert_eq!(good.parse::<LocalApplication>().unwrap().to_string(), good);
        }
        for (text, reason) in [
            ("8080", AddressError::NoHost),
            ("unix:app.sock", AddressError::NoPath),
            ("http://localhost:1", AddressError::Url),
        ] {
            assert_eq!(text.parse::<LocalApplication>(), Err(reason), "{text}");
        }
    }

    #[test]
    fn plain_http_requires_loopback_host() {
        for good in [
            "https://api.example.com/v1",
            "http://127.0.0.1:8080",
            "http://[::1]:1/",
            "http://localhost",
        ] {
            assert!(good.parse::<ApiUrl>().is_ok(), "{good}");
        }
        for bad in [
            "http://api.example.com",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
        ] {
            assert_eq!(bad.parse::<ApiUrl>(), Err(ApiUrlError::Insecure), "{bad}");
        }
        for bad in [
            "",
            "api.example.com",
            "ftp://localhost",
            "file:///etc",
            "https://",
        ] {
            assert_eq!(bad.parse::<ApiUrl>(), Err(ApiUrlError::NotAUrl), "{bad:?}");
        }
        assert_eq!(
            "https://user:word@api.example.com".parse::<ApiUrl>(),
            Err(ApiUrlError::Credentials)
        );
    }
}
