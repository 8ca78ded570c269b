//! How many connections there may be at once, in all and from one address.
//!
//! Of IPv6 not an address counts but its network, the first 64 bits: whoever has one address has all of them (RFC 4291 §2.5.4,
//! RFC 6177), and could take every connection there is, each from another.
//!
//! Callers with an unknown address cannot be told apart: one of them may be all of them. They get half of the connections at
//! most, so that the others still get in.
//!
//! A connection's slot goes with its stream, so that it is held by whoever has the stream in the end: an upgraded
//! connection belongs to the application.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::turns::{AllTurns, Turns};

/// The slots of one remote access. The table is bounded by the number of connections.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    limit: usize,
    limit_per_address: usize,
    all_turns: AllTurns,
    /// Of callers with an unknown address.
    unknown_turns: Turns,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    total: usize,
    unknown: usize,
    by_address: HashMap<IpAddr, Known>,
}

/// What one address has.
#[derive(Debug)]
struct Known {
    count: usize,
    turns: Turns,
}

/// Which limit a refused connection has met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    Total,
    Address,
    Unknown,
}

/// One connection's place; free again on drop.
#[derive(Debug)]
pub(crate) struct Slot {
    address: Option<IpAddr>,
    turns: Turns,
    taken: Arc<Mutex<Taken>>,
}

impl Slot {
    /// Where requests that come over this connection queue.
    pub(crate) fn turns(&self) -> Turns {
        self.turns.clone()
    }
}

impl Slots {
    pub(crate) fn new(limit: usize, limit_per_address: usize) -> Self {
        let all_turns = AllTurns::new(limit);
        Self {
            limit,
            limit_per_address,
            unknown_turns: all_turns.of_one_address(limit.div_ceil(2)),
            all_turns,
            taken: Arc::default(),
        }
    }

    /// Takes a slot.
    pub(crate) fn take(&self, address: Option<IpAddr>) -> Result<Slot, Full> {
        let address = address.map(network);
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if taken.total >= self.limit {
            return Err(Full::Total);
        }
        let turns = if let Some(address) = address {
            if self.limit_per_address == 0 {
                return Err(Full::Address);
            }
            let known = taken.by_address.entry(address).or_insert_with(|| Known {
                count: 0,
                turns: self.all_turns.of_one_address(self.limit_per_address),
            });
            if known.count >= self.limit_per_address {
                return Err(Full::Address);
            }
            known.count += 1;
            known.turns.clone()
        } else {
            if taken.unknown >= self.limit.div_ceil(2) {
                return Err(Full::Unknown);
            }
            taken.unknown += 1;
            self.unknown_turns.clone()
        };
        taken.total += 1;
        Ok(Slot {
            address,
            turns,
            taken: Arc::clone(&self.taken),
        })
    }

    /// How many are taken.
    pub(crate) fn in_use(&self) -> usize {
        self.taken
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .total
    }
}

/// What counts as one address.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        address => address,
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.total = taken.total.saturating_sub(1);
        let Some(address) = self.address else {
            taken.unknown = taken.unknown.saturating_sub(1);
            return;
        };
        if let Some(known) = taken.by_address.get_mut(&address) {
            known.count -= 1;
            if known.count == 0 {
                taken.by_address.remove(&address);
            }
        }
    }
}

/// A stream together with its slot; counts as a task while it lives.
#[derive(Debug)]
pub(crate) struct Slotted<S> {
    stream: S,
    _slot: Slot,
    _task: TaskTrackerToken,
}

impl<S> Slotted<S> {
    pub(crate) fn new(stream: S, slot: Slot, task: TaskTrackerToken) -> Self {
        Self {
            stream,
            _slot: slot,
            _task: task,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Slotted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Slotted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_limits_hold_and_a_dropped_slot_is_free_again() {
        let slots = Slots::new(3, 2);
        let (one, other) = (
            Some(IpAddr::from([192, 0, 2, 1])),
            Some(IpAddr::from([192, 0, 2, 2])),
        );
        let first = slots.take(one).unwrap();
        let second = slots.take(one).unwrap();
        assert_eq!(slots.take(one).unwrap_err(), Full::Address);
        let third = slots.take(other).unwrap();
        assert_eq!(slots.take(None).unwrap_err(), Full::Total);
        drop(first);
        let fourth = slots.take(one).unwrap();
        assert_eq!(slots.in_use(), 3);
        drop((second, third, fourth));
        assert_eq!(slots.in_use(), 0);
        assert!(slots.taken.lock().unwrap().by_address.is_empty());
    }

    #[test]
    fn callers_of_unknown_address_leave_half_to_the_others() {
        let slots = Slots::new(4, 2);
        let first = slots.take(None).unwrap();
        let _second = slots.take(None).unwrap();
        assert_eq!(slots.take(None).unwrap_err(), Full::Unknown);
        let _third = slots.take(Some(IpAddr::from([192, 0, 2, 1]))).unwrap();
        drop(first);
        assert!(slots.take(None).is_ok());
        assert!(Slots::new(1, 1).take(None).is_ok());
    }

    /// Whoever has one address of IPv6 has a whole network of them (RFC 6177: a /64 at least).
    #[test]
    fn callers_of_one_ipv6_network_count_as_one_address() {
        let slots = Slots::new(8, 2);
        let caller = |text: &str| slots.take(Some(text.parse().unwrap()));
        let first = caller("2001:db8:0:1::1").unwrap();
        let _second = caller("2001:db8:0:1:ffff::2").unwrap();
        assert_eq!(caller("2001:db8:0:1::3").unwrap_err(), Full::Address);
        let _neighbour = caller("2001:db8:0:2::1").unwrap();
        drop(first);
        assert!(caller("2001:db8:0:1::3").is_ok());
    }
}
