//! The host of a request, and the hosts that this device serves.

use std::net::IpAddr;

use http::header::{HOST, HeaderValue};
use http::uri::Authority;
use http::{Request, Version};
use rustls::pki_types::ServerName;

/// A host in canonical form, for comparisons.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    /// In lower case, without a trailing dot.
    Name(Box<str>),
    Ip(IpAddr),
}

/// The reason for which a request's host is refused.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum HostError {
    /// No host, several hosts, or a malformed one.
    Malformed,
    NotAllowed(HeaderValue),
}

impl Host {
    /// Parses a name or an address without a port; an IPv6 address may be in brackets.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let bracketed = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'));
        let address = bracketed.unwrap_or(text).parse::<IpAddr>();
        match (bracketed, address) {
            (Some(_), Ok(IpAddr::V4(_)) | Err(_)) => None,
            (_, Ok(address)) => Some(Self::Ip(address.to_canonical())),
            (None, Err(_)) => Self::name(text),
        }
    }

    fn name(text: &str) -> Option<Self> {
        let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        match ServerName::try_from(name.as_str()) {
            Ok(ServerName::DnsName(_)) if !name.ends_with('.') => {
                Some(Self::Name(name.into_boxed_str()))
            }
            _ => None,
        }
    }

    /// Parses the host of an authority, which may have a port.
    fn of(authority: &str) -> Option<Self> {
        let parsed: Authority = authority.parse().ok()?;
        let host = parsed.host();
        let port = authority.strip_prefix(host)?;
        let is_port = match port.strip_prefix(':') {
            // The port may be empty (RFC 3986 §3.2.3).
            Some(digits) => {
                digits.bytes().all(|byte| byte.is_ascii_digit())
                    && (digits.is_empty() || digits.parse::<u16>().is_ok())
            }
            None => port.is_empty(),
        };
        is_port.then(|| Self::parse(host))?
    }
}

/// The hosts that this device serves.
#[derive(Debug)]
pub(crate) struct AllowedHosts {
    access_point: HeaderValue,
    allowed: Vec<Host>,
}

impl AllowedHosts {
    /// Returns the access point and `others`; `None` if the access point is not a host name.
    pub(crate) fn new(access_point: &str, others: impl Iterator<Item = Host>) -> Option<Self> {
        let own = Host::name(access_point)?;
        Some(Self {
            access_point: HeaderValue::from_str(access_point).ok()?,
            allowed: std::iter::once(own).chain(others).collect(),
        })
    }

    /// Returns the value of `Host`: the host as the request names it, without userinfo. An HTTP/1.0
    /// request without a host is for the access point, through which its connection reached this
    /// device.
    pub(crate) fn check<B>(&self, request: &Request<B>) -> Result<HeaderValue, HostError> {
        let mut lines = request.headers().get_all(HOST).iter();
        let line = lines.next();
        if lines.next().is_some() {
            return Err(HostError::Malformed);
        }
        let target = match request.uri().authority() {
            Some(authority) => Some(without_user(authority).ok_or(HostError::Malformed)?),
            None => None,
        };
        let named = match (target, line) {
            // RFC 9113 §8.3.1; in HTTP/1.1 the URL takes precedence (RFC 9112 §3.2.2).
            (Some(target), Some(line))
                if request.version() >= Version::HTTP_2 && host_of(&target) != host_of(line) =>
            {
                return Err(HostError::Malformed);
            }
            (Some(target), _) => target,
            (None, Some(line)) => line.clone(),
            (None, None) if request.version() <= Version::HTTP_10 => self.access_point.clone(),
            (None, None) => return Err(HostError::Malformed),
        };
        // Most requests name it in the same way; parsing it takes a twentieth of a small request's
        // instructions.
        if named == self.access_point {
            return Ok(named);
        }
        match host_of(&named) {
            Some(host) if self.allowed.contains(&host) => Ok(named),
            Some(_) => Err(HostError::NotAllowed(named)),
            None => Err(HostError::Malformed),
        }
    }
}

fn without_user(authority: &Authority) -> Option<HeaderValue> {
    let host = authority.as_str().rsplit('@').next()?;
    HeaderValue::from_str(host).ok()
}

/// Returns the host in the value of `Host`.
pub(crate) fn host_of(value: &HeaderValue) -> Option<Host> {
    Host::of(value.to_str().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "sn0001.ui.example.com";

    fn checked(
        version: Version,
        uri: &str,
        hosts: &[&'static str],
        others: &[&str],
    ) -> Result<String, HostError> {
        let others = others.iter().map(|host| Host::parse(host).unwrap());
        let mut request = Request::builder().version(version).uri(uri);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let allowed = AllowedHosts::new(NAME, others).unwrap();
        let host = allowed.check(&request.body(()).unwrap())?;
        Ok(host.to_str().unwrap().to_owned())
    }

    #[test]
    fn port_case_and_final_dot_do_not_matter() {
        for host in [
            NAME,
            "sn0001.ui.example.com:443",
            "sn0001.ui.example.com:8443",
            "sn0001.ui.example.com:",
            "SN0001.UI.example.COM",
            "sn0001.ui.example.com.",
            "sn0001.ui.example.com.:443",
        ] {
            let checked = checked(Version::HTTP_11, "/", &[host], &[]);
            assert_eq!(checked.as_deref(), Ok(host));
        }
    }

    #[test]
    fn other_hosts_are_refused_unless_added() {
        for host in [
            "localhost",
            "evil.example.com",
            "sn0002.ui.example.com",
            "ui.example.com",
            "x.sn0001.ui.example.com",
            "127.0.0.1",
            "[::1]:443",
        ] {
            let refused = checked(Version::HTTP_11, "/", &[host], &[]);
            let value = HeaderValue::from_static(host);
            assert_eq!(refused, Err(HostError::NotAllowed(value)));
        }
        let others = &["Other.example.com.", "192.0.2.1", "::1"];
        for host in ["other.example.com:1", "192.0.2.1", "[0::1]:443"] {
            let allowed = checked(Version::HTTP_11, "/", &[host], others);
            assert_eq!(allowed.as_deref(), Ok(host));
        }
    }

    #[test]
    fn malformed_hosts_are_refused() {
        for hosts in [
            &[][..],
            &[""],
            &[NAME, NAME],
            &[NAME, "evil.example.com"],
            &["user@sn0001.ui.example.com"],
            &["sn0001.ui.example.com:x"],
            &["sn0001.ui.example.com:65536"],
            &["sn0001.ui.example.com, evil.example.com"],
            &["sn0001.ui.example.com.."],
            &["sn0001.ui.example.com/"],
            &["::1"],
            &["[::1"],
            &["2130706433"],
            &["127.1"],
        ] {
            let refused = checked(Version::HTTP_11, "/", hosts, &["::1"]);
            assert_eq!(refused, Err(HostError::Malformed), "{hosts:?}");
        }
    }

    #[test]
    fn authority_of_http2_and_host_have_to_agree() {
        let url = format!("https://{NAME}:8443/");
        for hosts in [&[][..], &["SN0001.ui.example.com."]] {
            let checked = checked(Version::HTTP_2, &url, hosts, &[]);
            assert_eq!(checked, Ok(format!("{NAME}:8443")));
        }
        for hosts in [&["evil.example.com"][..], &[NAME, NAME], &[""]] {
            let refused = checked(Version::HTTP_2, &url, hosts, &["evil.example.com"]);
            assert_eq!(refused, Err(HostError::Malformed), "{hosts:?}");
        }
        assert_eq!(
            checked(Version::HTTP_2, "/", &[NAME], &[]),
            Ok(NAME.to_owned())
        );
    }

    #[test]
    fn absolute_url_of_http1_counts_instead_of_host() {
        let url = format!("http://user:secret@{NAME}/page");
        let checked_url = checked(Version::HTTP_11, &url, &["other.example.com"], &[]);
        assert_eq!(checked_url.as_deref(), Ok(NAME));
        let refused = checked(Version::HTTP_11, "http://other.example.com/", &[NAME], &[]);
        assert!(matches!(refused, Err(HostError::NotAllowed(_))));
    }

    #[test]
    fn http_1_0_without_host_is_for_the_access_point() {
        assert_eq!(
            checked(Version::HTTP_10, "/", &[], &[]).as_deref(),
            Ok(NAME)
        );
        let refused = checked(Version::HTTP_10, "/", &["localhost"], &[]);
        assert!(matches!(refused, Err(HostError::NotAllowed(_))));
    }
}
