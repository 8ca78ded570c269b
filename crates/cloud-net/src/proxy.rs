//! Which proxy a connection uses: from a URL, or from the usual environment variables.
//!
//! The proxy sees the server's name and port, and no content, because TLS is end to end. It
//! resolves the name, so the device needs no DNS for outside names.

use std::env::VarError;
use std::fmt;
use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connect_error::ProxyFailure;
use crate::host_and_port::HostAndPort;
use crate::{http_connect, socks5};

/// An HTTP proxy (method CONNECT) or a SOCKS 5 proxy, with optional credentials, and the servers
/// that are reached directly.
///
/// ```
/// use cloud_net::Proxy;
///
/// let proxy = Proxy::new("http://device:secret@proxy.example:3128")?;
/// assert_eq!(format!("{proxy:?}"), "Proxy([redacted])");
/// assert_eq!(proxy.address_for("server.example").unwrap(), "proxy.example:3128");
/// # Ok::<(), cloud_net::InvalidProxy>(())
/// ```
#[derive(Clone)]
pub struct Proxy(Arc<Inner>);

struct Inner {
    matcher: Matcher,
    url: String,
}

/// Servers on this machine, which a proxy elsewhere cannot reach.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// The address of a proxy is not usable. The message does not repeat it, because it may contain a
/// password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidProxy {
    /// It is not a URL.
    #[error("the proxy's URL{} is not usable; it must be of the form http://host:port or socks5://host:port", from(.0))]
    NotUsable(Option<&'static str>),
    /// The scheme is not supported.
    #[error("the proxy's URL{} must begin with http:// or socks5://; no other kind of proxy is supported", from(.0))]
    Scheme(Option<&'static str>),
}

fn from(variable: &Option<&'static str>) -> String {
    variable.map_or_else(String::new, |name| format!(" in {name}"))
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Proxy([redacted])")
    }
}

impl Proxy {
    /// Creates a proxy for all servers from `http://host:port` or `socks5://host:port`, with
    /// optional `user:password@`. The default ports are 80 and 1080. `socks5h://` means the same as
    /// `socks5://`: the proxy resolves names.
    ///
    /// # Errors
    ///
    /// [`InvalidProxy`] if the URL is not usable.
    pub fn new(url: &str) -> Result<Self, InvalidProxy> {
        Self::build(url, "", None)
    }

    /// Reads the proxy from `HTTPS_PROXY` or else `ALL_PROXY`, in upper or lower case, with the
    /// exceptions in `NO_PROXY`: host names, which include their subdomains, IP addresses and
    /// networks, or `*`. Servers on this machine are excepted, too. Returns `None` without a proxy.
    ///
    /// # Errors
    ///
    /// [`InvalidProxy`] if the variable is not a URL that [`Proxy::new`] accepts.
    pub fn from_env() -> Result<Option<Self>, InvalidProxy> {
        Self::from_variables(std::env::var)
    }

    fn from_variables(
        get: impl Fn(&'static str) -> Result<String, VarError>,
    ) -> Result<Option<Self>, InvalidProxy> {
        let first = |names: [&'static str; 2]| {
            let values = names.into_iter().map(|name| (name, get(name)));
            let mut set = values.filter_map(|(name, value)| Some((name, value.ok()?)));
            set.find(|(_, value)| !value.trim().is_empty())
        };
        let proxy =
            first(["HTTPS_PROXY", "https_proxy"]).or_else(|| first(["ALL_PROXY", "all_proxy"]));
        let Some((name, url)) = proxy else {
            return Ok(None);
        };
        let exceptions = first(["NO_PROXY", "no_proxy"]).map(|(_, value)| value);
        let exceptions = match exceptions {
            Some(names) => format!("{names},{LOOPBACK}"),
            None => LOOPBACK.to_owned(),
        };
        Self::build(&url, &exceptions, Some(name)).map(Some)
    }

    fn build(
        url: &str,
        exceptions: &str,
        variable: Option<&'static str>,
    ) -> Result<Self, InvalidProxy> {
        let url = url.trim();
        let build = |exceptions: &str| Matcher::builder().https(url).no(exceptions).build();
        let any = build("").intercept(&destination("any").ok_or(InvalidProxy::NotUsable(None))?);
        let proxy = any.ok_or(InvalidProxy::NotUsable(variable))?;
        let protocol = Protocol::of(&proxy).ok_or(InvalidProxy::Scheme(variable))?;
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        Ok(Self(Arc::new(Inner {
            matcher: build(exceptions),
            url: format!("{}://{rest}", protocol.scheme()),
        })))
    }

    /// Returns the URL, for a library that connects by itself. It may contain a password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// Returns the host and port of the proxy for this server; `None` if it is reached directly.
    #[must_use]
    pub fn address_for(&self, host: &str) -> Option<String> {
        self.for_host(host).map(|proxy| proxy.to_string())
    }

    /// Returns the proxy for this server, unless it is reached directly.
    pub(crate) fn for_host(&self, host: &str) -> Option<ProxyServer> {
        let intercept = self.0.matcher.intercept(&destination(host)?)?;
        let protocol = Protocol::of(&intercept)?;
        Some(ProxyServer {
            intercept,
            protocol,
        })
    }
}

/// The servers are not HTTP servers, but all of them use TLS, as `https` does.
fn destination(host: &str) -> Option<Uri> {
    format!("https://{}", HostAndPort(host, 443)).parse().ok()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    HttpConnect,
    Socks5,
}

impl Protocol {
    /// The scheme that lets every library resolve names at the proxy.
    fn scheme(self) -> &'static str {
        match self {
            Self::HttpConnect => "http",
            Self::Socks5 => "socks5h",
        }
    }

    fn of(proxy: &Intercept) -> Option<Self> {
        match proxy.uri().scheme_str() {
            Some("http") => Some(Self::HttpConnect),
            Some("socks5" | "socks5h") => Some(Self::Socks5),
            _ => None,
        }
    }
}

/// The proxy of a connection. Its `Display` is its host and port.
pub(crate) struct ProxyServer {
    intercept: Intercept,
    protocol: Protocol,
}

impl ProxyServer {
    pub(crate) fn host(&self) -> &str {
        let host = self.intercept.uri().host().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    pub(crate) fn port(&self) -> u16 {
        let default = match self.protocol {
            Protocol::HttpConnect => 80,
            Protocol::Socks5 => 1080,
        };
        self.intercept.uri().port_u16().unwrap_or(default)
    }

    /// Opens the connection to a server over a connection to the proxy.
    pub(crate) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: &mut S,
        host: &str,
        port: u16,
    ) -> Result<(), ProxyFailure> {
        match self.protocol {
            Protocol::HttpConnect => {
                let target = HostAndPort(host, port).to_string();
                http_connect::open(stream, &target, self.intercept.basic_auth()).await
            }
            Protocol::Socks5 => socks5::open(stream, host, port, self.intercept.raw_auth()).await,
        }
    }
}

impl fmt::Display for ProxyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HostAndPort(self.host(), self.port()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_variables(set: &[(&str, &str)]) -> Result<Option<Proxy>, InvalidProxy> {
        Proxy::from_variables(|name| {
            let value = set.iter().find(|(set, _)| *set == name);
            value
                .map(|(_, value)| (*value).to_owned())
                .ok_or(VarError::NotPresent)
        })
    }

    #[test]
    fn environment_variables_are_read() {
        assert!(from_variables(&[]).unwrap().is_none());
        assert!(
            from_variables(&[("HTTP_PROXY", "http://a")])
                .unwrap()
                .is_none()
        );
        for (set, expected) in [
            (&[("HTTPS_PROXY", "http://a:1")][..], "a:1"),
            (&[("https_proxy", "http://a:1")], "a:1"),
            (&[("ALL_PROXY", "a:1")], "a:1"),
            (
                &[("ALL_PROXY", "http://a"), ("https_proxy", "http://b")],
                "b:80",
            ),
            (&[("HTTPS_PROXY", " "), ("all_proxy", "http://b")], "b:80"),
            (&[("ALL_PROXY", "socks5://u:p@[::1]")], "[::1]:1080"),
            (&[("all_proxy", "socks5h://a:9")], "a:9"),
        ] {
            let proxy = from_variables(set).unwrap().unwrap();
            assert_eq!(proxy.address_for("server.example").unwrap(), expected);
            assert!(proxy.address_for("ui.localhost").is_none());
        }
    }

    #[test]
    fn no_proxy_exceptions_connect_directly() {
        let none = "intern.example, 10.0.0.0/8, fd00::1";
        let proxy = from_variables(&[("HTTPS_PROXY", "http://a"), ("NO_PROXY", none)]);
        let proxy = proxy.unwrap().unwrap();
        for (host, through) in [
            ("server.example", true),
            ("intern.example", false),
            ("mqtt.intern.example", false),
            ("notintern.example", true),
            ("10.1.2.3", false),
            ("11.1.2.3", true),
            ("fd00::1", false),
            ("fd00::2", true),
            // This machine.
            ("localhost", false),
            ("127.0.0.2", false),
            ("::1", false),
        ] {
            assert_eq!(proxy.address_for(host).is_some(), through, "{host}");
        }
        let all = from_variables(&[("HTTPS_PROXY", "http://a"), ("no_proxy", "*")]);
        assert!(
            all.unwrap()
                .unwrap()
                .address_for("server.example")
                .is_none()
        );
    }

    #[test]
    fn unsupported_proxies_are_refused_without_password() {
        for url in ["socks4://u:secret@a:1", "https://u:secret@a:1"] {
            let error = Proxy::new(url).unwrap_err();
            assert_eq!(error, InvalidProxy::Scheme(None), "{url}");
            let error = from_variables(&[("https_proxy", url)])
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("https_proxy") && !error.contains("secret"),
                "{error}"
            );
        }
        for url in ["", "http://", "http://u:secret@", "a b", "ftp://a"] {
            assert_eq!(
                Proxy::new(url).unwrap_err(),
                InvalidProxy::NotUsable(None),
                "{url}"
            );
        }
        let proxy = Proxy::new("socks5://u:secret@a:1").unwrap();
        assert_eq!(proxy.url(), "socks5h://u:secret@a:1");
        assert!(proxy.address_for("localhost").is_some(), "it is explicit");
        assert!(!format!("{proxy:?}").contains("secret"));
    }
}
