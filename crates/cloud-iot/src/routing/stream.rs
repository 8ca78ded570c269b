//! Streams of received messages, which callers open while the session runs.

use std::pin::Pin;
use std::task::{Context, Poll};

use cloud_net::{LogThrottle, warn_throttled};
use futures_core::Stream;
use thiserror::Error;

use crate::error::StreamError;
use crate::mqtt::message::{Message, Subscription};
use crate::mqtt::topic::TopicFilter;
use crate::routing::bounded_queue::{Receiver, Sender, TrySendError, bounded};
use crate::session::limits::Limits;

/// Messages were dropped because the reader was too slow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{dropped} messages were dropped because they were not read in time")]
pub struct Lagged {
    /// Number of messages since the last error.
    pub dropped: u64,
}

/// Received messages that match one filter, in the order of arrival.
///
/// The stream holds a bounded number of messages and bytes
/// ([`stream_messages`](crate::Limits::stream_messages),
/// [`stream_bytes`](crate::Limits::stream_bytes)). When it is full, new messages are dropped, and
/// the next read returns [`Lagged`] with their number. The stream ends when the session has
/// stopped.
#[derive(Debug)]
pub struct MessageStream(Receiver);

impl MessageStream {
    /// Returns the next message; `None` when the session has stopped.
    ///
    /// # Errors
    ///
    /// [`Lagged`] if messages were dropped since the last read. The stream continues after it.
    ///
    /// # Cancel safety
    ///
    /// No message is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Result<Message, Lagged>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for MessageStream {
    type Item = Result<Message, Lagged>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Messages are dropped only while the queue is full, so no reader is waiting then.
        match self.0.take_dropped() {
            0 => self
                .0
                .poll_recv(cx)
                .map(|delivery| delivery.map(|delivery| Ok(delivery.message))),
            dropped => Poll::Ready(Some(Err(Lagged { dropped }))),
        }
    }
}

/// Checks that messages which match the filter can arrive.
pub(crate) fn require_subscription(
    filter: &TopicFilter,
    subscriptions: &[Subscription],
) -> Result<(), StreamError> {
    let mut subscriptions = subscriptions.iter();
    if subscriptions.any(|subscription| subscription.filter.overlaps(filter)) {
        Ok(())
    } else {
        Err(StreamError::NotSubscribed(filter.clone()))
    }
}

#[derive(Debug)]
struct Open {
    filter: TopicFilter,
    sender: Sender,
    /// Whether its last message was dropped.
    behind: bool,
}

/// The open streams of a session.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    open: Vec<Open>,
    ended: bool,
}

impl Streams {
    pub(crate) fn open(
        &mut self,
        filter: TopicFilter,
        subscriptions: &[Subscription],
        limits: &Limits,
    ) -> Result<MessageStream, StreamError> {
        if self.ended {
            return Err(StreamError::Stopped);
        }
        require_subscription(&filter, subscriptions)?;
        self.open.retain(|open| !open.sender.is_closed());
        if self.open.len() >= limits.streams {
            return Err(StreamError::TooMany(limits.streams));
        }
        let (sender, receiver) = bounded(limits.stream_messages, limits.stream_bytes);
        self.open.push(Open {
            filter,
            sender,
            behind: false,
        });
        Ok(MessageStream(receiver))
    }

    /// Passes the message to each stream whose filter matches; returns whether there is one.
    pub(crate) fn deliver(&mut self, message: &Message, slow: &LogThrottle) -> bool {
        let mut taken = false;
        self.open.retain_mut(|open| {
            let Open {
                filter,
                sender,
                behind,
            } = open;
            if !filter.matches(&message.topic) {
                return true;
            }
            let full = match sender.try_send(message.clone()) {
                Ok(()) => false,
                Err(TrySendError::Full) => true,
                Err(TrySendError::Closed) => return false,
            };
            // The reader receives the count; one log line per run of losses is enough.
            if full && !std::mem::replace(behind, full) {
                warn_throttled!(slow, %filter, "a stream is not read fast enough; messages are dropped");
            }
            *behind = full;
            taken = true;
            true
        });
        taken
    }

    pub(crate) fn end(&mut self) {
        self.ended = true;
        self.open.clear();
    }
}
