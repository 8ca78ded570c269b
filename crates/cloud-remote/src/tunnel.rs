//! Connects the tunnel: TCP to the relay, then the handshake and a first ping.
//!
//! The core limits the whole attempt, and cancels it by dropping the future.

pub(crate) mod probe;
pub(crate) mod running;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use snitun::ConnectionKey;
use snitun::client::{self, ClientConfig, ConnectError, Tunnel};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::core::ConnectFault;

/// Timeout of one address of the relay.
const ADDRESS_TIMEOUT: Duration = Duration::from_secs(8);
/// The delay before the next address is tried (RFC 8305 §5 recommends this value).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);
/// The number of addresses that can be tried within the connect timeout.
const MAX_ADDRESSES: usize = 16;

/// An error of connecting the tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    #[error("the relay's host name cannot be resolved: {0}")]
    Resolve(#[source] io::Error),
    #[error("the relay's host name has no address")]
    NoAddress,
    #[error("the relay cannot be reached: {0}")]
    Unreachable(#[source] io::Error),
    #[error("the relay rejected the tunnel: {0}")]
    Handshake(#[source] ConnectError),
    #[error("the tunnel that was to be replaced is in use")]
    Busy,
    #[error("the token's single-use key is already used")]
    KeyAlreadyUsed,
}

impl TunnelError {
    /// Classifies the error: whether the relay refused the token, or another token cannot help.
    pub(crate) fn fault(&self) -> ConnectFault {
        match self {
            Self::Busy => ConnectFault::Busy,
            // A tunnel that ends before it is up may have a key that does not match the token.
            Self::Handshake(ConnectError::Ended(_)) | Self::KeyAlreadyUsed => ConnectFault::Refused,
            Self::Handshake(error) if !error.is_retryable() => ConnectFault::Refused,
            Self::Handshake(_) => ConnectFault::Broken,
            Self::Resolve(_) | Self::NoAddress | Self::Unreachable(_) => ConnectFault::Unreachable,
        }
    }
}

/// The session key of a token: for all connections, or only for the first, depending on the cipher.
#[derive(Clone)]
pub(crate) struct SessionKeys(Arc<Mutex<Option<ConnectionKey>>>);

impl SessionKeys {
    pub(crate) fn new(key: ConnectionKey) -> Self {
        Self(Arc::new(Mutex::new(Some(key))))
    }

    /// Returns a key for one connection.
    pub(crate) fn next_key(&self) -> Result<ConnectionKey, TunnelError> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = held.take().ok_or(TunnelError::KeyAlreadyUsed)?;
        *held = key.for_further().map(Into::into);
        Ok(key)
    }
}

/// Opens the tunnel over a TCP connection to the relay. Returns once the relay has responded to a
/// ping.
pub(crate) async fn open(stream: TcpStream, config: ClientConfig) -> Result<Tunnel, TunnelError> {
    client::connect(stream, config)
        .await
        .map_err(TunnelError::Handshake)
}

/// Connects to the relay over TCP. Attempts to its addresses start one after the other with a short
/// delay, so that an unresponsive address (a broken IPv6 route) costs little time.
pub(crate) async fn dial(host: &str, port: u16) -> Result<TcpStream, TunnelError> {
    let addresses = lookup_host((host, port))
        .await
        .map_err(TunnelError::Resolve)?;
    race(interleave_families(addresses), |address| async move {
        let attempt = timeout(ADDRESS_TIMEOUT, TcpStream::connect(address)).await;
        let connected = attempt
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
            .and_then(|stream| {
                snitun::configure_tcp(&stream)?;
                Ok(stream)
            });
        if let Err(error) = &connected {
            tracing::debug!(%address, %error, "an address of the relay cannot be reached");
        }
        connected
    })
    .await
}

/// Interleaves the address families (RFC 8305 §4), up to [`MAX_ADDRESSES`].
fn interleave_families(addresses: impl Iterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let addresses: Vec<_> = addresses.take(MAX_ADDRESSES).collect();
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut alternating = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        let pair = [first.next(), second.next()];
        if pair == [None, None] {
            return alternating;
        }
        alternating.extend(pair.into_iter().flatten());
    }
}

/// Starts with the first address, and with the next one after a failure or after
/// [`CONNECTION_ATTEMPT_DELAY`]. The first to connect wins; the others are dropped.
async fn race<T, F>(
    addresses: Vec<SocketAddr>,
    connect: impl Fn(SocketAddr) -> F,
) -> Result<T, TunnelError>
where
    F: Future<Output = io::Result<T>>,
{
    let mut waiting = addresses.into_iter();
    let mut running = FuturesUnordered::new();
    let mut last = TunnelError::NoAddress;
    loop {
        running.extend(waiting.next().map(&connect));
        let ended = if waiting.len() == 0 {
            running.next().await
        } else {
            match timeout(CONNECTION_ATTEMPT_DELAY, running.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(connected)) => return Ok(connected),
            Some(Err(error)) => last = TunnelError::Unreachable(error),
            None => return Err(last),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[test]
    fn session_key_reuse_depends_on_cipher() {
        for cipher in snitun::Cipher::ALL {
            let key = snitun::SessionKey::new([1; 32], [2; 16]);
            let keys = SessionKeys::new(key.with_cipher(cipher));
            assert!(keys.next_key().is_ok());
            let again = keys.clone().next_key();
            assert_eq!(again.is_ok(), cipher != snitun::Cipher::AesGcm);
        }
    }

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn interleaves_families_starting_with_resolvers_first() {
        let resolved = addresses(&["[2001:db8::1]:443", "[2001:db8::2]:443", "192.0.2.1:443"]);
        let order = addresses(&["[2001:db8::1]:443", "192.0.2.1:443", "[2001:db8::2]:443"]);
        assert_eq!(interleave_families(resolved.into_iter()), order);
        let many = (1..100).map(|port| SocketAddr::from(([192, 0, 2, 1], port)));
        assert_eq!(interleave_families(many).len(), MAX_ADDRESSES);
    }

    /// Runs a race in which address `n` responds after the n-th number of milliseconds,
    /// successfully or not.
    async fn race_of(behaviour: &[(u64, bool)]) -> (Duration, Result<u16, TunnelError>) {
        let start = Instant::now();
        let racers = (0..behaviour.len())
            .map(|n| SocketAddr::from(([192, 0, 2, 1], u16::try_from(n).unwrap())))
            .collect();
        let winner = race(racers, |address| async move {
            let (after, well) = behaviour[usize::from(address.port())];
            sleep(Duration::from_millis(after)).await;
            well.then_some(address.port())
                .ok_or(io::ErrorKind::ConnectionRefused.into())
        })
        .await;
        (start.elapsed(), winner)
    }

    #[tokio::test(start_paused = true)]
    async fn silent_address_delays_next_by_attempt_delay() {
        let (after, winner) = race_of(&[(8_000, false), (8_000, false), (20, true)]).await;
        assert_eq!(winner.unwrap(), 2);
        assert_eq!(
            after,
            CONNECTION_ATTEMPT_DELAY * 2 + Duration::from_millis(20)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failed_address_starts_next_at_once_slow_one_may_win() {
        let (after, winner) = race_of(&[(10, false), (300, true), (8_000, true)]).await;
        assert_eq!(winner.unwrap(), 1);
        assert_eq!(after, Duration::from_millis(310));
    }

    #[tokio::test(start_paused = true)]
    async fn reports_last_error_when_all_addresses_fail() {
        let (after, winner) = race_of(&[(10, false), (8_000, false)]).await;
        assert!(matches!(winner, Err(TunnelError::Unreachable(_))));
        assert_eq!(after, Duration::from_millis(8_010));
        assert!(matches!(race_of(&[]).await.1, Err(TunnelError::NoAddress)));
    }
}
