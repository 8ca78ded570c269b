//! What a reverse proxy does to headers.
//!
//! Specification: RFC 9110 §7.2 (the host) and §7.6 (what an intermediary removes), RFC 9112 §3.2 and §6.3 (the same and the
//! length of a message, in HTTP/1.1), RFC 7239 (`Forwarded`), RFC 9113 §8.2.3 (cookies).

use std::net::IpAddr;

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Headers that concern one connection only, beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The host that a request is for, without a user's name. `Some(None)` if HTTP/1.0 does not tell it; `None` if a request does not
/// that has to, or names several: the application might take it for another one than whoever has looked at it before.
pub(super) fn requested_host(request: &Parts) -> Option<Option<HeaderValue>> {
    if let Some(authority) = request.uri.authority() {
        let host = authority.as_str().rsplit('@').next()?;
        return HeaderValue::from_str(host).ok().map(Some);
    }
    let mut named = request.headers.get_all(header::HOST).iter();
    match (named.next(), named.next()) {
        (Some(host), None) => Some(Some(host.clone())),
        (None, _) if request.version <= Version::HTTP_10 => Some(None),
        _ => None,
    }
}

/// An answer in chunks has no other length, whatever it says. (Of a request hyper sees to that.)
pub(super) fn leave_one_length(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// The protocol that the caller wants to change to, if it says so properly and it is WebSocket. In others (`h2c`) it could
/// make requests that nobody here looks at.
pub(super) fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(header::UPGRADE)?;
    let properly = wanted.as_bytes().eq_ignore_ascii_case(b"websocket")
        && connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    properly.then(|| wanted.clone())
}

/// Whether applications let themselves be told who calls by a header of this name, or take it for a setting of their own
/// (`Proxy`, which CGI makes `HTTP_PROXY`). Only we may do that. Interfaces as old as CGI know no difference between `-` and `_`,
/// and some servers none between them and whatever else is neither a letter nor a digit.
fn is_told_by_proxies(name: &HeaderName) -> bool {
    let letters = || {
        let name = name.as_str().bytes();
        name.map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                b'-'
            }
        })
    };
    let prefix = b"x-forwarded-";
    letters().take(prefix.len()).eq(*prefix)
        || [&b"x-real-ip"[..], b"forwarded", b"proxy"]
            .iter()
            .any(|told| letters().eq(told.iter().copied()))
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
}

/// Removes what concerns one connection only.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = connection_options(headers)
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// HTTP/2 may split cookies over several fields, HTTP/1.1 may not.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// Tells the application who calls, and by which name, in place of what the caller has to say about that.
pub(super) fn tell_caller(
    headers: &mut HeaderMap,
    caller: Option<IpAddr>,
    host: Option<&HeaderValue>,
) {
    let told: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_told_by_proxies(name))
        .cloned()
        .collect();
    for name in &told {
        headers.remove(name);
    }
    let mut forwarded = match caller {
        Some(IpAddr::V4(address)) => format!("for={address}"),
        Some(IpAddr::V6(address)) => format!("for=\"[{address}]\""),
        None => "for=unknown".to_owned(),
    };
    if let Some(address) = caller
        && let Ok(value) = HeaderValue::from_str(&address.to_string())
    {
        headers.insert(X_FORWARDED_FOR, value);
    }
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host.clone());
        // A host name that needs escaping is none.
        if let Some(host) = host
            .to_str()
            .ok()
            .filter(|host| !host.contains(['"', '\\']))
        {
            forwarded.push_str(";host=\"");
            forwarded.push_str(host);
            forwarded.push('"');
        }
    }
    forwarded.push_str(";proto=https");
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    if let Ok(forwarded) = HeaderValue::from_str(&forwarded) {
        headers.insert(header::FORWARDED, forwarded);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    #[test]
    fn what_concerns_one_connection_is_removed_with_what_it_names() {
        let mut map = headers(&[
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("accept", "text/html"),
        ]);
        remove_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("accept", "text/html")]));
    }

    #[test]
    fn an_upgrade_counts_only_if_connection_names_it() {
        let good = headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "websocket"),
        ]);
        assert_eq!(requested_upgrade(&good).unwrap(), "websocket");
        let shouted = headers(&[("connection", "UPGRADE"), ("upgrade", "WebSocket")]);
        assert_eq!(requested_upgrade(&shouted).unwrap(), "WebSocket");
        for other in ["h2c", "TLS/1.0", "h2c, websocket", "websocket2", ""] {
            let other = headers(&[("connection", "upgrade"), ("upgrade", other)]);
            assert_eq!(requested_upgrade(&other), None);
        }
        assert_eq!(
            requested_upgrade(&headers(&[("upgrade", "websocket")])),
            None
        );
        assert_eq!(
            requested_upgrade(&headers(&[("connection", "upgrade")])),
            None
        );
    }

    #[test]
    fn split_cookies_become_one_field() {
        let mut map = HeaderMap::new();
        map.append(header::COOKIE, HeaderValue::from_static("a=1"));
        map.append(header::COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut map);
        let cookies: Vec<_> = map.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn what_the_caller_says_of_itself_is_removed_however_it_is_spelled() {
        let mut map = headers(&[
            ("forwarded", "for=6.6.6.6"),
            ("x-forwarded-for", "6.6.6.6"),
            ("x_forwarded_for", "6.6.6.6"),
            ("x-forwarded_host", "evil"),
            ("x-forwarded-scheme", "gopher"),
            ("x_forwarded_ssl", "on"),
            ("x-real-ip", "6.6.6.6"),
            ("x_real-ip", "6.6.6.6"),
            ("x.forwarded.for", "6.6.6.6"),
            ("x+real~ip", "6.6.6.6"),
            ("proxy", "evil:3128"),
            ("x-real-ipad", "kept"),
            ("x-forwarder", "kept"),
        ]);
        tell_caller(&mut map, None, None);
        let expected = headers(&[
            ("x-real-ipad", "kept"),
            ("x-forwarder", "kept"),
            ("x-forwarded-proto", "https"),
            ("forwarded", "for=unknown;proto=https"),
        ]);
        assert_eq!(map, expected);
    }

    #[test]
    fn the_caller_is_told_in_both_ways() {
        let mut map = HeaderMap::new();
        let host = HeaderValue::from_static("sn.example.com");
        tell_caller(&mut map, Some("2001:db8::7".parse().unwrap()), Some(&host));
        assert_eq!(map[X_FORWARDED_FOR], "2001:db8::7");
        assert_eq!(map[X_FORWARDED_HOST], "sn.example.com");
        assert_eq!(map[X_FORWARDED_PROTO], "https");
        assert_eq!(
            map[header::FORWARDED],
            "for=\"[2001:db8::7]\";host=\"sn.example.com\";proto=https"
        );
        let mut map = HeaderMap::new();
        tell_caller(&mut map, None, None);
        assert_eq!(map[header::FORWARDED], "for=unknown;proto=https");
        assert!(!map.contains_key(X_FORWARDED_FOR));
    }
}
