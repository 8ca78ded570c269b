//! Publishing messages and requests.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Core;
use super::pending_requests::Reply;
use crate::error::{PublishError, RequestError};
use crate::mqtt::message::MessageId;
use crate::mqtt::message::{Message, PublishOptions, QoS};
use crate::outbox::store::StoreError;
use crate::session::receipt::Receipt;

impl Core {
    /// Accepts a message for delivery.
    pub(crate) fn publish(
        &mut self,
        message: Message,
        options: PublishOptions,
        now: Instant,
    ) -> Result<Receipt, PublishError> {
        self.accept(message, options, true, now)
            .map(|(_, receipt)| receipt)
    }

    /// Accepts a message that the caller withdraws if it cannot be stored.
    pub(crate) fn publish_stored(
        &mut self,
        message: Message,
        options: PublishOptions,
        now: Instant,
    ) -> Result<(MessageId, Receipt), PublishError> {
        if message.qos == QoS::AtMostOnce || self.outbox.write_behind().is_none() {
            return Err(PublishError::NotStored(StoreError::NotKept));
        }
        self.accept(message, options, true, now)
    }

    /// Withdraws a message: a queued one is never sent, another one is not resent.
    pub(crate) fn withdraw(&mut self, id: MessageId, now: Instant) {
        self.outbox.withdraw(id, now);
        // A shutdown or reconnection may have waited for this message.
        self.advance(now);
        self.reconnect_if_idle(now);
    }

    fn accept(
        &mut self,
        message: Message,
        options: PublishOptions,
        store: bool,
        now: Instant,
    ) -> Result<(MessageId, Receipt), PublishError> {
        if self.is_stopping() {
            return Err(PublishError::Stopped);
        }
        let limits = &self.config.limits;
        message.check_topic(limits.topic_bytes, limits.topic_slashes)?;
        let (size, limit) = (message.payload.len(), self.config.limits.payload_bytes);
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        if let Some(properties) = &message.properties {
            let checked = properties.check(limits.topic_bytes);
            checked.map_err(PublishError::Properties)?;
        }
        let (reply, receiver) = oneshot::channel();
        self.outbox.expire(now);
        // A time that overflows the clock means no expiry.
        let expires = options.expires_in.and_then(|time| now.checked_add(time));
        let id = self.outbox.accept(message, expires, reply, now)?;
        let stored = if store {
            self.outbox.store_newest(now)
        } else {
            None
        };
        self.send_queued(now);
        Ok((id, Receipt::new(receiver, stored)))
    }

    /// Accepts a request: a message whose response is the next message on `reply_topic`.
    pub(crate) fn request(
        &mut self,
        message: Message,
        reply_topic: String,
        answer: Reply,
        now: Instant,
    ) -> Result<(MessageId, Receipt), RequestError> {
        self.requests
            .check(&reply_topic, self.config.limits.requests)?;
        let refused = self.refused_subscriptions();
        if self.config.is_refused(&refused, &reply_topic) {
            return Err(RequestError::SubscriptionRefused(reply_topic));
        }
        let (id, receipt) = self.accept(message, PublishOptions::new(), false, now)?;
        self.requests.add(id, reply_topic, answer);
        Ok((id, receipt))
    }

    /// Cancels the wait for a response. A queued request is never sent.
    pub(crate) fn cancel_request(&mut self, id: MessageId, now: Instant) {
        self.requests.remove(id);
        self.withdraw(id, now);
    }
}
