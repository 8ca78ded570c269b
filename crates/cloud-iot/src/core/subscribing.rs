//! SUBSCRIBE and SUBACK: what is asked for, and what the server makes of it.

use tokio::time::Instant;

use super::Core;
use super::phase::{Action, Link, Phase};
use crate::cause::Cause;
use crate::event::SessionEvent;
use crate::message::QoS;
use crate::reason::ReasonCode;

/// The code in a SUBACK for a subscription at QoS 0 (MQTT 5.0, 3.9.3).
const GRANTED_AT_MOST_ONCE: ReasonCode = ReasonCode(0x00);

impl Core {
    /// Asks for the subscriptions from `from` on, or goes on if there are none left.
    pub(super) fn subscribe(&mut self, mut link: Link, from: usize, now: Instant) {
        let all = &self.config.subscriptions;
        let to = all
            .len()
            .min(from + self.config.limits.filters_per_subscribe);
        let batch = all.get(from..to).unwrap_or_default();
        if batch.is_empty() {
            self.granted = true;
            self.actions.push_back(Action::ConnectHooks);
            self.phase = Phase::Greeting { link };
            return;
        }
        let packet_id = link.window.take();
        self.actions
            .push_back(Action::Subscribe(packet_id, batch.to_vec()));
        let due = now + self.config.timeouts.subscribe;
        self.phase = Phase::Subscribing {
            link,
            packet_id,
            from,
            to,
            due,
        };
    }

    /// SUBACK came. It is taken only if it answers the SUBSCRIBE that is out, filter by filter.
    pub(super) fn subscribed(&mut self, answered: u16, codes: &[ReasonCode], now: Instant) {
        let (from, to) = match &self.phase {
            Phase::Subscribing {
                packet_id,
                from,
                to,
                ..
            } if *packet_id == answered && codes.len() == to - from => (*from, *to),
            // Being asked to stop, the answer is of no interest any more.
            Phase::Draining { .. } => return,
            _ => return self.out_of_step("SUBACK", now),
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
        // The server may give less than was asked for. It is no reason to do without the rest.
        let less = asked.zip(codes).filter(|(subscription, code)| {
            subscription.qos == QoS::AtLeastOnce && **code == GRANTED_AT_MOST_ONCE
        });
        let less = less.map(|(subscription, _)| SessionEvent::SubscriptionDowngraded {
            filter: subscription.filter.clone(),
        });
        self.actions.extend(less.map(Action::Event));
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Subscribing { link, .. } => self.subscribe(link, to, now),
            phase => self.phase = phase,
        }
    }
}
