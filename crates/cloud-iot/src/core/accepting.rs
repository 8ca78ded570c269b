//! What the session's owner hands over: messages and requests.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Core;
use crate::error::{PublishError, RequestError};
use crate::message::{Message, PublishOptions, QoS};
use crate::outbox::MessageId;
use crate::receipt::Receipt;
use crate::store::StoreError;

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

    /// Accepts a message that is to be given up if it cannot be stored.
    pub(crate) fn publish_stored(
        &mut self,
        message: Message,
        options: PublishOptions,
        now: Instant,
    ) -> Result<(MessageId, Receipt), PublishError> {
        if message.qos == QoS::AtMostOnce || self.outbox.ledger().is_none() {
            return Err(PublishError::NotStored(StoreError::NotKept));
        }
        self.accept(message, options, true, now)
    }

    /// Takes back a message: if it has not left it never will, and otherwise not once more.
    pub(crate) fn withdraw(&mut self, id: MessageId, now: Instant) {
        self.outbox.withdraw(id, now);
        // It may have been the last that a stop, or another connection, waited for.
        self.advance(now);
        self.leave_if_quiet(now);
    }

    fn accept(
        &mut self,
        message: Message,
        options: PublishOptions,
        keep: bool,
        now: Instant,
    ) -> Result<(MessageId, Receipt), PublishError> {
        if self.is_stopping() {
            return Err(PublishError::Stopped);
        }
        message.check_topic(&self.config.limits)?;
        let (size, limit) = (message.payload.len(), self.config.limits.payload_bytes);
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        let (reply, receiver) = oneshot::channel();
        self.outbox.expire(now);
        // A time too long to be counted is for ever.
        let expires = options.expires_in.and_then(|time| now.checked_add(time));
        let id = self.outbox.accept(message, expires, reply, now)?;
        let stored = if keep {
            self.outbox.keep_newest(now)
        } else {
            None
        };
        self.send_queued(now);
        Ok((id, Receipt::new(receiver, stored)))
    }

    /// Accepts a request: a message whose answer is the next message on `reply_topic`.
    pub(crate) fn request(
        &mut self,
        message: Message,
        reply_topic: String,
        answer: oneshot::Sender<Message>,
        now: Instant,
    ) -> Result<(MessageId, Receipt), RequestError> {
        self.requests
            .check(&reply_topic, self.config.limits.requests)?;
        let (id, receipt) = self.accept(message, PublishOptions::new(), false, now)?;
        self.requests.add(id, reply_topic, answer);
        Ok((id, receipt))
    }

    /// Nobody waits for the answer any more. A request that has not left will not.
    pub(crate) fn forget_request(&mut self, id: MessageId, now: Instant) {
        self.requests.remove(id);
        self.withdraw(id, now);
    }
}
