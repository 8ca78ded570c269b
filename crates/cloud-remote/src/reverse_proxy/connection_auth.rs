//! Recognizes the authentication of connections instead of requests.
//!
//! Specification: RFC 4559 (Negotiate), MS-NTHT (NTLM over HTTP); RFC 9110 §11.6.

use http::header::{self, HeaderMap, HeaderName};

/// The schemes whose authentication is valid for the connection.
const SCHEMES: [&str; 4] = ["ntlm", "negotiate", "kerberos", "nego2"];

/// Returns whether the request authenticates its connection.
pub(super) fn is_requested(headers: &HeaderMap) -> bool {
    has_scheme(headers, &[header::AUTHORIZATION])
}

/// Returns whether the application authenticates the response's connection, or asks for it.
pub(super) fn is_offered(headers: &HeaderMap) -> bool {
    headers.contains_key("persistent-auth")
        || has_scheme(
            headers,
            &[header::WWW_AUTHENTICATE, header::PROXY_AUTHENTICATE],
        )
}

/// A scheme inside a quoted string counts too: then a connection is private without need.
fn has_scheme(headers: &HeaderMap, names: &[HeaderName]) -> bool {
    names
        .iter()
        .flat_map(|name| headers.get_all(name))
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|part| {
            let part = part.trim_ascii();
            part.split(u8::is_ascii_whitespace).next()
        })
        .any(|scheme| {
            SCHEMES
                .iter()
                .any(|name| scheme.eq_ignore_ascii_case(name.as_bytes()))
        })
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    fn offers(values: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        is_offered(&headers)
    }

    #[test]
    fn schemes_of_connections_are_found_in_lists() {
        for values in [
            &["NTLM"][..],
            &["Negotiate"],
            &["negotiate oYG2MIGzoAMKAQCi"],
            &["Basic realm=\"x\"", "NTLM TlRMTVNTUAAC"],
            &["Basic realm=\"x\", Negotiate"],
            &["Digest realm=\"x\",NTLM , Basic realm=\"y\""],
        ] {
            assert!(offers(values), "{values:?}");
        }
        for values in [
            &[][..],
            &["Basic realm=\"NTLM\""],
            &["Bearer"],
            &["NTLMv3"],
            &["Digest realm=\"x\", qop=\"auth\""],
        ] {
            assert!(!offers(values), "{values:?}");
        }
    }

    #[test]
    fn credentials_and_persistent_authentication_count() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_static("Basic eDp5"),
        );
        assert!(!is_requested(&headers));
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_static("NTLM TlRMTQ=="),
        );
        assert!(is_requested(&headers));
        assert!(!is_offered(&headers));
        headers.insert("persistent-auth", HeaderValue::from_static("true"));
        assert!(is_offered(&headers));
    }
}
