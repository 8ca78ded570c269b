//! The messages that clients of the control socket have not acknowledged yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cloud_facade::iot::HeldMessage;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum messages that clients have. The session holds fewer at once; the oldest beyond are not
/// held any more.
const MAX_UNACKNOWLEDGED: usize = 64;

/// Maximum subscriptions of streams that have ended. Others end with their stream.
const MAX_LINGERING: usize = 16;

/// The messages that clients have not acknowledged, by ID.
#[derive(Debug)]
pub(super) struct UnacknowledgedMessages {
    state: Mutex<Unacknowledged>,
    lingering: Arc<Semaphore>,
}

impl Default for UnacknowledgedMessages {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            lingering: Arc::new(Semaphore::new(MAX_LINGERING)),
        }
    }
}

#[derive(Debug, Default)]
struct Unacknowledged {
    last_id: u64,
    /// With the stream of each.
    messages: BTreeMap<u64, (u64, HeldMessage)>,
}

impl UnacknowledgedMessages {
    fn lock(&self) -> MutexGuard<'_, Unacknowledged> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes one of the places for subscriptions of streams that have ended, if one is free.
    pub(super) fn linger_permit(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.lingering).try_acquire_owned().ok()
    }

    pub(super) fn next_id(&self) -> u64 {
        let mut state = self.lock();
        state.last_id += 1;
        state.last_id
    }

    pub(super) fn add(&self, stream: u64, message: HeldMessage) -> u64 {
        let id = self.next_id();
        let mut state = self.lock();
        state.messages.insert(id, (stream, message));
        let oldest = (state.messages.len() > MAX_UNACKNOWLEDGED)
            .then(|| state.messages.pop_first())
            .flatten();
        // Dropping it calls the session.
        drop(state);
        drop(oldest);
        id
    }

    pub(super) fn acknowledge(&self, id: &str) -> bool {
        let id = id.parse().ok();
        let message = id.and_then(|id: u64| self.lock().messages.remove(&id));
        message.is_some_and(|(_, message)| message.acknowledge())
    }

    pub(super) fn give_back(&self, stream: u64) {
        let mut state = self.lock();
        let of_stream: Vec<_> = state
            .messages
            .extract_if(.., |_, (other, _)| *other == stream)
            .collect();
        drop(state);
        drop(of_stream);
    }
}
