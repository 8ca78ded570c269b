//! SOCKS 5 (RFC 1928) with a user name and a password (RFC 1929), from the device's side.
//!
//! The proxy resolves the server's name. `tokio-socks` does the exchange: it reads exactly the
//! bytes of each answer, at most 513, and has an error for each reply. The caller limits the time.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_socks::Error;
use tokio_socks::tcp::Socks5Stream;

use crate::connect_error::{ProxyFailure, ProxyReply};

/// Opens the connection to the server.
pub(crate) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    host: &str,
    port: u16,
    credentials: Option<(&str, &str)>,
) -> Result<(), ProxyFailure> {
    let target = (host, port);
    let opened = match credentials {
        Some((user, password)) => {
            Socks5Stream::connect_with_password_and_socket(stream, target, user, password).await
        }
        None => Socks5Stream::connect_with_socket(stream, target).await,
    };
    opened.map(drop).map_err(failure)
}

fn failure(error: Error) -> ProxyFailure {
    let refused = |reply| ProxyFailure::Refused {
        reply: ProxyReply::Socks(reply),
    };
    let unreachable = |reply| ProxyFailure::ServerUnreachable {
        reply: ProxyReply::Socks(reply),
    };
    match error {
        Error::Io(_) => ProxyFailure::Closed,
        Error::NoAcceptableAuthMethods
        | Error::AuthorizationRequired
        | Error::PasswordAuthFailure(_)
        | Error::InvalidAuthValues(_) => ProxyFailure::Authentication,
        Error::ConnectionNotAllowedByRuleset => refused("not allowed by its rules"),
        Error::CommandNotSupported => refused("command not supported"),
        Error::AddressTypeNotSupported => refused("address type not supported"),
        Error::InvalidTargetAddress(_) => refused("the host name is not usable"),
        Error::GeneralSocksServerFailure => unreachable("general failure"),
        Error::NetworkUnreachable => unreachable("network unreachable"),
        Error::HostUnreachable => unreachable("host unreachable"),
        Error::ConnectionRefused => unreachable("connection refused"),
        Error::TtlExpired => unreachable("TTL expired"),
        _ => ProxyFailure::NotAProxy("SOCKS 5"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Sends an answer and ends the stream. Returns what is left of the answer, and the request.
    async fn exchange(
        answer: &[u8],
        host: &str,
        credentials: Option<(&str, &str)>,
    ) -> (Result<(), ProxyFailure>, Vec<u8>, Vec<u8>) {
        let (mut device, mut proxy) = tokio::io::duplex(64 << 10);
        proxy.write_all(answer).await.unwrap();
        proxy.shutdown().await.unwrap();
        let outcome = open(&mut device, host, 443, credentials).await;
        let (mut rest, mut request) = (Vec::new(), Vec::new());
        device.read_to_end(&mut rest).await.unwrap();
        drop(device);
        proxy.read_to_end(&mut request).await.unwrap();
        (outcome, rest, request)
    }

    const BOUND: [u8; 7] = [0, 1, 0, 0, 0, 0, 0];

    #[tokio::test]
    async fn proxy_resolves_the_name_and_checks_the_password() {
        let answer = [&[5, 2, 1, 0, 5, 0][..], &BOUND, &[0]].concat();
        let (outcome, _, request) = exchange(&answer, "srv.example", Some(("me", "pw"))).await;
        assert_eq!(outcome, Ok(()));
        let expected = [
            &[5, 2, 0, 2, 1, 2][..],
            b"me",
            &[2],
            b"pw",
            &[5, 1, 0, 3, 11],
            b"srv.example",
            &443_u16.to_be_bytes(),
        ];
        assert_eq!(request, expected.concat());
    }

    #[tokio::test]
    async fn bytes_after_the_reply_are_kept() {
        let answer = [&[5, 0, 5, 0][..], &BOUND, &[0], b"hello"].concat();
        let (outcome, rest, request) = exchange(&answer, "192.0.2.1", None).await;
        assert_eq!((outcome, &rest[..]), (Ok(()), &b"hello"[..]));
        assert_eq!(request, [5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 1, 1, 187]);
    }

    #[tokio::test]
    async fn replies_have_distinct_causes() {
        let reply = |code: u8| [&[5, 0, 5, code][..], &BOUND, &[0]].concat();
        let not_socks = ProxyFailure::NotAProxy("SOCKS 5");
        for (answer, cause) in [
            (
                reply(2),
                ProxyFailure::Refused {
                    reply: ProxyReply::Socks("not allowed by its rules"),
                },
            ),
            (
                reply(5),
                ProxyFailure::ServerUnreachable {
                    reply: ProxyReply::Socks("connection refused"),
                },
            ),
            (vec![5, 0xff], ProxyFailure::Authentication),
            (vec![5, 2, 1, 1], ProxyFailure::Authentication),
            (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), not_socks),
            (vec![5, 0], ProxyFailure::Closed),
            (vec![], ProxyFailure::Closed),
        ] {
            let (outcome, ..) = exchange(&answer, "srv.example", Some(("me", "pw"))).await;
            assert_eq!(outcome, Err(cause), "{answer:?}");
        }
        let long = "x".repeat(256);
        for (host, user) in [(&*long, "me"), ("srv.example", &*long)] {
            let (outcome, ..) = exchange(&reply(0), host, Some((user, "pw"))).await;
            assert!(outcome.is_err());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        /// Whatever a peer sends, the exchange ends without a panic and keeps what is not its own.
        #[test]
        fn any_answer_has_an_outcome(
            start in prop_oneof![
                Just(&[][..]),
                Just(&[5][..]),
                Just(&[5, 0, 5, 0, 0, 3][..]),
                Just(&[5, 2, 1, 0, 5][..]),
            ],
            rest in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let answer = [start, &rest].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (outcome, left, _) =
                runtime.block_on(exchange(&answer, "srv.example", Some(("me", "pw"))));
            prop_assert!(answer.ends_with(&left));
            prop_assert!(outcome.is_err() || answer.len() - left.len() <= 513);
        }
    }
}
