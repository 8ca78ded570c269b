//! Subscriptions that callers add while the session runs.
//!
//! They follow those of the configuration in the list of all subscriptions, so each connection
//! makes them too. SUBSCRIBE and UNSUBSCRIBE that a call causes have packet identifiers of their
//! own: those of messages are limited by the receive maximum.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Core;
use super::phase::{Action, Phase};
use crate::error::SubscribeError;
use crate::mqtt::decode::SubAck;
use crate::mqtt::message::{Subscription, subscribe_bytes};
use crate::mqtt::reason_code::ReasonCode;
use crate::mqtt::topic::TopicFilter;
use crate::session::config::MAX_SUBSCRIPTIONS;

/// The result of a subscription.
pub(crate) type Granted = Result<(), SubscribeError>;

/// The callers that use one filter.
#[derive(Debug)]
pub(super) struct FilterUsers {
    filter: TopicFilter,
    count: usize,
    waiting: Vec<oneshot::Sender<Granted>>,
}

impl Core {
    /// Returns all subscriptions: those of the configuration, and the added ones.
    pub(crate) fn subscriptions(&self) -> &[Subscription] {
        &self.subscriptions
    }

    /// Adds a user of a filter, and subscribes to it if there was none. The receiver gets the
    /// server's answer.
    pub(crate) fn add_subscription(
        &mut self,
        subscription: Subscription,
        now: Instant,
    ) -> Result<oneshot::Receiver<Granted>, SubscribeError> {
        if self.is_stopping() {
            return Err(SubscribeError::Stopped);
        }
        // Nobody could end the subscription that ends each connection.
        let subscription = Subscription {
            required: false,
            ..subscription
        };
        let filter = &subscription.filter;
        let known = self.subscriptions.iter().any(|s| s.filter == *filter);
        if !known && self.subscriptions.len() >= MAX_SUBSCRIPTIONS {
            return Err(SubscribeError::TooMany(MAX_SUBSCRIPTIONS));
        }
        let (sender, receiver) = oneshot::channel();
        match self.users.iter_mut().find(|users| users.filter == *filter) {
            Some(users) => {
                users.count += 1;
                users.waiting.push(sender);
            }
            None => self.users.push(FilterUsers {
                filter: filter.clone(),
                count: 1,
                waiting: vec![sender],
            }),
        }
        if !known {
            self.subscriptions.push(subscription.clone());
            // A kept session of the server has no such subscription.
            self.granted = false;
        }
        let (Phase::RunningHooks { connection } | Phase::Online { connection }) = &mut self.phase
        else {
            return Ok(receiver);
        };
        let refused = connection.refused.len();
        connection.refused.retain(|refused| refused != filter);
        if !known || connection.refused.len() < refused {
            self.send_subscribe(subscription, now);
        } else if !connection.pending_controls.subscribes(filter) {
            let filter = filter.clone();
            self.settle(&filter, &Ok(()));
        }
        Ok(receiver)
    }

    fn send_subscribe(&mut self, subscription: Subscription, now: Instant) {
        let due = now + self.config.timeouts.subscribe;
        let Some(connection) = self.connection() else {
            return;
        };
        let size = subscribe_bytes(std::slice::from_ref(&subscription));
        let limit = connection.capabilities.maximum_packet.unwrap_or(u32::MAX);
        if size > limit as usize {
            self.subscription_refused(subscription, ReasonCode::PACKET_TOO_LARGE, None, now);
            return;
        }
        let packet_id = (connection.pending_controls).add(Some(subscription.clone()), due);
        connection.keep_alive.on_send(now);
        let action = Action::Subscribe(packet_id, vec![subscription]);
        self.actions.push_back(action);
    }

    /// Removes a user of a filter, and unsubscribes if it was the last one.
    pub(crate) fn release_subscription(&mut self, filter: &TopicFilter, now: Instant) {
        if let Some(users) = self.users.iter_mut().find(|users| users.filter == *filter) {
            users.count = users.count.saturating_sub(1);
        }
        self.remove_unused(now);
    }

    /// Removes subscriptions without a user. While the connection subscribes, positions in the list
    /// must not change; it calls this afterwards.
    pub(super) fn remove_unused(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Subscribing { .. }) {
            return;
        }
        let configured = self.config.subscriptions.len();
        let due = now + self.config.timeouts.subscribe;
        let unused = self.users.extract_if(.., |users| users.count == 0);
        for FilterUsers { filter, .. } in unused.collect::<Vec<_>>() {
            let mut all = self.subscriptions.iter();
            let position = all.position(|subscription| subscription.filter == filter);
            let Some(position) = position.filter(|position| *position >= configured) else {
                continue;
            };
            self.subscriptions.remove(position);
            if let Phase::RunningHooks { connection } | Phase::Online { connection } =
                &mut self.phase
            {
                connection.refused.retain(|refused| *refused != filter);
                let packet_id = connection.pending_controls.add(None, due);
                connection.keep_alive.on_send(now);
                let action = Action::Unsubscribe(packet_id, filter);
                self.actions.push_back(action);
            }
        }
    }

    /// Passes the server's answer to the callers that wait for it.
    pub(super) fn settle(&mut self, filter: &TopicFilter, granted: &Granted) {
        let users = self.users.iter_mut().find(|users| users.filter == *filter);
        for waiting in users.into_iter().flat_map(|users| users.waiting.drain(..)) {
            // An error means that the caller no longer waits.
            let _ = waiting.send(granted.clone());
        }
    }

    /// Handles a SUBACK for an added subscription; returns whether it is one.
    pub(super) fn added_subscribed(&mut self, suback: &SubAck, now: Instant) -> bool {
        let Some(connection) = self.connection() else {
            return false;
        };
        let Some(pending) = (connection.pending_controls).take(suback.packet_id, true) else {
            return false;
        };
        self.record_activity(now);
        if let (Some(subscription), Some(code)) = (pending.subscription, suback.codes.first()) {
            self.answered(subscription, *code, suback.message.clone(), now);
        }
        true
    }

    /// Handles an UNSUBACK; returns whether it was expected.
    pub(super) fn unsubscribed(&mut self, packet_id: u16, now: Instant) -> bool {
        let connection = self.connection();
        let expected =
            connection.is_some_and(|c| c.pending_controls.take(packet_id, false).is_some());
        if expected {
            self.record_activity(now);
        }
        expected
    }
}
