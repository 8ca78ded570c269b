//! Which actions clients have registered, and which of their messages wait for an answer.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maximum messages of an action that wait for an answer: a stream's queue. The oldest one makes
/// room for another.
const MAX_UNANSWERED: usize = 64;

/// The registered actions.
#[derive(Debug, Default)]
pub(super) struct ActionRegistry(Mutex<Registrations>);

#[derive(Debug, Default)]
struct Registrations {
    last_id: u64,
    /// The messages without an answer, by action, oldest first.
    unanswered: HashMap<String, VecDeque<u64>>,
}

/// A registered action; unregisters it when dropped.
#[derive(Debug)]
pub(super) struct Registration {
    registry: Arc<ActionRegistry>,
    action: String,
}

impl ActionRegistry {
    fn lock(&self) -> MutexGuard<'_, Registrations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers an action; `None` if it is registered.
    pub(super) fn register(registry: &Arc<Self>, action: String) -> Option<Registration> {
        let mut registrations = registry.lock();
        if registrations.unanswered.contains_key(&action) {
            return None;
        }
        let unanswered = VecDeque::new();
        registrations.unanswered.insert(action.clone(), unanswered);
        Some(Registration {
            registry: Arc::clone(registry),
            action,
        })
    }

    /// Removes a message that is answered; returns whether it waited.
    pub(super) fn take_message(&self, action: &str, id: &str) -> bool {
        let mut registrations = self.lock();
        let unanswered = registrations.unanswered.get_mut(action);
        unanswered.is_some_and(|unanswered| {
            let position = unanswered.iter().position(|other| other.to_string() == id);
            position.and_then(|at| unanswered.remove(at)).is_some()
        })
    }
}

impl Registration {
    /// Returns the action's name.
    pub(super) fn action(&self) -> &str {
        &self.action
    }

    /// Adds a message that waits for an answer; returns its ID.
    pub(super) fn add_message(&self) -> u64 {
        let mut registrations = self.registry.lock();
        registrations.last_id += 1;
        let id = registrations.last_id;
        if let Some(unanswered) = registrations.unanswered.get_mut(&self.action) {
            if unanswered.len() >= MAX_UNANSWERED {
                unanswered.pop_front();
            }
            unanswered.push_back(id);
        }
        id
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.lock().unanswered.remove(&self.action);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unanswered_messages_are_bounded_and_end_with_registration() {
        let registry = Arc::<ActionRegistry>::default();
        let registration = ActionRegistry::register(&registry, "a".to_owned()).unwrap();
        assert!(ActionRegistry::register(&registry, "a".to_owned()).is_none());
        let ids: Vec<_> = (0..=MAX_UNANSWERED)
            .map(|_| registration.add_message())
            .collect();
        let take = |id: u64| registry.take_message("a", &id.to_string());
        assert!(!take(ids[0]), "the oldest made room");
        assert!(take(ids[1]) && !take(ids[1]));
        drop(registration);
        assert!(!take(ids[2]));
        assert!(ActionRegistry::register(&registry, "a".to_owned()).is_some());
    }
}
