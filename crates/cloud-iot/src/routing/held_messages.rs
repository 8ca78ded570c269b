//! Received messages that their reader acknowledges, and those that wait for one.
//!
//! An acknowledgement that is missing holds up all later ones, because they leave in the order of
//! arrival. So a message is held for a limited time, with a reader or without, and then
//! acknowledged; for a short one if so many wait for it that the server may stop sending.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cloud_net::{LogThrottle, UntrustedText, warn_throttled};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::core::acknowledgement_order::DeliveryId;
use crate::error::StreamError;
use crate::mqtt::message::Message;
use crate::mqtt::topic::TopicFilter;
use crate::routing::ack_guard::AckGuard;

/// How long a message is held while it stops the server: long enough for a reader of a burst, and
/// short enough for a question whose answer waits behind it.
const GRACE: Duration = Duration::from_secs(2);

/// Received QoS 1 messages that match one filter, in the order of arrival, each of which the reader
/// acknowledges; see [`Session::held_messages`](crate::Session::held_messages).
///
/// A message goes to one of the readers with a filter that matches.
pub struct HeldMessages {
    store: Arc<HeldStore>,
    filter: TopicFilter,
    reader: u64,
}

impl HeldMessages {
    /// Returns the next message; `None` when the session is stopping.
    ///
    /// # Cancel safety
    ///
    /// No message is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<HeldMessage> {
        loop {
            let changed = self.store.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let (id, message, is_redelivered) = match self.store.take(&self.filter) {
                Ok(Some(taken)) => taken,
                Ok(None) => {
                    changed.await;
                    continue;
                }
                Err(StoreEnded) => return None,
            };
            return Some(HeldMessage {
                message,
                is_redelivered,
                id,
                store: Arc::clone(&self.store),
            });
        }
    }
}

impl Drop for HeldMessages {
    fn drop(&mut self) {
        let mut state = self.store.lock();
        state.readers.retain(|(reader, _)| *reader != self.reader);
    }
}

impl fmt::Debug for HeldMessages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeldMessages").field(&self.filter).finish()
    }
}

/// A message that is not acknowledged yet. Dropping it leaves it to the next reader.
#[must_use = "dropping it leaves the message to the next reader"]
pub struct HeldMessage {
    /// The message.
    pub message: Message,
    /// Whether another reader of this process, or the same one, has had the message before.
    pub is_redelivered: bool,
    id: u64,
    store: Arc<HeldStore>,
}

impl HeldMessage {
    /// Acknowledges the message, once those that arrived before it are acknowledged. Returns
    /// whether it was still held: after [`hold`](crate::SessionConfig::hold) the session has
    /// acknowledged it, and once the session is stopping, the server sends it again.
    pub fn acknowledge(self) -> bool {
        self.store.acknowledge(self.id)
    }
}

impl Drop for HeldMessage {
    fn drop(&mut self) {
        self.store.give_back(self.id);
    }
}

impl fmt::Debug for HeldMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeldMessage")
            .field("message", &self.message)
            .field("is_redelivered", &self.is_redelivered)
            .finish_non_exhaustive()
    }
}

/// The held messages of a session. The server's limit of messages that are not acknowledged
/// ([`incoming_in_flight`](crate::Limits::incoming_in_flight)) bounds them.
#[derive(Debug)]
pub(crate) struct HeldStore {
    /// How long a message is held; `None` holds none.
    hold: Option<Duration>,
    state: Mutex<State>,
    /// A message can be taken, or the store has ended.
    changed: Notify,
    expired_log: LogThrottle,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    /// Oldest first.
    entries: VecDeque<Entry>,
    readers: Vec<(u64, TopicFilter)>,
    has_ended: bool,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    message: Message,
    guard: Arc<AckGuard>,
    since: Instant,
    is_taken: bool,
    was_taken: bool,
}

struct StoreEnded;

impl HeldStore {
    pub(crate) fn new(hold: Option<Duration>) -> Self {
        Self {
            hold,
            state: Mutex::default(),
            changed: Notify::new(),
            expired_log: LogThrottle::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a reader.
    pub(crate) fn read(
        self: &Arc<Self>,
        filter: TopicFilter,
        limit: usize,
    ) -> Result<HeldMessages, StreamError> {
        if self.hold.is_none() {
            return Err(StreamError::HoldsNone);
        }
        let mut state = self.lock();
        if state.has_ended {
            return Err(StreamError::Stopped);
        }
        if state.readers.len() >= limit {
            return Err(StreamError::TooMany(limit));
        }
        state.next += 1;
        let reader = state.next;
        state.readers.push((reader, filter.clone()));
        Ok(HeldMessages {
            store: Arc::clone(self),
            filter,
            reader,
        })
    }

    /// Holds a message that a reader takes, or nobody else. Returns whether it is held.
    pub(crate) fn offer(
        &self,
        message: &Message,
        guard: &Arc<AckGuard>,
        is_unclaimed: bool,
        now: Instant,
    ) -> bool {
        if self.hold.is_none() {
            return false;
        }
        let mut state = self.lock();
        let mut readers = state.readers.iter();
        let is_read = readers.any(|(_, filter)| filter.matches(&message.topic));
        if state.has_ended || !(is_unclaimed || is_read) {
            return false;
        }
        state.next += 1;
        let id = state.next;
        state.entries.push_back(Entry {
            id,
            message: message.clone(),
            guard: Arc::clone(guard),
            since: now,
            is_taken: false,
            was_taken: false,
        });
        drop(state);
        self.changed.notify_waiters();
        true
    }

    fn take(&self, filter: &TopicFilter) -> Result<Option<(u64, Message, bool)>, StoreEnded> {
        let mut state = self.lock();
        if state.has_ended {
            return Err(StoreEnded);
        }
        let mut entries = state.entries.iter_mut();
        let entry = entries.find(|entry| !entry.is_taken && filter.matches(&entry.message.topic));
        Ok(entry.map(|entry| {
            entry.is_taken = true;
            let was_taken = std::mem::replace(&mut entry.was_taken, true);
            (entry.id, entry.message.clone(), was_taken)
        }))
    }

    fn acknowledge(&self, id: u64) -> bool {
        let mut state = self.lock();
        let position = state.entries.iter().position(|entry| entry.id == id);
        let entry = position.and_then(|position| state.entries.remove(position));
        // The guard calls the session.
        drop(state);
        entry.is_some()
    }

    fn give_back(&self, id: u64) {
        let mut state = self.lock();
        let entry = state.entries.iter_mut().find(|entry| entry.id == id);
        if let Some(entry) = entry {
            entry.is_taken = false;
            drop(state);
            self.changed.notify_waiters();
        }
    }

    /// Returns when the oldest message is held too long, if the server waits for the
    /// acknowledgement of `blocking`.
    pub(crate) fn deadline(&self, blocking: Option<DeliveryId>) -> Option<Instant> {
        let state = self.lock();
        let oldest = state.entries.front()?;
        Some(oldest.since + self.limit(oldest, blocking)?)
    }

    fn limit(&self, entry: &Entry, blocking: Option<DeliveryId>) -> Option<Duration> {
        let is_blocking = blocking == Some(entry.guard.delivery());
        Some(
            self.hold?
                .min(if is_blocking { GRACE } else { Duration::MAX }),
        )
    }

    /// Acknowledges the oldest message if it is held too long. Returns whether it did.
    pub(crate) fn expire(&self, now: Instant, blocking: Option<DeliveryId>) -> bool {
        let mut state = self.lock();
        let is_over = |entry: &mut Entry| {
            let limit = self.limit(entry, blocking);
            limit.is_some_and(|limit| entry.since + limit <= now)
        };
        let Some(entry) = state.entries.pop_front_if(is_over) else {
            return false;
        };
        drop(state);
        let topic = UntrustedText::new(&entry.message.topic);
        warn_throttled!(
            self.expired_log,
            %topic,
            "no reader has acknowledged a message in time; the session acknowledges it"
        );
        true
    }

    /// Leaves all messages to the server, which sends them again in the next session.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.has_ended = true;
        let entries = std::mem::take(&mut state.entries);
        drop(state);
        for entry in &entries {
            entry.guard.leave();
        }
        drop(entries);
        self.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::core::acknowledgement_order::DeliveryId;
    use crate::routing::ack_guard::AckSink;

    const HOLD: Duration = Duration::from_secs(60);

    /// What became of the messages.
    #[derive(Debug, Default)]
    struct Sink(Mutex<Vec<(DeliveryId, bool)>>);

    impl AckSink for Sink {
        fn handled(&self, delivery: DeliveryId) {
            self.0.lock().unwrap().push((delivery, true));
        }

        fn left_unacknowledged(&self, delivery: DeliveryId) {
            self.0.lock().unwrap().push((delivery, false));
        }
    }

    struct World {
        sink: Arc<Sink>,
        store: Arc<HeldStore>,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self {
                sink: Arc::default(),
                store: Arc::new(HeldStore::new(Some(HOLD))),
                now: Instant::now(),
            }
        }

        fn offer(&self, delivery: DeliveryId, topic: &str, is_unclaimed: bool) -> bool {
            let sink: Weak<Sink> = Arc::downgrade(&self.sink);
            let guard = Arc::new(AckGuard::new(sink, delivery));
            let message = Message::new(topic, delivery.to_string());
            self.store.offer(&message, &guard, is_unclaimed, self.now)
        }

        fn read(&self, filter: &str) -> HeldMessages {
            let filter = TopicFilter::new(filter).unwrap();
            self.store.read(filter, 64).unwrap()
        }

        fn outcome(&self) -> Vec<(DeliveryId, bool)> {
            std::mem::take(&mut self.sink.0.lock().unwrap())
        }
    }

    async fn payload(reader: &mut HeldMessages) -> (HeldMessage, String) {
        let held = reader.recv().await.unwrap();
        let payload = String::from_utf8(held.message.payload.to_vec()).unwrap();
        (held, payload)
    }

    #[tokio::test]
    async fn message_waits_for_a_reader_and_returns_from_one_that_drops_it() {
        let world = World::new();
        assert!(world.offer(1, "a/x", true));
        assert!(world.offer(2, "b/x", true));
        assert!(world.outcome().is_empty());
        let mut reader = world.read("a/#");
        let (held, text) = payload(&mut reader).await;
        assert!(text == "1" && !held.is_redelivered);
        drop(held);
        let (held, text) = payload(&mut reader).await;
        assert!(text == "1" && held.is_redelivered);
        assert!(world.outcome().is_empty());
        assert!(held.acknowledge());
        assert_eq!(world.outcome(), [(1, true)]);
        drop(reader);
        let (held, text) = payload(&mut world.read("b/+")).await;
        assert!(text == "2" && held.acknowledge());
    }

    #[tokio::test]
    async fn message_of_others_is_held_for_a_reader_only() {
        let world = World::new();
        assert!(!world.offer(1, "a/x", false), "nobody reads it");
        assert_eq!(world.outcome(), [(1, true)]);
        let mut reader = world.read("a/#");
        let waiting = tokio::spawn(async move { payload(&mut reader).await.0.acknowledge() });
        tokio::task::yield_now().await;
        assert!(world.offer(2, "a/x", false));
        assert!(waiting.await.unwrap());
        assert_eq!(world.outcome(), [(2, true)]);
    }

    #[tokio::test]
    async fn message_that_stops_the_server_is_acknowledged_soon() {
        let world = World::new();
        for delivery in 1..=2 {
            assert!(world.offer(delivery, "a/x", true));
        }
        assert_eq!(world.store.deadline(Some(1)), Some(world.now + GRACE));
        assert_eq!(world.store.deadline(Some(2)), Some(world.now + HOLD));
        let soon = world.now + GRACE;
        assert!(!world.store.expire(world.now, Some(1)));
        assert!(world.store.expire(soon, Some(1)));
        assert!(!world.store.expire(soon, None));
        assert_eq!(world.outcome(), [(1, true)]);
    }

    #[tokio::test]
    async fn message_is_acknowledged_after_the_time_and_left_at_the_end() {
        let world = World::new();
        let mut reader = world.read("a/#");
        for delivery in 1..=2 {
            assert!(world.offer(delivery, "a/x", false));
        }
        let (taken, _) = payload(&mut reader).await;
        assert_eq!(world.store.deadline(None), Some(world.now + HOLD));
        let early = world.now + HOLD - Duration::from_secs(1);
        assert!(!world.store.expire(early, None));
        assert!(world.outcome().is_empty());
        while world.store.expire(world.now + HOLD, None) {}
        assert_eq!(world.outcome(), [(1, true), (2, true)]);
        assert!(!taken.acknowledge());
        assert_eq!(world.store.deadline(None), None);

        assert!(world.offer(3, "a/x", false));
        let (taken, _) = payload(&mut reader).await;
        world.store.end();
        assert_eq!(world.outcome(), [(3, false)]);
        assert!(!taken.acknowledge());
        assert!(reader.recv().await.is_none());
        assert!(!world.offer(4, "a/x", true));
        let filter = TopicFilter::new("a/#").unwrap();
        let error = world.store.read(filter.clone(), 64).unwrap_err();
        assert_eq!(error, StreamError::Stopped);
        let none = Arc::new(HeldStore::new(None));
        assert_eq!(none.read(filter, 64).unwrap_err(), StreamError::HoldsNone);
    }
}
