//! What this crate asks of the world: something that publishes a message and delivers those of a topic filter.
//!
//! [`MessageBus`] is the seam; an MQTT session fits behind it in a few lines. [`BoxedBus`] is its twin for where the type
//! of the bus must not show.

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
/// The bus decides what happens to a message while there is no connection: it may keep it for later or refuse it. Both
/// futures may be dropped at any time; the message is then published, or not.
#[cfg_attr(test, mockall::automock)]
pub trait MessageBus: Send + Sync + 'static {
    /// Publishes `payload` on `topic`, at most once (QoS 0); done when the bus has taken it over.
    ///
    /// Not at least once: a bus repeats an update that was not acknowledged on its next connection, and by then a later
    /// one may have been carried out, which the repetition undoes. Nothing is lost by it: each request has an answer of
    /// its own, and one that has none in time fails, and the document is fetched anew.
    fn publish(
        &self,
        topic: String,
        payload: Vec<u8>,
    ) -> impl Future<Output = Result<(), BusError>> + Send;

    /// Delivers what arrives on the topics of `filter` from now on, over reconnections too, until the subscription is
    /// dropped.
    fn subscribe(
        &self,
        filter: String,
    ) -> impl Future<Output = Result<BusSubscription, BusError>> + Send;
}

/// A message that the bus delivers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BusMessage {
    /// Where it was published.
    pub topic: String,
    /// What was published.
    pub payload: Vec<u8>,
}

/// The messages of one topic filter, as a [`Stream`]. Its end means that the bus is gone for good.
///
/// The bus bounds what waits here, and may drop messages rather than wait; it then calls
/// [`ShadowClient::resync`](crate::ShadowClient::resync), which makes good for any loss.
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

/// Why the bus did not take a message or a subscription.
#[derive(Debug, thiserror::Error)]
#[error("the message bus failed")]
pub struct BusError {
    retryable: bool,
    #[source]
    source: Box<dyn Error + Send + Sync>,
}

impl BusError {
    /// A failure that may pass: no connection, a full queue.
    pub fn temporary(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            retryable: true,
            source: source.into(),
        }
    }

    /// A failure that stays: not allowed, closed.
    pub fn permanent(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            retryable: false,
            source: source.into(),
        }
    }

    /// Whether trying again may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }
}

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// [`MessageBus`] as a trait that can be a trait object; every bus is one.
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

/// Any [`MessageBus`], its type forgotten; clones share it.
#[derive(Clone)]
pub struct BoxedBus(Arc<dyn DynMessageBus>);

impl BoxedBus {
    /// Forgets the type of `bus`.
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
