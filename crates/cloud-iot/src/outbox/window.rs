//! The packet ids of one connection.

/// The packet ids of a connection, and how many messages may be in flight on it.
#[derive(Debug)]
pub(crate) struct Window {
    pub(super) size: u16,
    last: u16,
}

impl Window {
    /// `size` is the smaller of the server's receive maximum and our own limit; at least 1.
    pub(crate) fn new(size: u16) -> Self {
        Self {
            size: size.max(1),
            last: 0,
        }
    }

    pub(super) fn peek(&self) -> u16 {
        self.last + 1
    }

    /// Takes the next packet id, for a QoS 1 message or a SUBSCRIBE.
    pub(crate) fn take(&mut self) -> u16 {
        let id = self.peek();
        self.last = if id >= self.size { 0 } else { id };
        id
    }
}
