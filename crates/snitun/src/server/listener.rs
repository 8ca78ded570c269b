//! Configuration of a listener, and connection limits per address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::proxy;

/// What a listener accepts. By default both devices and callers, without a load balancer in front
/// of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The kind of peers that connect.
    pub role: ListenerRole,
    /// Whether every connection begins with a PROXY protocol header (version 1 or 2), which
    /// contains the caller's address. A connection without one is closed. Default off: enable it
    /// only where only the load balancer can connect.
    pub proxy_protocol: bool,
}

/// The kind of peers that a listener accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ListenerRole {
    /// Devices and callers, distinguished by the first bytes. A device's token must begin with `gA`
    /// here, as every Fernet token does.
    #[default]
    Any,
    /// Devices only. Their tokens may be any printable text that the
    /// [`Authenticator`](super::Authenticator) accepts.
    Devices,
    /// Callers only.
    Callers,
}

/// Reads a PROXY protocol header; returns the source address. Bytes after the header stay in
/// `first`.
pub(super) async fn read_proxy_header(
    stream: &mut TcpStream,
    first: &mut Vec<u8>,
) -> io::Result<Option<SocketAddr>> {
    loop {
        let room = (proxy::MAX_PROXY_HEADER.saturating_sub(first.len())) as u64;
        if (&mut *stream).take(room).read_buf(first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let found = proxy::header(first)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let Some(found) = found {
            first.drain(..found.len);
            return Ok(found.source);
        }
    }
}

/// Counts the connections of one kind per address: those not yet authenticated or connected, or
/// callers that are served.
#[derive(Debug)]
pub(super) struct AddressLimiter {
    limit: usize,
    /// Bounded by the number of connections of that kind, which has its own limit.
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// A permit of an address, released on drop.
#[derive(Debug)]
pub(super) struct AddressPermit {
    all: Arc<AddressLimiter>,
    /// `None` for a permit that is not counted.
    address: Option<IpAddr>,
}

impl AddressLimiter {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: Mutex::default(),
        }
    }

    pub(super) fn try_acquire(all: &Arc<Self>, address: IpAddr) -> Option<AddressPermit> {
        let address = network(address);
        let mut taken = all.lock();
        let count = taken.get(&address).copied().unwrap_or(0);
        if count >= all.limit {
            return None;
        }
        taken.insert(address, count + 1);
        drop(taken);
        Some(AddressPermit {
            all: Arc::clone(all),
            address: Some(address),
        })
    }

    /// Returns a permit that is not counted.
    pub(super) fn uncounted(all: &Arc<Self>) -> AddressPermit {
        AddressPermit {
            all: Arc::clone(all),
            address: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the counted address: for IPv6 its /64 network, since a host usually has all of its
/// addresses.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(six) => {
            let mut octets = six.octets();
            octets[8..].fill(0);
            IpAddr::V6(Ipv6Addr::from(octets))
        }
        four => four,
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let Some(address) = self.address else { return };
        let mut taken = self.all.lock();
        if let Some(count) = taken.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_permits_are_limited_and_released() {
        let all = Arc::new(AddressLimiter::new(2));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let one = AddressLimiter::try_acquire(&all, address("2001:db8::1")).unwrap();
        let two = AddressLimiter::try_acquire(&all, address("2001:db8::2")).unwrap();
        // The same network gets no third permit; others have their own.
        assert!(AddressLimiter::try_acquire(&all, address("2001:db8::3")).is_none());
        let other = AddressLimiter::try_acquire(&all, address("192.0.2.7")).unwrap();
        let mapped = AddressLimiter::try_acquire(&all, address("::ffff:192.0.2.7")).unwrap();
        assert!(AddressLimiter::try_acquire(&all, address("192.0.2.7")).is_none());
        drop(one);
        let again = AddressLimiter::try_acquire(&all, address("2001:db8::4")).unwrap();
        drop((two, again, other, mapped));
        assert!(all.lock().is_empty());
    }
}
