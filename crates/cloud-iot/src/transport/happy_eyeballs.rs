//! Happy eyeballs (RFC 8305): the address race from a host name to a TCP connection.
//!
//! Addresses alternate between IPv6 and IPv4, starting with the family that the system prefers, or
//! with the other one if that [timed out](crate::core::endpoint::AddressFamily). The next attempt
//! starts when the previous one has failed or has not connected after a delay; the first connection
//! wins and the other attempts are dropped. A broken IPv6 network therefore costs a quarter of a
//! second and not a timeout.
//!
//! Not here: the overall timeout, and the protocols on the connection.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio::time::{Instant, sleep, timeout_at};

use crate::core::endpoint::AddressFamily;
use crate::error::cause::Cause;

/// Delay before the next address is tried as well, as RFC 8305 recommends.
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Maximum addresses of one name. AWS IoT Core's names have up to 16.
const MAX_ADDRESSES: usize = 16;

/// Send buffer of the socket (Linux doubles it, and counts its own overhead). The default grows to
/// megabytes, which delay pings and acknowledgements on a slow uplink: buffered data counts as
/// written, and must be acknowledged in time. This is 20 seconds of an uplink of 3 KB/s, and at a
/// round trip of 100 ms about AWS IoT Core's limit per second.
const SEND_BUFFER_BYTES: u32 = 32 << 10;

/// Connects to the first address of `host` that responds. Returns the most specific of several
/// failures.
///
/// A DNS lookup that does not complete until `deadline` counts as a name without an address.
pub(crate) async fn connect_tcp(
    host: &str,
    port: u16,
    first_family: AddressFamily,
    deadline: Instant,
) -> Result<TcpStream, Cause> {
    let found = timeout_at(deadline, lookup_host((host, port))).await;
    let addresses = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            tracing::debug!(%error, host, "the name was not resolved");
            return Err(Cause::NameNotFound);
        }
        Err(_) => return Err(Cause::NameNotFound),
    };
    race(
        interleave_families(addresses, first_family),
        connect_address,
    )
    .await
}

async fn connect_address(address: SocketAddr) -> Result<TcpStream, Cause> {
    let attempt = async {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        socket.set_nodelay(true)?;
        socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
        socket.connect(address).await
    };
    attempt.await.map_err(|error: io::Error| {
        tracing::debug!(%address, %error, "no connection to this address");
        Cause::from(&error)
    })
}

async fn race<S, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<S, Cause>
where
    F: Future<Output = Result<S, Cause>>,
{
    let mut queue = addresses.into_iter();
    let mut running: FuturesUnordered<F> = queue.next().map(&connect).into_iter().collect();
    let mut reported = None;
    while !running.is_empty() {
        tokio::select! {
            Some(outcome) = running.next() => match outcome {
                Ok(stream) => return Ok(stream),
                Err(cause) => reported = more_specific(reported, cause),
            },
            () = sleep(CONNECTION_ATTEMPT_DELAY), if queue.len() > 0 => {}
        }
        running.extend(queue.next().map(&connect));
    }
    // The name has no address.
    Err(reported.unwrap_or(Cause::NameNotFound))
}

/// Interleaves the addresses of both families, and keeps the order within each.
fn interleave_families(addresses: Vec<SocketAddr>, first_family: AddressFamily) -> Vec<SocketAddr> {
    let preferred_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let first_is_v6 = preferred_is_v6 == (first_family == AddressFamily::Preferred);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let interleaved = std::iter::from_fn(|| match (first.next(), second.next()) {
        (None, None) => None,
        (one, other) => Some(one.into_iter().chain(other)),
    });
    interleaved.flatten().take(MAX_ADDRESSES).collect()
}

/// Returns the failure that occurred later in the connection process; a device without IPv6 always
/// fails early there.
fn more_specific(reported: Option<Cause>, cause: Cause) -> Option<Cause> {
    let rank = |cause: &Cause| match cause {
        Cause::Unreachable => 0,
        Cause::ConnectTimeout => 1,
        Cause::Refused => 3,
        _ => 2,
    };
    match reported {
        Some(reported) if rank(&reported) >= rank(&cause) => Some(reported),
        _ => Some(cause),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        let address = |text: &&str| SocketAddr::new(text.parse().unwrap(), 1);
        texts.iter().map(address).collect()
    }

    #[test]
    fn families_alternate() {
        let interleaved =
            |texts: &[&str]| interleave_families(addresses(texts), AddressFamily::Preferred);
        let sorted = interleaved(&["::1", "::2", "::3", "1.1.1.1", "1.1.1.2"]);
        assert_eq!(
            sorted,
            addresses(&["::1", "1.1.1.1", "::2", "1.1.1.2", "::3"])
        );
        let sorted = interleaved(&["1.1.1.1", "1.1.1.2", "::1"]);
        assert_eq!(sorted, addresses(&["1.1.1.1", "::1", "1.1.1.2"]));
        assert_eq!(interleaved(&["::1"; 100]).len(), 16);
    }

    #[test]
    fn other_family_goes_first_if_present() {
        let interleaved =
            |texts: &[&str]| interleave_families(addresses(texts), AddressFamily::Other);
        assert_eq!(
            interleaved(&["::1", "::2", "1.1.1.1"]),
            addresses(&["1.1.1.1", "::1", "::2"])
        );
        assert_eq!(
            interleaved(&["1.1.1.1", "1.1.1.2", "::1"]),
            addresses(&["::1", "1.1.1.1", "1.1.1.2"])
        );
        let one = ["1.1.1.1", "1.1.1.2"];
        assert_eq!(interleaved(&one), addresses(&one));
    }

    /// Races in a network where `answers` defines the result of each address, and its delay.
    async fn run(
        texts: &[&str],
        answers: impl Fn(&str) -> (u64, Result<(), Cause>),
    ) -> (Result<String, Cause>, Vec<(u64, String)>) {
        let started = Instant::now();
        let tried = Mutex::new(Vec::new());
        let outcome = race(
            interleave_families(addresses(texts), AddressFamily::Preferred),
            |address| {
                let name = address.ip().to_string();
                let at = started.elapsed().as_millis().try_into().unwrap();
                tried.lock().unwrap().push((at, name.clone()));
                let (after, outcome) = answers(&name);
                async move {
                    sleep(Duration::from_millis(after)).await;
                    outcome.map(|()| name)
                }
            },
        )
        .await;
        (outcome, tried.into_inner().unwrap())
    }

    fn at(millis: u64, name: &str) -> (u64, String) {
        (millis, name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn unresponsive_address_costs_250_ms() {
        let (winner, tried) = run(&["::1", "::2", "1.1.1.1"], |name| match name {
            "1.1.1.1" => (20, Ok(())),
            _ => (60_000, Err(Cause::ConnectTimeout)),
        })
        .await;
        assert_eq!(winner.unwrap(), "1.1.1.1");
        assert_eq!(tried, [at(0, "::1"), at(250, "1.1.1.1")]);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_attempt_starts_next_at_once() {
        let (winner, tried) = run(&["::1", "1.1.1.1", "1.1.1.2"], |name| match name {
            "::1" => (0, Err(Cause::Unreachable)),
            "1.1.1.1" => (5, Err(Cause::Refused)),
            _ => (5, Ok(())),
        })
        .await;
        assert_eq!(winner.unwrap(), "1.1.1.2");
        assert_eq!(tried, [at(0, "::1"), at(0, "1.1.1.1"), at(5, "1.1.1.2")]);
    }

    #[tokio::test(start_paused = true)]
    async fn slow_first_address_may_win() {
        let (winner, tried) = run(&["::1", "1.1.1.1"], |name| match name {
            "::1" => (300, Ok(())),
            _ => (200, Ok(())),
        })
        .await;
        assert_eq!(winner.unwrap(), "::1");
        assert_eq!(tried.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn most_specific_failure_is_returned() {
        let failures = |name: &str| match name {
            "::1" => (0, Err(Cause::Unreachable)),
            "1.1.1.1" => (10, Err(Cause::Refused)),
            _ => (20, Err(Cause::ConnectTimeout)),
        };
        let (outcome, _) = run(&["::1", "1.1.1.1", "1.1.1.2"], failures).await;
        assert_eq!(outcome.unwrap_err(), Cause::Refused);
        let (outcome, _) = run(&["::1", "1.1.1.2"], failures).await;
        assert_eq!(outcome.unwrap_err(), Cause::ConnectTimeout);
        let (outcome, _) = run(&[], failures).await;
        assert_eq!(outcome.unwrap_err(), Cause::NameNotFound);
    }
}
