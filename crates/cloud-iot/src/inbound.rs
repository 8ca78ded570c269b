//! QoS 1 messages that were received and are not acknowledged yet, when acknowledging waits for the handlers.
//!
//! Acknowledgements leave in the order in which the messages came on this connection, as the standard demands. After
//! the connection is lost the server sends again what was not acknowledged, marked as a duplicate and under the same
//! packet id; what a handler has, or has had, is not given to it a second time.
//!
//! Only what is certain is filtered: a duplicate of a message that this side has *not* acknowledged. After an
//! acknowledgement the server may use the packet id for another message, so a repetition then is delivered: QoS 1
//! means at least once.
//!
//! See docs/protocol.md, "IoT messaging".

use std::collections::VecDeque;

/// Unacknowledged messages that are borne before the connection is given up. Mosquitto 2.0.11 passes the receive maximum
/// that it is told when it resumes a session, so this is far above; it bounds the table.
pub(crate) const MAX_UNACKNOWLEDGED: u16 = 1000;

/// Names a message that was given to handlers.
pub(crate) type DeliveryId = u64;

#[derive(Debug)]
struct Pending {
    delivery: DeliveryId,
    packet_id: u16,
    handled: bool,
    /// Whether it came on the connection that there is now; on another one it cannot be acknowledged.
    current: bool,
}

/// What to do with a received message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Deliver it, and tell when it has been handled.
    New(DeliveryId),
    /// Do not deliver it again.
    Duplicate,
    /// The server sends far more than it was told to.
    TooMany,
}

#[derive(Debug)]
pub(crate) struct Inbound {
    pending: VecDeque<Pending>,
    maximum: usize,
    next: DeliveryId,
}

impl Inbound {
    /// `maximum` bounds what is not acknowledged on one connection.
    pub(crate) fn new(maximum: u16) -> Self {
        Self {
            pending: VecDeque::new(),
            maximum: maximum.into(),
            next: 1,
        }
    }

    /// A QoS 1 message came.
    pub(crate) fn received(&mut self, packet_id: u16, duplicate: bool) -> Received {
        let known = self.pending.iter().position(|p| p.packet_id == packet_id);
        let known = known.and_then(|index| self.pending.remove(index));
        if self.pending.iter().filter(|p| p.current).count() >= self.maximum {
            return Received::TooMany;
        }
        // Without the mark it is another message: the server has forgotten the one before.
        if let Some(known) = known.filter(|_| duplicate) {
            self.pending.push_back(Pending {
                current: true,
                ..known
            });
            return Received::Duplicate;
        }
        // Those that the server never repeats, because they have expired there, must not add up.
        if self.pending.len() >= 2 * self.maximum
            && let Some(index) = self.pending.iter().position(|p| !p.current)
        {
            self.pending.remove(index);
        }
        let delivery = self.next;
        self.next += 1;
        self.pending.push_back(Pending {
            delivery,
            packet_id,
            handled: false,
            current: true,
        });
        Received::New(delivery)
    }

    /// The handlers are done with a message.
    pub(crate) fn handled(&mut self, delivery: DeliveryId) {
        let pending = self.pending.iter_mut().find(|p| p.delivery == delivery);
        if let Some(pending) = pending {
            pending.handled = true;
        }
    }

    /// The packet id of the next message to acknowledge, if it has been handled.
    pub(crate) fn next_acknowledgement(&mut self) -> Option<u16> {
        let index = self.pending.iter().position(|p| p.current)?;
        if !self.pending.get(index)?.handled {
            return None;
        }
        self.pending.remove(index).map(|p| p.packet_id)
    }

    /// Whether all that came on this connection is acknowledged.
    pub(crate) fn is_idle(&self) -> bool {
        !self.pending.iter().any(|p| p.current)
    }

    /// What was not acknowledged will come again, if the server keeps the session.
    pub(crate) fn connection_lost(&mut self) {
        for pending in &mut self.pending {
            pending.current = false;
        }
    }

    /// The server knows nothing of this session any more: nothing comes again, and packet ids start anew.
    pub(crate) fn session_gone(&mut self) {
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acknowledged_in_the_order_in_which_they_came() {
        let mut inbound = Inbound::new(10);
        for (id, delivery) in [(7, 1), (8, 2), (9, 3)] {
            assert_eq!(inbound.received(id, false), Received::New(delivery));
        }
        inbound.handled(3);
        inbound.handled(2);
        assert_eq!(inbound.next_acknowledgement(), None);
        inbound.handled(1);
        let acknowledged: Vec<_> = std::iter::from_fn(|| inbound.next_acknowledgement()).collect();
        assert_eq!(acknowledged, [7, 8, 9]);
    }

    #[test]
    fn repeated_by_the_server_but_not_delivered_again() {
        let mut inbound = Inbound::new(10);
        assert_eq!(inbound.received(1, false), Received::New(1));
        assert_eq!(inbound.received(2, false), Received::New(2));
        inbound.handled(1);
        inbound.connection_lost();
        assert_eq!(inbound.next_acknowledgement(), None, "no connection");
        assert_eq!(inbound.received(2, true), Received::Duplicate);
        assert_eq!(inbound.received(1, true), Received::Duplicate);
        assert_eq!(inbound.next_acknowledgement(), None, "2 is handled still");
        inbound.handled(2);
        assert_eq!(inbound.next_acknowledgement(), Some(2));
        assert_eq!(inbound.next_acknowledgement(), Some(1));
        // Acknowledged: this may be another message.
        assert_eq!(inbound.received(1, true), Received::New(3));
    }

    #[test]
    fn another_message_under_an_old_id_is_delivered() {
        let mut inbound = Inbound::new(10);
        assert_eq!(inbound.received(1, false), Received::New(1));
        inbound.connection_lost();
        assert_eq!(inbound.received(1, false), Received::New(2));
        inbound.session_gone();
        assert_eq!(inbound.received(1, true), Received::New(3));
        inbound.handled(1);
        assert_eq!(inbound.next_acknowledgement(), None);
    }

    #[test]
    fn bounded() {
        let mut inbound = Inbound::new(2);
        for round in 0..100 {
            assert!(matches!(
                inbound.received(2 * round + 1, false),
                Received::New(_)
            ));
            assert!(matches!(
                inbound.received(2 * round + 2, false),
                Received::New(_)
            ));
            assert_eq!(inbound.received(9999, false), Received::TooMany);
            inbound.connection_lost();
            assert!(inbound.pending.len() <= 4);
        }
    }
}
