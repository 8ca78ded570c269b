//! Headers of forwarded requests and responses.
//!
//! Specification: RFC 9110 §7.6 (intermediaries), RFC 9112 §6.3 (message length), RFC 7239
//! (`Forwarded`), RFC 9113 §8.2.3 (cookies).

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

use crate::request_policy::{normalize_content_length, transfer_codings};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Hop-by-hop headers, in addition to those that `Connection` names. (`Trailer` is end-to-end, but
/// a request's trailers are not passed on.)
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// How a response says where its body ends, other than HTTP/1.1 and HTTP/2 do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// As usual.
    Standard,
    /// After this many bytes, although the obsolete `Transfer-Encoding: identity` says something
    /// else.
    Length(u64),
    /// The body is in a transfer coding that nobody has asked for or undoes.
    UnknownCoding,
}

/// Leaves at most one length: none if the message is chunked or has no body, and one of several
/// equal ones. (The request policy does so for requests.)
pub(super) fn normalize_length(headers: &mut HeaderMap, status: StatusCode) -> Framing {
    let mut codings = transfer_codings(headers).peekable();
    let is_encoded = codings.peek().is_some();
    let (mut chunked, mut unknown) = (0, false);
    for coding in codings {
        match coding {
            _ if coding.eq_ignore_ascii_case(b"chunked") => chunked += 1,
            _ if coding.eq_ignore_ascii_case(b"identity") => {}
            _ => unknown = true,
        }
    }
    if unknown || chunked > 1 {
        return Framing::UnknownCoding;
    }
    // hyper has rejected lengths that differ or are not numbers. RFC 9110 §8.6.
    if chunked > 0
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || normalize_content_length(headers).is_err()
    {
        headers.remove(header::CONTENT_LENGTH);
    }
    let length = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse().ok());
    match length {
        Some(length) if is_encoded => Framing::Length(length),
        _ => Framing::Standard,
    }
}

/// Sets how the application finds the end of a request's body, whose size may be known. HTTP/1.1
/// has none for `GET` and `HEAD` unless the request says so, and RFC 9110 §8.6 wants a length of
/// zero for methods that expect a body.
pub(super) fn set_request_framing(headers: &mut HeaderMap, method: &Method, size: Option<u64>) {
    if headers.contains_key(header::CONTENT_LENGTH) {
        return;
    }
    match size {
        Some(0) if !matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {}
        Some(size) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
        }
        None => {
            let chunked = HeaderValue::from_static("chunked");
            headers.insert(header::TRANSFER_ENCODING, chunked);
        }
    }
}

/// Returns whether the caller accepts trailers.
pub(super) fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::TE)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
}

/// Returns the protocol of a valid upgrade request, if it is WebSocket. Another protocol (`h2c`)
/// could carry requests that bypass the checks.
pub(super) fn requested_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = headers.get(header::UPGRADE)?;
    let valid = wanted.as_bytes().eq_ignore_ascii_case(b"websocket")
        && connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    valid.then(|| wanted.clone())
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
}

/// Removes hop-by-hop headers.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages have one of them at most, and few headers: to look at each is quicker than to
    // look for all of them.
    let present = headers.keys().filter(|name| HOP_BY_HOP.contains(name));
    let mut removed: Vec<HeaderName> = present.cloned().collect();
    let named = connection_options(headers);
    removed.extend(named.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok()));
    for name in removed {
        headers.remove(name);
    }
}

/// Joins cookies: HTTP/2 may split them over several fields, HTTP/1.1 may not.
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

/// Sets the headers that name the client and the host. The request policy has removed the client's
/// own values.
pub(super) fn set_forwarded_headers(
    headers: &mut HeaderMap,
    caller: Option<IpAddr>,
    host: &HeaderValue,
) {
    let address = caller.map(|address| address.to_string());
    let address = address.as_deref();
    let node = address.unwrap_or("unknown");
    let mut forwarded = match caller {
        Some(IpAddr::V6(_)) => ["for=\"[", node, "]\""].concat(),
        _ => ["for=", node].concat(),
    };
    // The value is a checked host, so nothing in it needs escaping.
    if let Ok(host) = host.to_str() {
        forwarded.push_str(";host=\"");
        forwarded.push_str(host);
        forwarded.push('"');
    }
    forwarded.push_str(";proto=https");
    if let Some(address) = address
        && let Ok(value) = HeaderValue::from_str(address)
    {
        headers.insert(X_FORWARDED_FOR, value);
    }
    headers.insert(X_FORWARDED_HOST, host.clone());
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    if let Ok(forwarded) = HeaderValue::try_from(forwarded) {
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
    fn removes_hop_by_hop_headers() {
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
    fn upgrade_requires_connection_header() {
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
    fn joins_split_cookies() {
        let mut map = HeaderMap::new();
        map.append(header::COOKIE, HeaderValue::from_static("a=1"));
        map.append(header::COOKIE, HeaderValue::from_static("b=2"));
        join_cookies(&mut map);
        let cookies: Vec<_> = map.get_all(header::COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn sets_forwarded_and_x_forwarded_headers() {
        let mut map = HeaderMap::new();
        let host = HeaderValue::from_static("sn.example.com");
        set_forwarded_headers(&mut map, Some("2001:db8::7".parse().unwrap()), &host);
        assert_eq!(map[X_FORWARDED_FOR], "2001:db8::7");
        assert_eq!(map[X_FORWARDED_HOST], "sn.example.com");
        assert_eq!(map[X_FORWARDED_PROTO], "https");
        assert_eq!(
            map[header::FORWARDED],
            "for=\"[2001:db8::7]\";host=\"sn.example.com\";proto=https"
        );
        let mut map = HeaderMap::new();
        set_forwarded_headers(&mut map, None, &host);
        assert_eq!(
            map[header::FORWARDED],
            "for=unknown;host=\"sn.example.com\";proto=https"
        );
        assert!(!map.contains_key(X_FORWARDED_FOR));
    }
}
