//! A bounded queue of received messages for one reader that may be slow.
//!
//! The session never waits for a reader: when the queue is full the newest message is dropped and
//! counted, and the reader is told how many it missed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::sync::{Semaphore, mpsc};

use crate::handled::Handled;
use crate::message::Message;

/// A message on its way to a reader.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) message: Message,
    /// Held for as long as the reader works on the message.
    pub(crate) handled: Option<Arc<Handled>>,
}

impl From<Message> for Letter {
    fn from(message: Message) -> Self {
        Self {
            message,
            handled: None,
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    /// What the queue holds, in bytes.
    bytes: AtomicUsize,
    /// Messages dropped since the reader was last told.
    dropped: AtomicU64,
}

/// The queue was full; the message is dropped and counted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotDelivered {
    Full,
    Closed,
}

#[derive(Debug)]
pub(crate) struct Sender {
    queue: mpsc::Sender<Letter>,
    shared: Arc<Shared>,
    max_bytes: usize,
}

#[derive(Debug)]
pub(crate) struct Receiver {
    queue: mpsc::Receiver<Letter>,
    shared: Arc<Shared>,
}

pub(crate) fn inbox(max_messages: usize, max_bytes: usize) -> (Sender, Receiver) {
    // Somebody who wants no bound may say so; a channel does not take any number.
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
    /// Puts a message into the queue, if it has room. There is one sender, so that the byte count
    /// cannot be passed by two at once. A single message larger than the bound is let through an
    /// empty queue.
    pub(crate) fn send(&mut self, letter: impl Into<Letter>) -> Result<(), NotDelivered> {
        let letter = letter.into();
        let cost = letter.message.cost();
        let held = self.shared.bytes.load(Ordering::Acquire);
        if held > 0 && held.saturating_add(cost) > self.max_bytes {
            return Err(self.refuse());
        }
        self.shared.bytes.fetch_add(cost, Ordering::AcqRel);
        self.queue.try_send(letter).map_err(|error| {
            self.shared.bytes.fetch_sub(cost, Ordering::AcqRel);
            match error {
                mpsc::error::TrySendError::Full(_) => self.refuse(),
                mpsc::error::TrySendError::Closed(_) => NotDelivered::Closed,
            }
        })
    }

    fn refuse(&self) -> NotDelivered {
        if self.queue.is_closed() {
            return NotDelivered::Closed;
        }
        self.shared.dropped.fetch_add(1, Ordering::AcqRel);
        NotDelivered::Full
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

impl Receiver {
    pub(crate) async fn recv(&mut self) -> Option<Letter> {
        std::future::poll_fn(|cx| self.poll_recv(cx)).await
    }

    pub(crate) fn poll_recv(
        &mut self,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Letter>> {
        self.queue.poll_recv(cx).map(|letter| {
            letter.inspect(|letter| {
                self.shared
                    .bytes
                    .fetch_sub(letter.message.cost(), Ordering::AcqRel);
            })
        })
    }

    /// How many messages were dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        self.shared.dropped.swap(0, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn any_bounds_will_do() {
        let (mut sender, mut receiver) = inbox(usize::MAX, usize::MAX);
        sender.send(Message::new("a", "x")).unwrap();
        assert_eq!(receiver.recv().await.unwrap().message.payload, "x");
    }

    #[tokio::test]
    async fn bounded_in_messages_and_bytes_and_counts_what_it_drops() {
        let (mut sender, mut receiver) = inbox(2, 1000);
        let small = || Message::new("a", "x");
        sender.send(small()).unwrap();
        sender.send(small()).unwrap();
        assert_eq!(sender.send(small()), Err(NotDelivered::Full));
        assert_eq!(receiver.take_dropped(), 1);
        receiver.recv().await.unwrap();
        assert_eq!(
            sender.send(Message::new("a", vec![0; 1000])),
            Err(NotDelivered::Full)
        );
        assert_eq!(receiver.take_dropped(), 1);
        receiver.recv().await.unwrap();
        sender.send(Message::new("a", vec![0; 1000])).unwrap();
        assert_eq!(receiver.recv().await.unwrap().message.payload.len(), 1000);
        drop(receiver);
        assert_eq!(sender.send(small()), Err(NotDelivered::Closed));
        assert!(sender.is_closed());
    }
}
