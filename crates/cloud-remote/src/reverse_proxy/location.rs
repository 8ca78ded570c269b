//! Redirects to the application's own origin.
//!
//! The application sees the public host name, but neither TLS nor the public port. One that builds
//! absolute URLs from what it knows redirects to `http://` and its own address or port, which
//! callers cannot reach.

use http::Uri;
use http::header::HeaderValue;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};

use crate::upstream::Upstream;

/// Returns the location with the public origin, if it names the application's own.
pub(super) fn public_location(
    location: &HeaderValue,
    upstream: &Upstream,
    is_tls: bool,
    host: &HeaderValue,
    sent_host: Option<&HeaderValue>,
) -> Option<HeaderValue> {
    let uri = Uri::try_from(location.as_bytes()).ok()?;
    let authority = uri.authority()?;
    let scheme = uri.scheme()?;
    let public = Authority::try_from(host.as_bytes()).ok()?;
    let own = upstream.host_and_port();
    let own_port = own.as_ref().map(|(_, port)| *port);
    let port = authority.port_u16();
    let is_http = *scheme == Scheme::HTTP;
    let default = if is_http { 80 } else { 443 };

    let names_public = is_http
        && authority.host().eq_ignore_ascii_case(public.host())
        && (port.is_none() || port == Some(80) || port == own_port || port == public.port_u16());
    let names_own = is_http != is_tls
        && own.is_some_and(|(host, own_port)| {
            is_same_host(authority.host(), &host) && port.unwrap_or(default) == own_port
        });
    // An application that gets another name redirects to that one.
    let names_sent = sent_host.is_some_and(|sent| {
        authority
            .as_str()
            .as_bytes()
            .eq_ignore_ascii_case(sent.as_bytes())
    });
    if !(names_public || names_own || names_sent) {
        return None;
    }
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTPS);
    parts.authority = Some(public);
    let path = uri.path_and_query().cloned();
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    let mut rewritten = Uri::from_parts(parts).ok()?.to_string();
    // `Uri` drops the fragment.
    if let Some((_, fragment)) = location.to_str().ok()?.split_once('#') {
        rewritten.push('#');
        rewritten.push_str(fragment);
    }
    HeaderValue::from_str(&rewritten).ok()
}

/// Compares hosts; the loopback addresses and `localhost` are the same.
fn is_same_host(host: &str, own: &str) -> bool {
    let bare = |host: &str| host.trim_matches(['[', ']']).to_ascii_lowercase();
    let is_loopback = |host: &str| {
        host == "localhost"
            || host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    };
    let (host, own) = (bare(host), bare(own));
    host == own || (is_loopback(&host) && is_loopback(&own))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(location: &str, upstream: &Upstream, is_tls: bool) -> Option<String> {
        let host = HeaderValue::from_static("sn.example.com:8443");
        let location = HeaderValue::from_str(location).unwrap();
        public_location(&location, upstream, is_tls, &host, None)
            .map(|value| value.to_str().unwrap().to_owned())
    }

    #[test]
    fn own_origin_becomes_the_public_one() {
        let plain = Upstream::host("box.local", 8080);
        for location in [
            "http://box.local:8080/a?b#c",
            "http://BOX.local:8080/a?b#c",
            "http://sn.example.com/a?b#c",
            "http://sn.example.com:80/a?b#c",
            "http://sn.example.com:8080/a?b#c",
            "http://sn.example.com:8443/a?b#c",
        ] {
            let expected = Some("https://sn.example.com:8443/a?b#c".to_owned());
            assert_eq!(rewritten(location, &plain, false), expected, "{location}");
        }
        let tls = Upstream::host("::1", 443);
        let expected = Some("https://sn.example.com:8443/".to_owned());
        assert_eq!(rewritten("https://[::1]/", &tls, true), expected);
    }

    #[test]
    fn other_locations_stay() {
        let plain = Upstream::host("box.local", 8080);
        for location in [
            "/a",
            "a",
            "//sn.example.com/a",
            "https://sn.example.com/a",
            "https://box.local:8080/a",
            "http://box.local/a",
            "http://sn.example.com:9000/a",
            "http://other.example.com:8080/a",
            "mailto:someone@example.com",
            "http://",
        ] {
            assert_eq!(rewritten(location, &plain, false), None, "{location}");
        }
    }
}
