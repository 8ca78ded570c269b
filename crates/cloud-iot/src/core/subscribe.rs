//! SUBSCRIBE and SUBACK.

use cloud_net::UntrustedText;
use tokio::time::Instant;

use super::Core;
use super::phase::{Action, ConnectionState, Phase};
use crate::error::SubscribeError;
use crate::error::cause::{Cause, refused_subscription};
use crate::mqtt::decode::SubAck;
use crate::mqtt::message::{QoS, Subscription, subscribe_bytes};
use crate::mqtt::reader::Packet;
use crate::mqtt::reason_code::ReasonCode;
use crate::mqtt::topic::TopicFilter;
use crate::session::event::SessionEvent;

/// The code in a SUBACK for a subscription at QoS 0 (MQTT 5.0, 3.9.3).
const GRANTED_AT_MOST_ONCE: ReasonCode = ReasonCode(0x00);

impl Core {
    /// Subscribes to the filters from `from` on, or starts the hooks if none are left.
    pub(super) fn subscribe(&mut self, connection: ConnectionState, from: usize, now: Instant) {
        let all = &self.subscriptions;
        let limit = connection.capabilities.maximum_packet.unwrap_or(u32::MAX);
        let fits = |batch: &[Subscription]| subscribe_bytes(batch) <= limit as usize;
        let end = all
            .len()
            .min(from + self.config.limits.filters_per_subscribe);
        let rest = all.get(from..end).unwrap_or_default();
        let count = (1..=rest.len())
            .take_while(|count| rest.get(..*count).is_some_and(fits))
            .last()
            .unwrap_or_default();
        let batch = rest.get(..count).unwrap_or_default().to_vec();
        let too_large = rest.first().filter(|_| count == 0).cloned();
        self.start_subscribing(connection, from, batch, now);
        let Some(subscription) = too_large else {
            return;
        };
        let size = subscribe_bytes(std::slice::from_ref(&subscription));
        let message = UntrustedText::from(format!(
            "the SUBSCRIBE would have {size} bytes, the server accepts at most {limit}"
        ));
        let reason = ReasonCode::PACKET_TOO_LARGE;
        if self.subscription_refused(subscription, reason, Some(message), now) {
            self.subscribe_from(from + 1, now);
        }
    }

    fn start_subscribing(
        &mut self,
        mut connection: ConnectionState,
        from: usize,
        batch: Vec<Subscription>,
        now: Instant,
    ) {
        if from >= self.subscriptions.len() {
            // A refused subscription may be granted on the next connection.
            self.granted = connection.refused.is_empty();
            self.actions.push_back(Action::ConnectHooks);
            self.phase = Phase::RunningHooks { connection };
            return self.remove_unused(now);
        }
        let packet_id = connection.packet_ids.allocate();
        let to = from + batch.len();
        if !batch.is_empty() {
            self.actions.push_back(Action::Subscribe(packet_id, batch));
        }
        let due = now + self.config.timeouts.subscribe;
        self.phase = Phase::Subscribing {
            connection,
            packet_id,
            from,
            to,
            due,
        };
    }

    fn subscribe_from(&mut self, from: usize, now: Instant) {
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Subscribing { connection, .. } => self.subscribe(connection, from, now),
            phase => self.phase = phase,
        }
    }

    /// Handles a refused subscription; returns whether the connection goes on without it.
    pub(super) fn subscription_refused(
        &mut self,
        subscription: Subscription,
        reason: ReasonCode,
        message: Option<UntrustedText>,
        now: Instant,
    ) -> bool {
        let Subscription {
            filter, required, ..
        } = subscription;
        if required {
            let cause = Cause::SubscriptionRefused {
                filter,
                reason,
                message,
            };
            self.lost(cause, now);
            return false;
        }
        if let Some(connection) = self.connection() {
            connection.refused.push(filter.clone());
        }
        let refused = self.refused_subscriptions();
        for request in (self.requests).refuse(|topic| self.config.is_refused(&refused, topic)) {
            self.outbox.withdraw(request, now);
        }
        let text = refused_subscription(&filter, reason, message.as_ref());
        self.settle(&filter, &Err(SubscribeError::Refused(text)));
        let event = SessionEvent::SubscriptionRefused {
            filter,
            reason,
            message,
        };
        self.actions.push_back(Action::Event(event));
        true
    }

    /// Returns the subscriptions that the server of the current connection has refused.
    pub(crate) fn refused_subscriptions(&mut self) -> Vec<TopicFilter> {
        self.connection()
            .map_or_else(Vec::new, |connection| connection.refused.clone())
    }

    /// Handles a SUBACK. If it answers the outstanding SUBSCRIBE, it must have a code for each
    /// filter; another one is ignored.
    pub(super) fn subscribed(&mut self, suback: &SubAck, now: Instant) {
        if self.added_subscribed(suback, now) {
            return;
        }
        let (from, to) = match &self.phase {
            Phase::Subscribing {
                packet_id,
                from,
                to,
                ..
            } if *packet_id == suback.packet_id => (*from, *to),
            // During a shutdown the result does not matter.
            Phase::Draining { .. } => return,
            _ => return self.unexpected(Packet::SubAck, suback.packet_id, now),
        };
        if suback.codes.len() != to - from {
            let fault = format!(
                "SUBACK with {} reason codes for {} filters",
                suback.codes.len(),
                to - from
            );
            return self.lost(Cause::Protocol(fault), now);
        }
        let asked = self.subscriptions.get(from..to).unwrap_or_default();
        let mut answered: Vec<_> = asked.iter().cloned().zip(suback.codes.clone()).collect();
        // A required one ends the connection, so the others do not matter.
        answered.sort_by_key(|(subscription, code)| !(subscription.required && code.is_failure()));
        for (subscription, code) in answered {
            if !self.answered(subscription, code, suback.message.clone(), now) {
                return;
            }
        }
        self.subscribe_from(to, now);
    }

    /// Handles the server's answer to a subscription; returns whether the connection goes on.
    pub(super) fn answered(
        &mut self,
        subscription: Subscription,
        code: ReasonCode,
        message: Option<UntrustedText>,
        now: Instant,
    ) -> bool {
        if code.is_failure() {
            return self.subscription_refused(subscription, code, message, now);
        }
        let Subscription { filter, qos, .. } = subscription;
        self.settle(&filter, &Ok(()));
        if qos == QoS::AtLeastOnce && code == GRANTED_AT_MOST_ONCE {
            // The server may grant a lower QoS than requested.
            let event = SessionEvent::SubscriptionDowngraded { filter };
            self.actions.push_back(Action::Event(event));
        }
        true
    }
}
