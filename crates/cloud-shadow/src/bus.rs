//! The message bus interface: publish a message, and receive those of a topic filter.
//!
//! An MQTT session implements [`MessageBus`] in a few lines. [`BoxedBus`] erases the type of a bus.

use std::error::Error;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc;

/// Publishes and subscribes.
///
/// The bus decides what happens to a message while it is disconnected: it may queue or reject it.
/// Both futures may be dropped at any time; the message may or may not be published then.
#[cfg_attr(test, mockall::automock)]
pub trait MessageBus: Send + Sync + 'static {
    /// Publishes `payload` on `topic`, at most once (QoS 0); completes when the bus has accepted
    /// it.
    ///
    /// At most once, not at least once: a bus repeats an unacknowledged update on its next
    /// connection, and a later one may have been applied by then, which the repetition would undo.
    /// Nothing is lost: each request has a response of its own, a request without one in time
    /// fails, and the document is fetched again.
    fn publish(
        &self,
        topic: String,
        payload: Vec<u8>,
    ) -> impl Future<Output = Result<(), BusError>> + Send;

    /// Subscribes to the topics of `filter`, across reconnections, until the subscription is
    /// dropped.
    fn subscribe(
        &self,
        filter: String,
    ) -> impl Future<Output = Result<BusSubscription, BusError>> + Send;
}

/// A message that the bus delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusMessage {
    /// The topic.
    pub topic: String,
    /// The payload.
    pub payload: Vec<u8>,
}

/// The messages of one topic filter, as a [`Stream`]. Its end means that the bus has ended for
/// good.
///
/// The bus bounds this queue, and may drop messages rather than wait; it then calls
/// [`ShadowClient::resync`](crate::ShadowClient::resync), which recovers from any loss.
pub struct BusSubscription(Pin<Box<dyn Stream<Item = BusMessage> + Send>>);

impl BusSubscription {
    /// Wraps any stream of messages.
    pub fn new(stream: impl Stream<Item = BusMessage> + Send + 'static) -> Self {
        Self(Box::pin(stream))
    }
}

impl From<mpsc::Receiver<BusMessage>> for BusSubscription {
    fn from(mut receiver: mpsc::Receiver<BusMessage>) -> Self {
        Self::new(futures_util::stream::poll_fn(move |cx| {
            receiver.poll_recv(cx)
        }))
    }
}

impl Stream for BusSubscription {
    type Item = BusMessage;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<BusMessage>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for BusSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BusSubscription")
    }
}

/// The reason why the bus rejected a message or a subscription.
#[derive(Debug, thiserror::Error)]
#[error("the message bus failed")]
pub struct BusError {
    retryable: bool,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

impl BusError {
    /// Creates a temporary error: no connection, a full queue.
    pub fn temporary(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            retryable: true,
            source: source.into(),
        }
    }

    /// Creates a permanent error: not allowed, closed.
    pub fn permanent(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            retryable: false,
            source: source.into(),
        }
    }

    /// Returns whether a retry may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`MessageBus`] as an object-safe trait, implemented for every bus.
trait DynMessageBus: Send + Sync + 'static {
    fn publish(&self, topic: String, payload: Vec<u8>) -> BoxFuture<'_, Result<(), BusError>>;
    fn subscribe(&self, filter: String) -> BoxFuture<'_, Result<BusSubscription, BusError>>;
}

impl<B: MessageBus> DynMessageBus for B {
    fn publish(&self, topic: String, payload: Vec<u8>) -> BoxFuture<'_, Result<(), BusError>> {
        Box::pin(MessageBus::publish(self, topic, payload))
    }

    fn subscribe(&self, filter: String) -> BoxFuture<'_, Result<BusSubscription, BusError>> {
        Box::pin(MessageBus::subscribe(self, filter))
    }
}

/// A type-erased [`MessageBus`]; clones share it.
#[derive(Clone)]
pub struct BoxedBus(Arc<dyn DynMessageBus>);

impl BoxedBus {
    /// Erases the type of `bus`.
    pub fn new(bus: impl MessageBus) -> Self {
        Self(Arc::new(bus))
    }
}

impl MessageBus for BoxedBus {
    async fn publish(&self, topic: String, payload: Vec<u8>) -> Result<(), BusError> {
        self.0.publish(topic, payload).await
    }

    async fn subscribe(&self, filter: String) -> Result<BusSubscription, BusError> {
        self.0.subscribe(filter).await
    }
}

impl fmt::Debug for BoxedBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BoxedBus")
    }
}
