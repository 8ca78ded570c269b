//! The way to the server through an HTTP proxy that opens a tunnel with CONNECT.
//!
//! The proxy sees the server's name and port and nothing of the exchange, which is TLS from end to end. It looks the name
//! up itself, so that a device behind it needs no DNS for the outside.

use std::env::VarError;
use std::fmt;
use std::sync::Arc;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::cause::{Cause, ProxyCause};
use crate::core::Family;
use crate::dial::dial;

/// The longest answer of a proxy that is read, in bytes. Proxies answer with a few hundred.
const MAX_ANSWER_BYTES: usize = 8192;

/// What ends the head of an answer.
const END: &[u8] = b"\r\n\r\n";

/// The port of a proxy whose URL names none.
const DEFAULT_PORT: u16 = 80;

/// An HTTP proxy, perhaps with a password, and the servers that are reached without it.
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

/// A proxy's address that cannot be used. The message does not repeat it, as it may contain a password.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidProxy {
    /// It is no URL.
    #[error("the proxy's URL{} is not usable; it must be of the form http://host:port", from(.0))]
    NotUsable(Option<&'static str>),
    /// It is for another kind of proxy.
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
    /// The proxy at `http://host:port`, perhaps with `user:password@`, for every server. Without a port, 80.
    ///
    /// # Errors
    ///
    /// [`InvalidProxy`] if it is no such URL.
    pub fn new(url: &str) -> Result<Self, InvalidProxy> {
        Self::build(url, "", None)
    }

    /// The proxy that `HTTPS_PROXY` or else `ALL_PROXY` name in the environment, in capitals or not, with the exceptions
    /// of `NO_PROXY`: host names, which stand for those below them as well, IP addresses and networks, or `*`. `None` if
    /// there is none.
    ///
    /// # Errors
    ///
    /// [`InvalidProxy`] if the variable is set to something else than an `http://` URL.
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

    /// The proxy to go through, unless this server is reached without it.
    pub(crate) fn way_to(&self, host: &str) -> Option<Tunnel> {
        self.0.intercept(&destination(host)?).map(Tunnel)
    }
}

fn destination(host: &str) -> Option<Uri> {
    format!("https://{}", in_brackets(host)).parse().ok()
}

/// As a host is written in a URL.
fn in_brackets(host: &str) -> String {
    if host.contains(':') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// A proxy that a connection goes through.
pub(crate) struct Tunnel(Intercept);

impl Tunnel {
    /// Connects to the proxy, and through it to the server.
    pub(crate) async fn tunnel(
        &self,
        host: &str,
        port: u16,
        first: Family,
        deadline: Instant,
    ) -> Result<TcpStream, Cause> {
        let uri = self.0.uri();
        let proxy = uri.host().unwrap_or_default();
        let proxy = proxy.trim_start_matches('[').trim_end_matches(']');
        let proxy_port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        let mut stream =
            dial(proxy, proxy_port, first, deadline)
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

/// Whether the tunnel is open. A refusal may have any end: what counts is its first line.
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
        // The server says nothing before we do, so that nothing can come after the end.
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
        proxy.way_to(host).map(|tunnel| tunnel.0.uri().to_string())
    }

    #[test]
    fn the_usual_variables_count() {
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
    fn exceptions_are_reached_without_it() {
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
    fn other_proxies_are_refused_and_passwords_not_told() {
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
    fn answers_told_apart() {
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
