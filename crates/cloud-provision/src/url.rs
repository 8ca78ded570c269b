//! Validation of the base URL, and the registration URL derived from it.
//!
//! Request and response contain secrets, so the URL must be `https`. `http` is for tests and
//! simulators on the same machine: it is accepted for `localhost` and loopback addresses only.

use reqwest::Url;

use crate::error::BuildError;

const PATH: &str = "/device/register";

/// Appends the registration path to `base`, with exactly one slash between them.
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

/// Includes `localhost` because the client resolves that name to loopback addresses only.
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
    fn base_and_path_are_joined_by_one_slash() {
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
    fn plain_http_to_other_hosts_is_rejected() {
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
