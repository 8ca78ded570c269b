//! Requests over MQTT topics: a published message, and the next message on the reply topic.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use crate::driver::shared::Shared;
use crate::error::RequestError;
use crate::mqtt::message::MessageId;
use crate::mqtt::message::{Message, QoS};
use crate::session::setters::setters;

/// Default time limit of a request.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A request, and the topic of its response.
///
/// ```
/// use std::time::Duration;
/// use cloud_iot::Request;
///
/// let request = Request::new("c/d/7/token/req", "{}", "c/d/7/token/res")
///     .timeout(Duration::from_secs(60));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Request {
    /// Topic of the request.
    pub topic: String,
    /// Payload.
    pub payload: Bytes,
    /// Quality of service of the request. Default: [`QoS::AtLeastOnce`].
    pub qos: QoS,
    /// Topic of the response; one of the session's subscriptions must cover it.
    pub reply_topic: String,
    /// Timeout, including time without a connection. Default: 30 s.
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
    /// Creates a request with the defaults.
    pub fn new(
        topic: impl Into<String>,
        payload: impl Into<Bytes>,
        reply_topic: impl Into<String>,
    ) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: QoS::default(),
            reply_topic: reply_topic.into(),
            timeout: TIMEOUT,
        }
    }

    setters! {
        qos: QoS,
        timeout: Duration,
    }

    /// Publishes the request and waits for the response.
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
        let _cancel = CancelOnDrop { shared, id };
        let exchange = async {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.unwrap_or(Err(RequestError::Stopped)),
                delivered = &mut receipt => {
                    delivered?;
                }
            }
            answer.await.unwrap_or(Err(RequestError::Stopped))
        };
        timeout(limit, exchange)
            .await
            .unwrap_or(Err(RequestError::Timeout(limit)))
    }
}

/// Cancels the wait for a response when the future ends.
struct CancelOnDrop<'a> {
    shared: &'a Shared,
    id: MessageId,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.shared
            .with_core(|core| core.cancel_request(self.id, Instant::now()));
    }
}
