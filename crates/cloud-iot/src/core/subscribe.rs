//! SUBSCRIBE and SUBACK.

use tokio::time::Instant;

use super::Core;
use super::phase::{Action, ConnectionState, Phase};
use crate::error::cause::Cause;
use crate::mqtt::message::QoS;
use crate::mqtt::reason_code::ReasonCode;
use crate::session::event::SessionEvent;

/// The code in a SUBACK for a subscription at QoS 0 (MQTT 5.0, 3.9.3).
const GRANTED_AT_MOST_ONCE: ReasonCode = ReasonCode(0x00);

impl Core {
    /// Subscribes to the filters from `from` on, or starts the hooks if none are left.
    pub(super) fn subscribe(&mut self, mut connection: ConnectionState, from: usize, now: Instant) {
        let all = &self.config.subscriptions;
        let to = all
            .len()
            .min(from + self.config.limits.filters_per_subscribe);
        let batch = all.get(from..to).unwrap_or_default();
        if batch.is_empty() {
            self.granted = true;
            self.actions.push_back(Action::ConnectHooks);
            self.phase = Phase::RunningHooks { connection };
            return;
        }
        let packet_id = connection.packet_ids.allocate();
        self.actions
            .push_back(Action::Subscribe(packet_id, batch.to_vec()));
        let due = now + self.config.timeouts.subscribe;
        self.phase = Phase::Subscribing {
            connection,
            packet_id,
            from,
            to,
            due,
        };
    }

    /// Handles a SUBACK. It must match the outstanding SUBSCRIBE, including the number of filters.
    pub(super) fn subscribed(&mut self, answered: u16, codes: &[ReasonCode], now: Instant) {
        let (from, to) = match &self.phase {
            Phase::Subscribing {
                packet_id,
                from,
                to,
                ..
            } if *packet_id == answered && codes.len() == to - from => (*from, *to),
            // During a shutdown the result does not matter.
            Phase::Draining { .. } => return,
            _ => return self.unexpected_packet("SUBACK", now),
        };
        let asked = self.config.subscriptions.iter().skip(from);
        let refused = asked.clone().zip(codes).find(|(_, code)| code.is_failure());
        if let Some((subscription, reason)) = refused {
            let cause = Cause::SubscriptionRefused {
                filter: subscription.filter.clone(),
                reason: *reason,
            };
            return self.lost(cause, now);
        }
        // The server may grant a lower QoS than requested. The other subscriptions are still
        // useful.
        let less = asked.zip(codes).filter(|(subscription, code)| {
            subscription.qos == QoS::AtLeastOnce && **code == GRANTED_AT_MOST_ONCE
        });
        let less = less.map(|(subscription, _)| SessionEvent::SubscriptionDowngraded {
            filter: subscription.filter.clone(),
        });
        self.actions.extend(less.map(Action::Event));
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Subscribing { connection, .. } => self.subscribe(connection, to, now),
            phase => self.phase = phase,
        }
    }
}
