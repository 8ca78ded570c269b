//! Where to register: the base URL, checked, with the path put behind it.
//!
//! The request carries a secret and the answer two more, so the URL must be `https`. `http` is for tests and simulators
//! on the same machine: it is taken for `localhost` and loopback addresses alone.
//!
//! Protocol: `docs/protocol.md`, "Provisioning".

use reqwest::Url;

use crate::error::BuildError;

const PATH: &str = "/device/register";

/// The full URL of the registration below `base`, with exactly one slash between.
pub(crate) fn registration(base: &str) -> Result<Url, BuildError> {
    let invalid = |reason| BuildError::Url { reason };
    let mut url = Url::parse(base.trim()).map_err(|_| invalid("it is not a URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("it must not contain a user name or password"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(invalid("it must not have a query or a fragment"));
    }
    match url.scheme() {
        "https" => {}
        "http" if is_loopback(&url) => {}
        "http" => {
            return Err(BuildError::NotEncrypted {
                url: url.to_string(),
            });
        }
        _ => return Err(invalid("it must begin with https://")),
    }
    let path = format!("{}{PATH}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url)
}

/// `localhost` is included because the client is told to resolve that name to loopback addresses and nothing else.
fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slash_stands_between_base_and_path() {
        for (base, full) in [
            (
                "https://api.example.com",
                "https://api.example.com/device/register",
            ),
            (
                "https://api.example.com/",
                "https://api.example.com/device/register",
            ),
            (
                "https://api.example.com/v1//",
                "https://api.example.com/v1/device/register",
            ),
            (
                "http://127.0.0.1:8080/v1",
                "http://127.0.0.1:8080/v1/device/register",
            ),
            ("http://[::1]:8080", "http://[::1]:8080/device/register"),
            ("http://LOCALHOST", "http://localhost/device/register"),
        ] {
            assert_eq!(registration(base).unwrap().as_str(), full, "{base}");
        }
    }

    #[test]
    fn plain_http_leaves_this_machine_in_no_disguise() {
        for base in [
            "http://api.example.com",
            "http://192.168.1.1",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
            "http://[::ffff:8.8.8.8]",
            "http://0.0.0.0",
        ] {
            assert!(
                matches!(registration(base), Err(BuildError::NotEncrypted { .. })),
                "{base}"
            );
        }
        for base in [
            "",
            "api.example.com",
            "ftp://a",
            "file:///etc",
            "https://u:p@a",
            "http://localhost@evil.example",
            "https://a?x",
            "https://a#x",
        ] {
            assert!(
                matches!(registration(base), Err(BuildError::Url { .. })),
                "{base}"
            );
        }
    }
}
