//! Happy eyeballs (RFC 8305): the address race from a list of addresses to a TCP connection.
//!
//! Addresses alternate between IPv6 and IPv4, starting with the family that the system prefers, or
//! with the [other one](AddressFamily). The next attempt starts when the previous one has failed or
//! has not connected after a delay; the first connection wins and the other attempts are dropped. A
//! broken IPv6 network therefore costs a quarter of a second and not a timeout.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::sleep;

/// Delay before the next address is tried as well, as RFC 8305 recommends.
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Maximum addresses of one name. AWS IoT Core's names have up to 16.
const MAX_ADDRESSES: usize = 16;

/// The address family to try first, where a host has addresses of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AddressFamily {
    /// The family that the system prefers.
    #[default]
    Preferred,
    /// The other one.
    Other,
}

/// Returns the first connection, or the most specific of the failures.
pub(crate) async fn race<S, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> io::Result<S>
where
    F: Future<Output = io::Result<S>>,
{
    let mut queue = addresses.into_iter();
    let mut running: FuturesUnordered<F> = queue.next().map(&connect).into_iter().collect();
    let mut reported = io::Error::from(io::ErrorKind::AddrNotAvailable);
    while !running.is_empty() {
        tokio::select! {
            Some(outcome) = running.next() => match outcome {
                Ok(stream) => return Ok(stream),
                Err(error) if specificity(&error) >= specificity(&reported) => reported = error,
                Err(_) => {}
            },
            () = sleep(CONNECTION_ATTEMPT_DELAY), if queue.len() > 0 => {}
        }
        running.extend(queue.next().map(&connect));
    }
    Err(reported)
}

/// Interleaves the addresses of both families, and keeps the order within each.
pub(crate) fn interleave_families(
    addresses: Vec<SocketAddr>,
    first_family: AddressFamily,
) -> Vec<SocketAddr> {
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

/// Whether the network has no route: a device without IPv6 always fails so.
pub(crate) fn is_unreachable(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
            | io::ErrorKind::AddrNotAvailable
    )
}

/// Ranks failures: one that occurred later in the connection process says more.
fn specificity(error: &io::Error) -> u8 {
    match error.kind() {
        kind if is_unreachable(kind) => 0,
        io::ErrorKind::TimedOut => 1,
        io::ErrorKind::ConnectionRefused => 3,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::time::Instant;

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
        answers: impl Fn(&str) -> (u64, Result<(), io::ErrorKind>),
    ) -> (Result<String, io::ErrorKind>, Vec<(u64, String)>) {
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
                    outcome.map(|()| name).map_err(io::Error::from)
                }
            },
        )
        .await;
        let outcome = outcome.map_err(|error| error.kind());
        (outcome, tried.into_inner().unwrap())
    }

    fn at(millis: u64, name: &str) -> (u64, String) {
        (millis, name.to_owned())
    }

    #[tokio::test(start_paused = true)]
    async fn unresponsive_address_costs_250_ms() {
        let (winner, tried) = run(&["::1", "::2", "1.1.1.1"], |name| match name {
            "1.1.1.1" => (20, Ok(())),
            _ => (60_000, Err(io::ErrorKind::TimedOut)),
        })
        .await;
        assert_eq!(winner.unwrap(), "1.1.1.1");
        assert_eq!(tried, [at(0, "::1"), at(250, "1.1.1.1")]);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_attempt_starts_next_at_once() {
        let (winner, tried) = run(&["::1", "1.1.1.1", "1.1.1.2"], |name| match name {
            "::1" => (0, Err(io::ErrorKind::NetworkUnreachable)),
            "1.1.1.1" => (5, Err(io::ErrorKind::ConnectionRefused)),
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
            "::1" => (0, Err(io::ErrorKind::NetworkUnreachable)),
            "1.1.1.1" => (10, Err(io::ErrorKind::ConnectionRefused)),
            _ => (20, Err(io::ErrorKind::TimedOut)),
        };
        let (outcome, _) = run(&["::1", "1.1.1.1", "1.1.1.2"], failures).await;
        assert_eq!(outcome.unwrap_err(), io::ErrorKind::ConnectionRefused);
        let (outcome, _) = run(&["::1", "1.1.1.2"], failures).await;
        assert_eq!(outcome.unwrap_err(), io::ErrorKind::TimedOut);
        let (outcome, _) = run(&[], failures).await;
        assert_eq!(outcome.unwrap_err(), io::ErrorKind::AddrNotAvailable);
    }
}
