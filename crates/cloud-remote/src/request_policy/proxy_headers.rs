//! Request headers that only a trusted proxy may set.
//!
//! An application behind a proxy trusts these headers about the client (its address, name or
//! certificate) or about the request (its host, URL or scheme). No proxy between the client and
//! this device sets them, so they contain what the client sent, and are removed.
//!
//! The lists contain headers that well-known proxies, platforms and frameworks read or write. They
//! exclude headers that browsers and their applications send (`X-Requested-With`, `X-Auth-Token`,
//! `X-User-Id`, `X-Amz-*`, …).

use std::sync::LazyLock;

use http::header::{HeaderMap, HeaderName};

/// Complete names, in lower case.
const NAMES: &[&str] = &[
    // The caller's address.
    "ali-cdn-real-ip",
    "cdn-real-ip",
    "cdn-src-ip",
    "client-ip",
    "cluster-client-ip",
    "do-connecting-ip",
    "forwarded",
    "incap-client-ip",
    "source-ip",
    "x-azure-clientip",
    "x-azure-socketip",
    "x-caller-ip",
    "x-client-ip",
    "x-client-port",
    "x-clientip",
    "x-cluster-client-ip",
    "x-connecting-ip",
    "x-custom-ip-authorization",
    "x-nf-client-connection-ip",
    "x-proxyuser-ip",
    "x-real-host",
    "x-real-ip",
    "x-real-port",
    "x-real-proto",
    "x-source-ip",
    "x-sucuri-clientip",
    "x-true-client-ip",
    "x-true-ip",
    "x-user-ip",
    "x-vercel-forwarded-for",
    "x-vercel-proxied-for",
    "z-forwarded-for",
    // The request's host, URL or scheme.
    "front-end-https",
    "x-accel-mapping",
    "x-host",
    "x-host-override",
    "x-http-host-override",
    "x-ingress-path",
    "x-override-url",
    "x-protocol",
    "x-request-uri",
    "x-scheme",
    "x-script-name",
    "x-sendfile-type",
    "x-url-scheme",
    // The caller's name or certificate.
    "client-cert",
    "client-cert-chain",
    "sm-user",
    "smuser",
    "x-client-dn",
    "x-client-subject",
    "x-client-verify",
    "x-clientcert",
    "x-consumer-custom-id",
    "x-consumer-groups",
    "x-consumer-id",
    "x-consumer-username",
    "x-credential-identifier",
    "x-goog-iap-jwt-assertion",
    "x-proxy-user",
    "x-userinfo",
    // CGI turns it into HTTP_PROXY, which programs read as a setting.
    "proxy",
    // Headers that platforms pass to functions.
    "x-amzn-lambda-context",
    "x-amzn-request-context",
    "x-middleware-subrequest",
];

/// Prefixes of names, in lower case.
const PREFIXES: &[&str] = &[
    // Any proxy.
    "forwarded-",
    "proxy-",
    "x-forward-",
    "x-forwarded",
    "x-forwarder-",
    "x-original-",
    "x-originating-",
    "x-rewrite-",
    // Content delivery networks and clouds.
    "cf-",
    "cloudfront-",
    "fastly-",
    "fly-",
    "true-client-",
    "x-amzn-mtls-",
    "x-amzn-oidc-",
    "x-amzn-tls-",
    "x-apigateway-",
    "x-appengine-",
    "x-arr-",
    "x-envoy-",
    "x-goog-authenticated-user-",
    "x-ms-client-principal",
    "x-ms-token-",
    // Authenticating proxies: the caller's name.
    "iv-",
    "oam-",
    "oidc-",
    "osso-",
    "remote-",
    "shib-",
    "tailscale-",
    "wl-proxy-",
    "x-authenticated-",
    "x-authentik-",
    "x-auth-request-",
    "x-pomerium-",
    "x-remote-",
    "x-vouch-",
    "x-webauth-",
    // Proxies that terminate TLS: the caller's certificate.
    "ssl-",
    "x-client-cert",
    "x-client-tls-",
    "x-mtls-",
    "x-ssl",
    "x-tls-",
    // CGI variables.
    "http-client-ip",
    "http-x-forwarded",
    "path-info",
    "path-translated",
    "script-name",
    "server-name",
    "server-port",
];

/// Both lists in alphabetical order: each field of each request is looked up.
static SORTED: LazyLock<[Vec<&str>; 2]> = LazyLock::new(|| {
    [NAMES, PREFIXES].map(|list| {
        let mut list = list.to_vec();
        list.sort_unstable();
        list
    })
});

/// Headers that this device reads or sets. A caller's value never passes.
const SET_HERE: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "forwarded",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
];

/// Returns the name as CGI-like interfaces read it: they do not distinguish hyphens from
/// underscores, and some servers treat all other characters in the same way.
pub(crate) fn with_hyphens(name: &HeaderName) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric();
    name.as_str().replace(|character| !is_plain(character), "-")
}

/// Returns whether this device reads or sets the header of this name.
pub(crate) fn is_set_here(name: &str) -> bool {
    SET_HERE.contains(&name)
}

/// Returns whether only a trusted proxy may set the header of this name, or an application may
/// confuse it with such a header.
fn is_untrusted(name: &str) -> bool {
    let [names, prefixes] = &*SORTED;
    // No prefix begins with another, so only the last one up to the name can match.
    let candidates = prefixes.partition_point(|prefix| *prefix <= name);
    let prefix = prefixes[..candidates].last();
    !name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        || names.binary_search(&name).is_ok()
        || prefix.is_some_and(|prefix| name.starts_with(prefix))
}

/// The headers that pass although only a trusted proxy may set them.
#[derive(Debug)]
pub(super) struct PassedHeaders(Vec<HeaderName>);

impl PassedHeaders {
    pub(super) fn new(passed: Vec<HeaderName>) -> Self {
        Self(passed)
    }

    /// Removes headers that only a trusted proxy may set, except these.
    pub(super) fn remove_others(&self, headers: &mut HeaderMap) {
        let removed: Vec<HeaderName> = headers
            .keys()
            .filter(|name| is_untrusted(name.as_str()) && !self.0.contains(name))
            .cloned()
            .collect();
        for name in removed {
            headers.remove(&name);
            tracing::debug!(
                header = %name,
                "a request header was removed that only a trusted proxy may set; if one sets it, pass it (setting pass-header)"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use http::header::HeaderValue;

    use super::*;

    fn left(names: &[&'static str], passed: &[&str]) -> Vec<String> {
        let mut headers: HeaderMap = names
            .iter()
            .map(|name| {
                let name = HeaderName::from_static(name);
                (name, HeaderValue::from_static("1"))
            })
            .collect();
        let passed = passed.iter().map(|name| name.parse().unwrap()).collect();
        PassedHeaders::new(passed).remove_others(&mut headers);
        headers.keys().map(ToString::to_string).collect()
    }

    #[test]
    fn proxy_headers_are_removed() {
        let names = [
            "x-forwarded-for",
            "x-forwarded-scheme",
            "x-forwarded",
            "forwarded",
            "forwarded-for",
            "true-client-ip",
            "cf-connecting-ip",
            "cf-connecting-ipv6",
            "x-real-ip",
            "x-client-ip",
            "x-cluster-client-ip",
            "fastly-client-ip",
            "x-appengine-user-ip",
            "x-original-url",
            "x-original-host",
            "x-rewrite-url",
            "remote-user",
            "x-remote-user",
            "x-webauth-user",
            "x-ssl-client-cert",
            "x-client-cert",
            "x-client-certificate",
            "x-arr-clientcert",
            "x-ms-client-principal-name",
            "proxy",
            "proxy-user",
        ];
        assert_eq!(left(&names, &[]), [""; 0]);
    }

    #[test]
    fn each_name_and_prefix_is_found_by_the_search() {
        for prefix in PREFIXES {
            let begun = PREFIXES.iter().filter(|other| other.starts_with(prefix));
            assert_eq!(begun.count(), 1, "{prefix} begins another prefix");
            for rest in ["", "-", "a", "zz"] {
                let name = format!("{prefix}{rest}");
                assert!(is_untrusted(&name), "{name}");
            }
        }
        assert!(NAMES.iter().all(|name| is_untrusted(name)));
        assert!(!is_untrusted("") && !is_untrusted("a") && !is_untrusted("zzz"));
    }

    #[test]
    fn cgi_ambiguous_names_are_removed() {
        let names = [
            "content_length",
            "transfer_encoding",
            "x_forwarded_for",
            "x-forwarded_host",
            "x.forwarded.for",
            "x+real~ip",
            "remote_user",
            "any_name",
            "$wsra",
        ];
        assert_eq!(left(&names, &[]), [""; 0]);
    }

    #[test]
    fn browser_headers_stay() {
        let names = [
            "accept",
            "authorization",
            "content-length",
            "content-type",
            "cookie",
            "dnt",
            "host",
            "if-none-match",
            "origin",
            "range",
            "referer",
            "sec-fetch-site",
            "sec-websocket-key",
            "traceparent",
            "upgrade-insecure-requests",
            "user-agent",
            "via",
            "x-amz-date",
            "x-api-key",
            "x-auth-token",
            "x-csrf-token",
            "x-emby-authorization",
            "x-forwarder",
            "x-http-method-override",
            "x-plex-token",
            "x-real-ipad",
            "x-request-id",
            "x-requested-with",
            "x-user-id",
            "x-xsrf-token",
        ];
        let mut left = left(&names, &[]);
        left.sort();
        assert_eq!(left, names);
    }

    #[test]
    fn passed_header_stays_by_exact_name_only() {
        let names = ["cf-connecting-ip", "cf_connecting_ip", "api_key"];
        let mut left = left(&names, &["CF-Connecting-IP", "Api_Key"]);
        left.sort();
        assert_eq!(left, ["api_key", "cf-connecting-ip"]);
    }
}
