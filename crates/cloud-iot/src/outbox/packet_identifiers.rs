//! Allocation of packet identifiers on one connection.

/// Allocates the packet identifiers of a connection, and limits its messages in flight.
#[derive(Debug)]
pub(crate) struct PacketIds {
    pub(super) max_in_flight: u16,
    /// Identifiers of an earlier connection, in ascending order: the server may know messages under
    /// them that are to be resent.
    reserved: Vec<u16>,
    last: u16,
}

impl PacketIds {
    /// `max_in_flight` is the smaller of the server's receive maximum and the configured limit; at
    /// least 1.
    pub(crate) fn new(max_in_flight: u16, mut reserved: Vec<u16>) -> Self {
        reserved.sort_unstable();
        Self {
            max_in_flight: max_in_flight.max(1),
            reserved,
            last: 0,
        }
    }

    /// Returns the next of the lowest identifiers that are not reserved, in rotation. There are at
    /// least `max_in_flight` of them.
    pub(super) fn peek(&self) -> u16 {
        let next = self.free_after(self.last);
        let highest = usize::from(self.max_in_flight) + self.reserved.len();
        if usize::from(next) > highest {
            self.free_after(0)
        } else {
            next
        }
    }

    fn free_after(&self, id: u16) -> u16 {
        let is_free = |id: &u16| self.reserved.binary_search(id).is_err();
        (id + 1..).find(is_free).unwrap_or(1)
    }

    /// Allocates the next identifier, for a QoS 1 message or a SUBSCRIBE.
    pub(crate) fn allocate(&mut self) -> u16 {
        self.last = self.peek();
        self.last
    }
}
