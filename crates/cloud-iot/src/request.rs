//! A request over a protocol that has none: a message, and the next one on another topic.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::driver::Shared;
use crate::error::RequestError;
use crate::message::{Message, QoS};
use crate::outbox::MessageId;

/// A request and where its answer comes.
#[derive(Clone)]
pub struct Request {
    /// Where the request is published.
    pub topic: String,
    /// Its content.
    pub payload: Bytes,
    /// How surely the request is delivered.
    pub qos: QoS,
    /// Where the answer comes; one of the session's subscriptions must bring it.
    pub reply_topic: String,
    /// How long to wait in all, the time without a connection included.
    pub timeout: Duration,
}

/// Payloads may hold secrets of the application, so only their length is shown.
impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("reply_topic", &self.reply_topic)
            .field("timeout", &self.timeout)
            .finish()
    }
}

impl Request {
    /// Publishes it and waits for the answer.
    pub(crate) async fn exchange(self, shared: &Shared) -> Result<Message, RequestError> {
        let Self {
            topic,
            payload,
            qos,
            reply_topic,
            timeout: limit,
        } = self;
        let mut subscriptions = shared.config.subscriptions.iter();
        if !subscriptions.any(|subscription| subscription.filter.matches(&reply_topic)) {
            return Err(RequestError::NotSubscribed(reply_topic));
        }
        let (sender, mut answer) = oneshot::channel();
        let message = Message::new(topic, payload).qos(qos);
        let (id, mut receipt) =
            shared.with_core(|core| core.request(message, reply_topic, sender, Instant::now()))?;
        let _forget = Forget { shared, id };
        let exchange = async {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.map_err(|_| RequestError::Stopped),
                delivered = &mut receipt => {
                    delivered?;
                }
            }
            answer.await.map_err(|_| RequestError::Stopped)
        };
        timeout(limit, exchange)
            .await
            .unwrap_or(Err(RequestError::Timeout(limit)))
    }
}

/// Gives up a request's answer when its future ends in any way.
struct Forget<'a> {
    shared: &'a Shared,
    id: MessageId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared
            .with_core(|core| core.forget_request(self.id, Instant::now()));
    }
}
