//! Options of the request policy.

use std::str::FromStr;

use http::header::HeaderName;

use super::host::Host;
use super::proxy_headers::{is_set_here, with_hyphens};

/// Exceptions from the request policy, for HTTP requests to
/// [`Application::Service`](crate::Application::Service) and to
/// [`Application::Forward`](crate::Application::Forward).
///
/// By default, a request must name the access point as its host; another host is refused with
/// status 421. Headers that only a trusted proxy may set (the client's address or identity, another
/// URL or host) are removed, and so is each header whose name has a character other than a letter,
/// a digit or a hyphen, because CGI-like interfaces cannot distinguish `X_Real_IP` from
/// `X-Real-IP`.
///
/// ```
/// use cloud_remote::HttpOptions;
///
/// let options = HttpOptions::new()
///     .allow_host("device.example.com".parse()?)
///     .pass_header("CF-Connecting-IP".parse()?);
/// # let _ = options;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct HttpOptions {
    pub(crate) hosts: Vec<AllowedHost>,
    pub(crate) headers: Vec<PassedHeader>,
}

impl HttpOptions {
    /// Creates the default options.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Allows requests for this host.
    #[must_use]
    pub fn allow_host(mut self, host: AllowedHost) -> Self {
        self.hosts.push(host);
        self
    }

    /// Passes a header that is removed by default. The application then trusts a value that the
    /// caller may have sent, unless a proxy in front of this device sets it.
    #[must_use]
    pub fn pass_header(mut self, name: PassedHeader) -> Self {
        self.headers.push(name);
        self
    }
}

/// A host name or an IP address without a port, for [`HttpOptions::allow_host`]. Case and a
/// trailing dot are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AllowedHost(pub(crate) Host);

/// An error of parsing an [`AllowedHost`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "is not a host name or an IP address without a port, such as device.example.com, 192.0.2.1 or 2001:db8::1 (no \
     wildcards; other letters than a-z in their xn-- form)"
)]
#[non_exhaustive]
pub struct AllowedHostError;

impl FromStr for AllowedHost {
    type Err = AllowedHostError;

    fn from_str(text: &str) -> Result<Self, AllowedHostError> {
        Host::parse(text).map(Self).ok_or(AllowedHostError)
    }
}

/// The name of a request header, for [`HttpOptions::pass_header`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PassedHeader(pub(crate) HeaderName);

/// An error of parsing a [`PassedHeader`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PassedHeaderError {
    /// The text is not a header name.
    #[error("is not the name of an HTTP header, such as CF-Connecting-IP")]
    NotAName,
    /// The device sets the header itself, so the caller's value must not pass.
    #[error("cannot be passed on: it is set or read by the device itself")]
    SetHere,
}

impl FromStr for PassedHeader {
    type Err = PassedHeaderError;

    fn from_str(text: &str) -> Result<Self, PassedHeaderError> {
        let name: HeaderName = text.parse().map_err(|_| PassedHeaderError::NotAName)?;
        if is_set_here(&with_hyphens(&name)) {
            return Err(PassedHeaderError::SetHere);
        }
        Ok(Self(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_host_rejects_ports_urls_and_wildcards() {
        for good in ["a.example.com", "A.Example.com.", "localhost", "192.0.2.1"] {
            assert!(good.parse::<AllowedHost>().is_ok(), "{good}");
        }
        assert_eq!(
            "[2001:DB8::1]".parse::<AllowedHost>(),
            "2001:db8::1".parse()
        );
        for bad in [
            "",
            ".",
            "a b",
            "a.example.com:443",
            "192.0.2.1:80",
            "[::1]:80",
            "https://a.example.com",
            "a/b",
            "*.example.com",
            "user@a.example.com",
            "ä.example.com",
            "[::1",
        ] {
            assert_eq!(bad.parse::<AllowedHost>(), Err(AllowedHostError), "{bad:?}");
        }
    }

    #[test]
    fn passed_header_rejects_what_the_device_sets() {
        for good in [
            "CF-Connecting-IP",
            "api_key",
            "x-real-ip",
            "X-Forwarded-Port",
        ] {
            assert!(good.parse::<PassedHeader>().is_ok(), "{good}");
        }
        for bad in ["", "two words", "colon:", "ä"] {
            let error = bad.parse::<PassedHeader>().unwrap_err();
            assert_eq!(error, PassedHeaderError::NotAName, "{bad:?}");
        }
        for bad in [
            "Host",
            "Content-Length",
            "content_length",
            "Transfer_Encoding",
            "Transfer-Encoding",
            "connection",
            "X_Forwarded_For",
            "x-forwarded-proto",
            "Forwarded",
        ] {
            let error = bad.parse::<PassedHeader>().unwrap_err();
            assert_eq!(error, PassedHeaderError::SetHere, "{bad}");
        }
    }
}
