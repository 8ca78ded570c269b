//! The CONNECT method of an HTTP proxy (RFC 9110 §9.3.6), from the device's side.
//!
//! The answer is bounded in size here, and in time by the caller.

use http::HeaderValue;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::connect_error::{ProxyFailure, ProxyReply};

/// Maximum answer in bytes, interim responses included. Proxies respond with a few hundred bytes.
const MAX_ANSWER_BYTES: usize = 8192;

/// Maximum header fields of a response.
const MAX_HEADERS: usize = 64;

/// Opens the connection to `target`, a host with its port.
pub(crate) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    target: &str,
    authorization: Option<&HeaderValue>,
) -> Result<(), ProxyFailure> {
    let mut request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(password) = authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(password.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    let closed = |_| ProxyFailure::Closed;
    stream.write_all(&request).await.map_err(closed)?;
    let mut answer = Vec::new();
    loop {
        let left = MAX_ANSWER_BYTES - answer.len();
        let read = (&mut *stream)
            .take(left as u64)
            .read_buf(&mut answer)
            .await
            .map_err(closed)?;
        if let Some(outcome) = parse(&answer, read == 0) {
            return outcome;
        }
    }
}

/// Parses an answer. `None` if more is needed, which is never the case at the `end`.
fn parse(mut answer: &[u8], end: bool) -> Option<Result<(), ProxyFailure>> {
    let full = answer.len() >= MAX_ANSWER_BYTES;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        // It accepts lines that end with LF alone, as RFC 9112 §2.2 allows.
        let parsed = response.parse(answer);
        return Some(match (parsed, response.code) {
            (Ok(httparse::Status::Complete(length)), Some(100..=199)) => {
                answer = &answer[length..];
                continue;
            }
            (Ok(httparse::Status::Complete(length)), Some(200..=299)) => {
                // The server sends nothing first, so nothing may follow the head.
                if length == answer.len() {
                    Ok(())
                } else {
                    Err(ProxyFailure::NotAProxy("HTTP"))
                }
            }
            (Ok(httparse::Status::Partial), _) if !end && !full => return None,
            // Only the status of a refusal matters.
            (_, Some(status @ 300..)) => Err(refusal(status)),
            (Ok(_), _) if !full => Err(ProxyFailure::Closed),
            _ => Err(ProxyFailure::NotAProxy("HTTP")),
        });
    }
}

fn refusal(status: u16) -> ProxyFailure {
    let reply = ProxyReply::HttpStatus(status);
    match status {
        407 => ProxyFailure::Authentication,
        502..=504 => ProxyFailure::ServerUnreachable { reply },
        _ => ProxyFailure::Refused { reply },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(status: u16) -> Result<(), ProxyFailure> {
        let reply = ProxyReply::HttpStatus(status);
        Err(ProxyFailure::Refused { reply })
    }

    /// Sends an answer in pieces of this size, and ends the stream.
    async fn exchange(answer: &[u8], piece: usize) -> (Result<(), ProxyFailure>, String) {
        let (mut device, mut proxy) = tokio::io::duplex(64 << 10);
        for piece in answer.chunks(piece) {
            proxy.write_all(piece).await.unwrap();
        }
        proxy.shutdown().await.unwrap();
        let password = HeaderValue::from_static("Basic dTpw");
        let outcome = open(&mut device, "server.example:443", Some(&password)).await;
        drop(device);
        let mut request = String::new();
        proxy.read_to_string(&mut request).await.unwrap();
        (outcome, request)
    }

    #[tokio::test]
    async fn request_names_target_and_credentials() {
        let (outcome, request) = exchange(b"HTTP/1.1 200 OK\r\n\r\n", 1).await;
        assert_eq!(outcome, Ok(()));
        assert_eq!(
            request,
            "CONNECT server.example:443 HTTP/1.1\r\nHost: server.example:443\r\nProxy-Authorization: Basic dTpw\r\n\r\n"
        );
    }

    #[tokio::test]
    async fn responses_have_distinct_causes() {
        let unreachable = ProxyFailure::ServerUnreachable {
            reply: ProxyReply::HttpStatus(503),
        };
        let not_http = || Err(ProxyFailure::NotAProxy("HTTP"));
        let long = format!("HTTP/1.1 200 OK\r\nVia: {}", "x".repeat(MAX_ANSWER_BYTES));
        let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(1_000);
        for (answer, outcome) in [
            ("HTTP/1.1 200 Connection established\r\n\r\n", Ok(())),
            ("HTTP/1.0 200\r\nVia: x\r\n\r\n", Ok(())),
            // RFC 9112 §2.2: a recipient may accept LF alone.
            ("HTTP/1.0 200 Connection established\nVia: x\n\n", Ok(())),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
                Ok(()),
            ),
            (
                "HTTP/1.1 100 Continue\n\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 403 No\r\n\r\n",
                refused(403),
            ),
            ("HTTP/1.1 200 Connection establ", Err(ProxyFailure::Closed)),
            ("HTTP/1.1 100 Continue\r\n\r\n", Err(ProxyFailure::Closed)),
            (
                "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 9\r\n\r\nforbidden",
                Err(ProxyFailure::Authentication),
            ),
            ("HTTP/1.1 403 Forbidden\r\n", refused(403)),
            (
                "HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n",
                refused(302),
            ),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", Err(unreachable)),
            ("HTTP/1.1 200 OK\r\n\r\nextra", not_http()),
            ("HTTP/1.1 2\r\n\r\n", not_http()),
            ("220 mail.example\r\n\r\n", not_http()),
            ("", Err(ProxyFailure::Closed)),
            (&long, not_http()),
            (&interim, not_http()),
        ] {
            for piece in [7, 1 << 20] {
                let (actual, _) = exchange(answer.as_bytes(), piece).await;
                assert_eq!(actual, outcome, "{:.80}", answer);
            }
        }
    }

    proptest! {
        /// Whatever a peer sends, the answer ends, and a prefix gives no other outcome.
        #[test]
        fn any_answer_has_an_outcome(
            start in prop_oneof![Just(""), Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.1 100 C\n\n")],
            rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let answer = [start.as_bytes(), &rest].concat();
            let outcome = parse(&answer, true).unwrap();
            let early = (0..answer.len()).find_map(|length| parse(&answer[..length], false));
            if let Some(Err(failure)) = early {
                prop_assert_eq!(outcome, Err(failure));
            }
            prop_assert!(parse(&vec![b'x'; MAX_ANSWER_BYTES], false).is_some());
        }
    }
}
