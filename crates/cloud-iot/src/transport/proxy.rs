//! Connections through an HTTP proxy, with the CONNECT method.
//!
//! The proxy sees the server's name and port, and no content, because TLS is end to end. It
//! resolves the name, so the device needs no DNS for outside names.

use std::env::VarError;
use std::fmt;
use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::core::endpoint::AddressFamily;
use crate::error::cause::{Cause, ProxyCause};
use crate::transport::happy_eyeballs::connect_tcp;

/// Maximum response head in bytes. Proxies respond with a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 8192;

/// End of the response head.
const END: &[u8] = b"\r\n\r\n";

/// Port of a proxy URL without a port.
const DEFAULT_PORT: u16 = 80;

/// An HTTP proxy, with optional credentials, and the servers that are reached directly.
///
/// ```
/// use cloud_iot::Proxy;
///
/// let proxy = Proxy::new("http://device:secret@proxy.example:3128")?;
/// assert_eq!(format!("{proxy:?}"), "Proxy([redacted])");
/// # Ok::<(), cloud_iot::InvalidProxy>(())
/// ```
#[derive(Clone)]
pub struct Proxy(Arc<Matcher>);

/// The address of a proxy is not usable. The message does not repeat it, because it may contain a
/// password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidProxy {
    /// It is not a URL.
    #[error("the proxy's URL{} is not usable; it must be of the form http://host:port", from(.0))]
    NotUsable(Option<&'static str>),
    /// The scheme is not supported.
    #[error("the proxy's URL{} must begin with http://; no other kind of proxy is supported for MQTT", from(.0))]
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
    /// Creates a proxy for all servers from `http://host:port`, with optional `user:password@`. The
    /// default port is 80.
    ///
    /// # Errors
    ///
    /// [`InvalidProxy`] if the URL is not usable.
    pub fn new(url: &str) -> Result<Self, InvalidProxy> {
        Self::build(url, "", None)
    }

    /// Reads the proxy from `HTTPS_PROXY` or else `ALL_PROXY`, in upper or lower case, with the
    /// exceptions in `NO_PROXY`: host names, which include their subdomains, IP addresses and
    /// networks, or `*`. Returns `None` without a proxy.
    ///
    /// # Errors
    ///
    /// [`InvalidProxy`] if the variable is not an `http://` URL.
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
        Self::build(&url, &exceptions.unwrap_or_default(), Some(name)).map(Some)
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
        if proxy.uri().scheme_str() != Some("http") {
            return Err(InvalidProxy::Scheme(variable));
        }
        Ok(Self(Arc::new(build(exceptions))))
    }

    /// Returns the proxy for this server, unless it is reached directly.
    pub(crate) fn for_host(&self, host: &str) -> Option<Tunnel> {
        self.0.intercept(&destination(host)?).map(Tunnel)
    }
}

fn destination(host: &str) -> Option<Uri> {
    format!("https://{}", in_brackets(host)).parse().ok()
}

/// Formats a host for a URL.
fn in_brackets(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// The proxy of a connection.
pub(crate) struct Tunnel(Intercept);

impl Tunnel {
    /// Connects to the server through the proxy.
    pub(crate) async fn tunnel(
        &self,
        host: &str,
        port: u16,
        first_family: AddressFamily,
        deadline: Instant,
    ) -> Result<TcpStream, Cause> {
        let uri = self.0.uri();
        let proxy = uri.host().unwrap_or_default();
        let proxy = proxy.trim_start_matches('[').trim_end_matches(']');
        let proxy_port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        let mut stream = connect_tcp(proxy, proxy_port, first_family, deadline)
            .await
            .map_err(|cause| match cause {
                Cause::NameNotFound => ProxyCause::NameNotFound,
                cause => ProxyCause::Unreachable(Box::new(cause)),
            })?;
        let target = format!("{}:{port}", in_brackets(host));
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
        if let Some(password) = self.0.basic_auth() {
            request.extend_from_slice(b"Proxy-Authorization: ");
            request.extend_from_slice(password.as_bytes());
            request.extend_from_slice(b"\r\n");
        }
        request.extend_from_slice(b"\r\n");
        let broke_off = |_| ProxyCause::Closed;
        stream.write_all(&request).await.map_err(broke_off)?;
        let mut answer = Vec::new();
        while !answer.windows(END.len()).any(|window| window == END) {
            if answer.len() >= MAX_ANSWER_BYTES {
                return Err(ProxyCause::NotHttp.into());
            }
            let read = stream.read_buf(&mut answer).await.map_err(broke_off)?;
            if read == 0 {
                break;
            }
        }
        accepted(&answer)?;
        Ok(stream)
    }
}

/// Checks that the tunnel is open. Only the status line of a refusal matters.
fn accepted(answer: &[u8]) -> Result<(), ProxyCause> {
    if answer.is_empty() {
        return Err(ProxyCause::Closed);
    }
    let status = match answer {
        [
            b'H',
            b'T',
            b'T',
            b'P',
            b'/',
            b'1',
            b'.',
            _,
            b' ',
            status @ ..,
        ] => {
            let digits = status
                .get(..3)
                .and_then(|digits| str::from_utf8(digits).ok());
            digits.and_then(|digits| digits.parse().ok())
        }
        _ => None,
    };
    match status.ok_or(ProxyCause::NotHttp)? {
        // The server sends nothing first, so nothing may follow the head.
        200..=299 if answer.ends_with(END) => Ok(()),
        200..=299 => Err(ProxyCause::Closed),
        407 => Err(ProxyCause::Authentication),
        status @ (502..=504) => Err(ProxyCause::ServerUnreachable { status }),
        status => Err(ProxyCause::Refused { status }),
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

    fn uri(proxy: &Proxy, host: &str) -> Option<String> {
        proxy
            .for_host(host)
            .map(|tunnel| tunnel.0.uri().to_string())
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
            (&[("HTTPS_PROXY", "http://a:1")][..], "http://a:1/"),
            (&[("https_proxy", "http://a:1")], "http://a:1/"),
            (&[("ALL_PROXY", "a:1")], "http://a:1/"),
            (
                &[("ALL_PROXY", "http://a"), ("https_proxy", "http://b")],
                "http://b/",
            ),
            (
                &[("HTTPS_PROXY", " "), ("all_proxy", "http://b")],
                "http://b/",
            ),
        ] {
            let proxy = from_variables(set).unwrap().unwrap();
            assert_eq!(uri(&proxy, "server.example").unwrap(), expected);
        }
    }

    #[test]
    fn no_proxy_exceptions_connect_directly() {
        let none = "intern.example, 10.0.0.0/8, ::1";
        let proxy = from_variables(&[("HTTPS_PROXY", "http://a"), ("NO_PROXY", none)]);
        let proxy = proxy.unwrap().unwrap();
        for (host, through) in [
            ("server.example", true),
            ("intern.example", false),
            ("mqtt.intern.example", false),
            ("notintern.example", true),
            ("10.1.2.3", false),
            ("11.1.2.3", true),
            ("::1", false),
            ("::2", true),
        ] {
            assert_eq!(uri(&proxy, host).is_some(), through, "{host}");
        }
        let all = from_variables(&[("HTTPS_PROXY", "http://a"), ("no_proxy", "*")]);
        assert!(uri(&all.unwrap().unwrap(), "server.example").is_none());
    }

    #[test]
    fn unsupported_proxies_are_refused_without_password() {
        for url in ["socks5://u:secret@a:1", "https://u:secret@a:1"] {
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
        for url in ["", "http://", "http://u:secret@", "a b"] {
            assert_eq!(
                Proxy::new(url).unwrap_err(),
                InvalidProxy::NotUsable(None),
                "{url}"
            );
        }
        let proxy = Proxy::new("http://u:secret@a:1").unwrap();
        assert!(!format!("{proxy:?}").contains("secret"));
    }

    #[test]
    fn responses_have_distinct_causes() {
        let refused = |status| Err(ProxyCause::Refused { status });
        for (answer, outcome) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", Ok(())),
            ("HTTP/1.0 200\r\nVia: x\r\n\r\n", Ok(())),
            ("HTTP/1.1 200 Connection establ", Err(ProxyCause::Closed)),
            (
                "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 9\r\n\r\nforbidden",
                Err(ProxyCause::Authentication),
            ),
            ("HTTP/1.1 403 Forbidden\r\n", refused(403)),
            (
                "HTTP/1.1 503 Service Unavailable\r\n\r\n",
                Err(ProxyCause::ServerUnreachable { status: 503 }),
            ),
            ("HTTP/1.1 2\r\n\r\n", Err(ProxyCause::NotHttp)),
            ("220 mail.example\r\n\r\n", Err(ProxyCause::NotHttp)),
            ("", Err(ProxyCause::Closed)),
        ] {
            assert_eq!(accepted(answer.as_bytes()), outcome, "{answer}");
        }
    }
}
