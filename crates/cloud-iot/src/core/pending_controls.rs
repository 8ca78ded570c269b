//! SUBSCRIBE and UNSUBSCRIBE packets of callers that the server has not acknowledged.

use tokio::time::Instant;

use crate::mqtt::message::Subscription;
use crate::mqtt::topic::TopicFilter;

/// The first of their packet identifiers. Messages have the lowest ones: two for each of at most
/// 1000 in flight.
const FIRST_ID: u16 = 60_000;

/// The packets of one connection, oldest first.
#[derive(Debug, Default)]
pub(super) struct PendingControls(Vec<PendingControl>);

#[derive(Debug)]
pub(super) struct PendingControl {
    packet_id: u16,
    /// `None` for UNSUBSCRIBE.
    pub(super) subscription: Option<Subscription>,
    due: Instant,
}

impl PendingControls {
    /// Adds a packet; returns its identifier.
    pub(super) fn add(&mut self, subscription: Option<Subscription>, due: Instant) -> u16 {
        let last = self.0.last().map(|last| last.packet_id);
        let packet_id = last
            .and_then(|last| last.checked_add(1))
            .unwrap_or(FIRST_ID);
        self.0.push(PendingControl {
            packet_id,
            subscription,
            due,
        });
        packet_id
    }

    /// Returns when the next acknowledgement is overdue.
    pub(super) fn due(&self) -> Option<Instant> {
        self.0.first().map(|pending| pending.due)
    }

    /// Returns whether a SUBSCRIBE of this filter is not acknowledged.
    pub(super) fn subscribes(&self, filter: &TopicFilter) -> bool {
        let mut subscriptions = self.0.iter().flat_map(|pending| &pending.subscription);
        subscriptions.any(|subscription| subscription.filter == *filter)
    }

    /// Removes the packet with this identifier, which is a SUBSCRIBE if `subscribes`.
    pub(super) fn take(&mut self, packet_id: u16, subscribes: bool) -> Option<PendingControl> {
        let is_it = |pending: &PendingControl| {
            pending.packet_id == packet_id && pending.subscription.is_some() == subscribes
        };
        let position = self.0.iter().position(is_it)?;
        Some(self.0.remove(position))
    }
}
