//! Acknowledgement order: received QoS 1 messages that wait for their handlers before they are
//! acknowledged.
//!
//! PUBACKs leave in the order in which the messages arrived on this connection, as MQTT 5.0, 4.6
//! requires. After a reconnection the server resends unacknowledged messages with the DUP flag and
//! the same packet identifier; a message that a handler has already received is not delivered
//! again.
//!
//! Only certain duplicates are filtered: those of a message that is *not* acknowledged yet. After
//! an acknowledgement the server may reuse the packet identifier, so a repetition is delivered: QoS
//! 1 means at least once.

use std::collections::VecDeque;

/// Maximum unacknowledged messages before the connection is dropped; it bounds the table. Mosquitto
/// 2.0.11 exceeds the receive maximum when it resumes a session, so the value is far above it.
pub(crate) const MAX_UNACKNOWLEDGED: u16 = 1000;

/// Identifies a message that was delivered to handlers.
pub(crate) type DeliveryId = u64;

#[derive(Debug)]
struct Pending {
    delivery: DeliveryId,
    packet_id: u16,
    handled: bool,
    /// Whether it is left to the server, which sends it again in the next session.
    left: bool,
    /// Whether the message arrived on the current connection; otherwise it cannot be acknowledged.
    current: bool,
}

/// What to do with a received message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Received {
    /// Deliver it, and report when it has been handled.
    New(DeliveryId),
    /// Do not deliver it again.
    Duplicate,
    /// The server exceeds the receive maximum by far.
    TooMany,
}

#[derive(Debug)]
pub(crate) struct UnacknowledgedMessages {
    pending: VecDeque<Pending>,
    maximum: usize,
    next: DeliveryId,
}

impl UnacknowledgedMessages {
    /// Creates a table for at most `maximum` unacknowledged messages on one connection.
    pub(crate) fn new(maximum: u16) -> Self {
        Self {
            pending: VecDeque::new(),
            maximum: maximum.into(),
            next: 1,
        }
    }

    /// Records a received QoS 1 message.
    pub(crate) fn received(&mut self, packet_id: u16, duplicate: bool) -> Received {
        let known = self.pending.iter().position(|p| p.packet_id == packet_id);
        let known = known.and_then(|index| self.pending.remove(index));
        if self.pending.iter().filter(|p| p.current).count() >= self.maximum {
            return Received::TooMany;
        }
        // Without the DUP flag it is another message: the server has dropped the previous one.
        if let Some(known) = known.filter(|known| duplicate && !known.left) {
            self.pending.push_back(Pending {
                current: true,
                ..known
            });
            return Received::Duplicate;
        }
        // Messages that expired on the server are never resent, so they must not accumulate.
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
            left: false,
            current: true,
        });
        Received::New(delivery)
    }

    /// Records that the handlers of a message have ended.
    pub(crate) fn handled(&mut self, delivery: DeliveryId) {
        let pending = self.pending.iter_mut().find(|p| p.delivery == delivery);
        if let Some(pending) = pending {
            pending.handled = true;
        }
    }

    /// Records that a message is not acknowledged, and so none after it on this connection.
    pub(crate) fn left(&mut self, delivery: DeliveryId) {
        let pending = self.pending.iter_mut().find(|p| p.delivery == delivery);
        if let Some(pending) = pending {
            pending.left = true;
        }
    }

    /// Returns the packet identifier of the next message to acknowledge, if it has been handled.
    pub(crate) fn next_acknowledgement(&mut self) -> Option<u16> {
        let index = self.pending.iter().position(|p| p.current)?;
        if !self.pending.get(index)?.handled {
            return None;
        }
        self.pending.remove(index).map(|p| p.packet_id)
    }

    /// Returns the oldest message of this connection, if at least `count` of them wait for its
    /// acknowledgement.
    pub(crate) fn blocking(&self, count: usize) -> Option<DeliveryId> {
        let mut current = self.pending.iter().filter(|p| p.current);
        let oldest = current.next()?;
        (current.count() + 1 >= count && !oldest.handled).then_some(oldest.delivery)
    }

    /// Returns whether every message of this connection is acknowledged that can be.
    pub(crate) fn is_idle(&self) -> bool {
        let mut current = self.pending.iter().filter(|p| p.current);
        current.next().is_none_or(|oldest| oldest.left)
    }

    /// Records the loss of the connection. The server resends what was not acknowledged, if it
    /// keeps the session.
    pub(crate) fn connection_lost(&mut self) {
        for pending in &mut self.pending {
            pending.current = false;
        }
    }

    /// Forgets all messages: the server has no session, so it resends nothing and restarts its
    /// packet identifiers.
    pub(crate) fn session_gone(&mut self) {
        self.pending.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_message_blocks_once_enough_wait_for_it() {
        let mut messages = UnacknowledgedMessages::new(10);
        for id in 7..10 {
            assert_eq!(messages.blocking(3), None);
            messages.received(id, false);
        }
        messages.handled(2);
        assert_eq!(messages.blocking(3), Some(1));
        assert_eq!(messages.blocking(4), None);
        messages.handled(1);
        assert_eq!(messages.blocking(3), None);
    }

    #[test]
    fn acknowledged_in_order_of_arrival() {
        let mut messages = UnacknowledgedMessages::new(10);
        for (id, delivery) in [(7, 1), (8, 2), (9, 3)] {
            assert_eq!(messages.received(id, false), Received::New(delivery));
        }
        messages.handled(3);
        messages.handled(2);
        assert_eq!(messages.next_acknowledgement(), None);
        messages.handled(1);
        let acknowledged: Vec<_> = std::iter::from_fn(|| messages.next_acknowledgement()).collect();
        assert_eq!(acknowledged, [7, 8, 9]);
    }

    #[test]
    fn duplicate_is_not_delivered_again() {
        let mut messages = UnacknowledgedMessages::new(10);
        assert_eq!(messages.received(1, false), Received::New(1));
        assert_eq!(messages.received(2, false), Received::New(2));
        messages.handled(1);
        messages.connection_lost();
        assert_eq!(messages.next_acknowledgement(), None, "no connection");
        assert_eq!(messages.received(2, true), Received::Duplicate);
        assert_eq!(messages.received(1, true), Received::Duplicate);
        assert_eq!(messages.next_acknowledgement(), None, "2 is handled still");
        messages.handled(2);
        assert_eq!(messages.next_acknowledgement(), Some(2));
        assert_eq!(messages.next_acknowledgement(), Some(1));
        // Acknowledged, so this may be another message.
        assert_eq!(messages.received(1, true), Received::New(3));
    }

    #[test]
    fn message_that_is_left_holds_up_no_shutdown_and_is_delivered_again() {
        let mut messages = UnacknowledgedMessages::new(10);
        for (id, delivery) in [(1, 1), (2, 2), (3, 3)] {
            assert_eq!(messages.received(id, false), Received::New(delivery));
        }
        messages.left(2);
        messages.handled(3);
        assert!(!messages.is_idle(), "1 can be acknowledged");
        messages.handled(1);
        assert_eq!(messages.next_acknowledgement(), Some(1));
        assert_eq!(messages.next_acknowledgement(), None);
        assert!(messages.is_idle());
        messages.connection_lost();
        assert_eq!(messages.received(2, true), Received::New(4));
        assert_eq!(messages.received(3, true), Received::Duplicate);
    }

    #[test]
    fn reused_packet_id_without_dup_is_delivered() {
        let mut messages = UnacknowledgedMessages::new(10);
        assert_eq!(messages.received(1, false), Received::New(1));
        messages.connection_lost();
        assert_eq!(messages.received(1, false), Received::New(2));
        messages.session_gone();
        assert_eq!(messages.received(1, true), Received::New(3));
        messages.handled(1);
        assert_eq!(messages.next_acknowledgement(), None);
    }

    #[test]
    fn bounded() {
        let mut messages = UnacknowledgedMessages::new(2);
        for round in 0..100 {
            assert!(matches!(
                messages.received(2 * round + 1, false),
                Received::New(_)
            ));
            assert!(matches!(
                messages.received(2 * round + 2, false),
                Received::New(_)
            ));
            assert_eq!(messages.received(9999, false), Received::TooMany);
            messages.connection_lost();
            assert!(messages.pending.len() <= 4);
        }
    }
}
