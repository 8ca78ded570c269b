//! What a port of the server takes, and how much of it from one address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::proxy;

/// What a listening port takes. By default both devices and callers, and no load balancer is in front of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Port {
    /// Who connects to it.
    pub role: PortRole,
    /// Whether every connection begins with a PROXY protocol header (version 1 or 2), which names the caller's address. A
    /// connection without one is closed. Default off: switch it on only where nobody but the load balancer can connect.
    pub proxy_protocol: bool,
}

/// Who connects to a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PortRole {
    /// Devices and callers, told apart by the first bytes. A device's token has to begin with `gA` here, as every Fernet token
    /// does.
    #[default]
    Any,
    /// Devices only. Their tokens may be any printable text that the [`Authenticator`](super::Authenticator) knows.
    Devices,
    /// Callers only.
    Callers,
}

/// Reads a PROXY protocol header; yields the source it names. What came behind it is left in `first`.
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

/// How many connections of one kind each address has: those that have not yet shown what they want, or callers that are served.
#[derive(Debug)]
pub(super) struct PerAddress {
    limit: usize,
    /// No larger than the number of connections of that kind, which has a limit of its own.
    taken: Mutex<HashMap<IpAddr, usize>>,
}

/// One of an address's places, given up when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    all: Arc<PerAddress>,
    /// `None` for a place that is not counted.
    address: Option<IpAddr>,
}

impl PerAddress {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            taken: Mutex::default(),
        }
    }

    pub(super) fn take(all: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let address = network(address);
        let mut taken = all.lock();
        let count = taken.get(&address).copied().unwrap_or(0);
        if count >= all.limit {
            return None;
        }
        taken.insert(address, count + 1);
        drop(taken);
        Some(Place {
            all: Arc::clone(all),
            address: Some(address),
        })
    }

    /// A place that is not counted.
    pub(super) fn uncounted(all: &Arc<Self>) -> Place {
        Place {
            all: Arc::clone(all),
            address: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address that is counted: of IPv6 the first 64 bits, since whoever has one address has that many.
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

impl Drop for Place {
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
    fn an_address_gets_its_places_and_gives_them_back() {
        let all = Arc::new(PerAddress::new(2));
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let one = PerAddress::take(&all, address("2001:db8::1")).unwrap();
        let two = PerAddress::take(&all, address("2001:db8::2")).unwrap();
        // The same network has no third one; others have their own.
        assert!(PerAddress::take(&all, address("2001:db8::3")).is_none());
        let other = PerAddress::take(&all, address("192.0.2.7")).unwrap();
        let mapped = PerAddress::take(&all, address("::ffff:192.0.2.7")).unwrap();
        assert!(PerAddress::take(&all, address("192.0.2.7")).is_none());
        drop(one);
        let again = PerAddress::take(&all, address("2001:db8::4")).unwrap();
        drop((two, again, other, mapped));
        assert!(all.lock().is_empty());
    }
}
