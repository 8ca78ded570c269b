//! The packet ids of one connection.

/// The packet ids of a connection, and how many messages may be in flight on it.
#[derive(Debug)]
pub(crate) struct Window {
    pub(super) size: u16,
    /// Ids of an earlier connection, in ascending order: the server may know messages by them that are to be sent again.
    reserved: Vec<u16>,
    last: u16,
}

impl Window {
    /// `size` is the smaller of the server's receive maximum and our own limit; at least 1.
    pub(crate) fn new(size: u16, mut reserved: Vec<u16>) -> Self {
        reserved.sort_unstable();
        Self {
            size: size.max(1),
            reserved,
            last: 0,
        }
    }

    /// The next one of the first ids that are not reserved, of which there are `size` at least.
    pub(super) fn peek(&self) -> u16 {
        let next = self.free_after(self.last);
        let highest = usize::from(self.size) + self.reserved.len();
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

    /// Takes the next packet id, for a QoS 1 message or a SUBSCRIBE.
    pub(crate) fn take(&mut self) -> u16 {
        self.last = self.peek();
        self.last
    }
}
