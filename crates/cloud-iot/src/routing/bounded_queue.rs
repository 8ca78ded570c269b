//! A queue of received messages, bounded in messages and bytes, for one reader that may be slow.
//!
//! The session never waits for a reader: when the queue is full, the newest message is dropped and
//! counted, and the reader receives the count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Semaphore, mpsc};

use crate::mqtt::message::Message;
use crate::routing::ack_guard::AckGuard;

/// A queued message.
#[derive(Debug, Clone)]
pub(crate) struct Delivery {
    pub(crate) message: Message,
    /// Held while the reader handles the message.
    pub(crate) ack_guard: Option<Arc<AckGuard>>,
}

impl From<Message> for Delivery {
    fn from(message: Message) -> Self {
        Self {
            message,
            ack_guard: None,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// Cost of the queued messages in bytes.
    bytes: AtomicUsize,
    /// Messages dropped since the last [`Receiver::take_dropped`].
    dropped: AtomicU64,
}

/// Why a message was not queued. With `Full`, it is dropped and counted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TrySendError {
    Full,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Sender {
    queue: mpsc::Sender<Delivery>,
    shared: Arc<Shared>,
    max_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Receiver {
    queue: mpsc::Receiver<Delivery>,
    shared: Arc<Shared>,
}

pub(crate) fn bounded(max_messages: usize, max_bytes: usize) -> (Sender, Receiver) {
    // Callers may request an unbounded queue; a channel has a maximum.
    let (sender, receiver) = mpsc::channel(max_messages.clamp(1, Semaphore::MAX_PERMITS));
    let shared = Arc::new(Shared::default());
    (
        Sender {
            queue: sender,
            shared: Arc::clone(&shared),
            max_bytes,
        },
        Receiver {
            queue: receiver,
            shared,
        },
    )
}

impl Sender {
    /// Queues a message if there is room. There is only one sender, so that two cannot exceed the
    /// byte limit together. An empty queue accepts a single message beyond the limit.
    pub(crate) fn try_send(&mut self, delivery: impl Into<Delivery>) -> Result<(), TrySendError> {
        let delivery = delivery.into();
        let cost = delivery.message.cost();
        let held = self.shared.bytes.load(Ordering::Acquire);
        if held > 0 && held.saturating_add(cost) > self.max_bytes {
            return Err(self.refuse());
        }
        self.shared.bytes.fetch_add(cost, Ordering::AcqRel);
        self.queue.try_send(delivery).map_err(|error| {
            self.shared.bytes.fetch_sub(cost, Ordering::AcqRel);
            match error {
                mpsc::error::TrySendError::Full(_) => self.refuse(),
                mpsc::error::TrySendError::Closed(_) => TrySendError::Closed,
            }
        })
    }

    fn refuse(&self) -> TrySendError {
        if self.queue.is_closed() {
            return TrySendError::Closed;
        }
        self.shared.dropped.fetch_add(1, Ordering::AcqRel);
        TrySendError::Full
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

impl Receiver {
    pub(crate) async fn recv(&mut self) -> Option<Delivery> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Delivery>> {
        self.queue.poll_recv(cx).map(|delivery| {
            delivery.inspect(|delivery| {
                self.shared
                    .bytes
                    .fetch_sub(delivery.message.cost(), Ordering::AcqRel);
            })
        })
    }

    /// Returns how many messages were dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.shared.dropped.swap(0, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn unbounded_queue_is_accepted() {
        let (mut sender, mut receiver) = bounded(usize::MAX, usize::MAX);
        sender.try_send(Message::new("a", "x")).unwrap();
        assert_eq!(receiver.recv().await.unwrap().message.payload, "x");
    }

    #[tokio::test]
    async fn queue_is_bounded_and_counts_drops() {
        let (mut sender, mut receiver) = bounded(2, 1000);
        let small = || Message::new("a", "x");
        sender.try_send(small()).unwrap();
        sender.try_send(small()).unwrap();
        assert_eq!(sender.try_send(small()), Err(TrySendError::Full));
        assert_eq!(receiver.take_dropped(), 1);
        receiver.recv().await.unwrap();
        assert_eq!(
            sender.try_send(Message::new("a", vec![0; 1000])),
            Err(TrySendError::Full)
        );
        assert_eq!(receiver.take_dropped(), 1);
        receiver.recv().await.unwrap();
        sender.try_send(Message::new("a", vec![0; 1000])).unwrap();
        assert_eq!(receiver.recv().await.unwrap().message.payload.len(), 1000);
        drop(receiver);
        assert_eq!(sender.try_send(small()), Err(TrySendError::Closed));
        assert!(sender.is_closed());
    }
}
