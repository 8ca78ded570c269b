//! Refuses requests for a host other than this machine.
//!
//! A web page in a browser on this machine can request a loopback address under a name of the
//! page's own (DNS rebinding), and read the response. The browser names that host in its request.

use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::http::{StatusCode, Version};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::value_parsers::is_loopback;

/// Middleware that accepts only requests for this machine.
pub(super) async fn require_loopback_host(request: Request, next: Next) -> Response {
    match check(&request) {
        Ok(()) => next.run(request).await,
        Err(StatusCode::MISDIRECTED_REQUEST) => (
            StatusCode::MISDIRECTED_REQUEST,
            "use the loopback address or localhost as the host\n",
        )
            .into_response(),
        Err(status) => (status, "the request does not name one host\n").into_response(),
    }
}

/// HTTP/1.0 allows a request without a host. No browser sends one.
fn check<B>(request: &axum::http::Request<B>) -> Result<(), StatusCode> {
    let mut lines = request.headers().get_all(HOST).iter();
    let line = match (lines.next(), lines.next()) {
        (line, None) => line,
        _ => return Err(StatusCode::BAD_REQUEST),
    };
    let named = match (request.uri().authority(), line) {
        (Some(target), _) => target.clone(),
        (None, Some(line)) => {
            let parsed = line.to_str().ok().and_then(|line| line.parse().ok());
            parsed.ok_or(StatusCode::BAD_REQUEST)?
        }
        (None, None) if request.version() <= Version::HTTP_10 => return Ok(()),
        (None, None) => return Err(StatusCode::BAD_REQUEST),
    };
    if is_this_machine(&named) {
        Ok(())
    } else {
        Err(StatusCode::MISDIRECTED_REQUEST)
    }
}

fn is_this_machine(authority: &Authority) -> bool {
    let host = authority.host().to_ascii_lowercase();
    is_loopback(host.strip_suffix('.').unwrap_or(&host))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(version: Version, uri: &str, hosts: &[&str]) -> Result<(), StatusCode> {
        let request = axum::http::Request::builder().version(version).uri(uri);
        let request = hosts
            .iter()
            .fold(request, |request, host| request.header(HOST, *host));
        check(&request.body(()).unwrap())
    }

    #[test]
    fn loopback_hosts_are_accepted() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9100",
            "127.9.9.9:9100",
            "[::1]:9100",
            "localhost",
            "LocalHost.:9100",
        ] {
            assert_eq!(checked(Version::HTTP_11, "/", &[host]), Ok(()), "{host}");
        }
        assert_eq!(checked(Version::HTTP_10, "/", &[]), Ok(()));
    }

    #[test]
    fn other_hosts_are_refused() {
        for host in [
            "rebound.example.com",
            "rebound.example.com:9100",
            "localhost.example.com",
            "127.0.0.1.example.com",
            "x.localhost",
            "192.0.2.1",
            "0.0.0.0:9100",
            "[::]:9100",
        ] {
            for version in [Version::HTTP_10, Version::HTTP_11] {
                let refused = Err(StatusCode::MISDIRECTED_REQUEST);
                assert_eq!(checked(version, "/", &[host]), refused, "{host}");
                let url = format!("http://{host}/");
                assert_eq!(checked(version, &url, &["localhost"]), refused, "{host}");
            }
        }
        for hosts in [&[][..], &[""], &["a b"], &["localhost", "localhost"]] {
            let refused = Err(StatusCode::BAD_REQUEST);
            assert_eq!(checked(Version::HTTP_11, "/", hosts), refused, "{hosts:?}");
        }
    }
}
