//! The device's copy of the shadow, kept up to date from messages that may be reordered, duplicated
//! or lost.
//!
//! It is pure state, without time and requests. [`is_behind`](Replica::is_behind) returns whether
//! the document lacks something that was seen, so that a `get` is needed if nothing else arrives.
//!
//! The rules, each for a reason:
//!
//! - A message whose version is not newer than the known version is stale and dropped.
//! - A change is merged only if it is the next version; after a gap only a whole document helps.
//! - A change that would make the document larger than any message that could contain it is not
//!   merged either.
//! - The response to our `get` is newer than everything seen before the request. So if its version
//!   is *lower*, the shadow was deleted and recreated, and versions restarted: the response is
//!   valid.
//! - After a delete, a version at or below the deleted one is either late or from a recreated
//!   shadow. It is not applied, but a `get` is requested.
//! - A delta without a version cannot be ordered. It is applied, since no other message may follow,
//!   and a `get` is requested.

use crate::delta::Delta;
use crate::document::{Document, size};
use crate::message::{MAX_MESSAGE, Patch};

#[derive(Debug, Clone, PartialEq)]
enum Known {
    /// No message has arrived yet.
    Unknown,
    /// There is no shadow. The last one was deleted at this version; 0 if there never was one.
    Absent { last: u64 },
    /// The document.
    Present(Document),
}

/// The replica; see the module.
#[derive(Debug)]
pub(crate) struct Replica {
    known: Known,
    delta: Delta,
    /// The highest version seen since the shadow was created.
    highest_seen: u64,
    /// A message was seen that only a `get` can resolve.
    needs_get: bool,
}

impl Replica {
    pub(crate) fn new() -> Self {
        Self {
            known: Known::Unknown,
            delta: Delta::default(),
            highest_seen: 0,
            needs_get: false,
        }
    }

    pub(crate) fn document(&self) -> Option<&Document> {
        match &self.known {
            Known::Present(document) => Some(document),
            Known::Unknown | Known::Absent { .. } => None,
        }
    }

    pub(crate) fn delta(&self) -> &Delta {
        &self.delta
    }

    /// Returns whether a `get` is needed to know the current document.
    pub(crate) fn is_behind(&self) -> bool {
        self.needs_get
            || match &self.known {
                Known::Present(document) => document.version < self.highest_seen,
                Known::Absent { last } => *last < self.highest_seen,
                Known::Unknown => self.highest_seen > 0,
            }
    }

    /// Returns the baseline of a request, to be passed with its response.
    pub(crate) fn baseline(&self) -> u64 {
        self.highest_seen
    }

    /// Handles the response to our `get` that was sent at `baseline`.
    pub(crate) fn on_get(&mut self, document: Document, baseline: u64) {
        let recreated = document.version < baseline;
        if recreated
            || document.version >= self.highest_seen
            || matches!(self.known, Known::Unknown)
        {
            if recreated {
                self.highest_seen = document.version;
            }
            self.needs_get = false;
            self.store(document);
        } else {
            // Superseded by newer messages, or by late ones of a deleted shadow: another `get`
            // resolves it.
            self.needs_get = true;
        }
    }

    /// Handles the response "no such shadow" to our `get` or `delete` that was sent at `baseline`.
    pub(crate) fn on_not_found(&mut self, baseline: u64) {
        if self.highest_seen > baseline {
            // It was created while the response was in flight, or the messages seen since were
            // late.
            self.needs_get = true;
            return;
        }
        self.needs_get = false;
        self.set_absent();
    }

    /// Handles a delete at `version`, by any client.
    pub(crate) fn on_deleted(&mut self, version: Option<u64>) {
        if version.is_some_and(|version| version < self.highest_seen) {
            // Late: the shadow was recreated. Or early, and the messages seen were of the deleted
            // shadow: a `get` resolves it.
            self.needs_get = true;
            return;
        }
        self.highest_seen = version.unwrap_or(self.highest_seen);
        self.set_absent();
        // A duplicate that arrives after versions restarted would look the same.
        self.needs_get = true;
    }

    /// Handles a whole document that was not requested. One of the known version is applied too:
    /// the known one may result from merging a change into a shadow that was deleted and recreated
    /// in between.
    pub(crate) fn on_document(&mut self, document: Document) {
        let same_version = self
            .document()
            .is_some_and(|known| known.version == document.version);
        if same_version || self.is_newer(document.version) {
            self.store(document);
        }
    }

    /// Handles an update, by any client.
    pub(crate) fn on_patch(&mut self, patch: Patch) {
        if !self.is_newer(patch.version) {
            return;
        }
        let before = patch.version.checked_sub(1);
        let mut next = match &self.known {
            Known::Present(document) if Some(document.version) == before => document.clone(),
            Known::Absent { last } if Some(*last) == before => Document::default(),
            _ => {
                self.highest_seen = self.highest_seen.max(patch.version);
                return;
            }
        };
        patch.desired.apply(&mut next.desired);
        patch.reported.apply(&mut next.reported);
        next.version = patch.version;
        if size(&next.desired).saturating_add(size(&next.reported)) > MAX_MESSAGE {
            self.highest_seen = self.highest_seen.max(patch.version);
            return;
        }
        self.store(next);
    }

    /// Handles a delta message.
    pub(crate) fn on_delta(&mut self, delta: Delta) {
        match delta.version {
            None => {
                self.delta = delta;
                self.needs_get = true;
            }
            Some(version) if self.highest_seen < version => {
                self.highest_seen = version;
                self.delta = delta;
            }
            Some(_) => self.needs_get |= matches!(self.known, Known::Absent { .. }),
        }
    }

    /// Returns whether a message of this version is new. If that cannot be known, it returns false,
    /// and a `get` is needed.
    fn is_newer(&mut self, version: u64) -> bool {
        match &self.known {
            Known::Present(document) => document.version < version,
            Known::Unknown => true,
            Known::Absent { last } => {
                let new = *last < version;
                self.needs_get |= !new;
                new
            }
        }
    }

    fn store(&mut self, document: Document) {
        self.highest_seen = self.highest_seen.max(document.version);
        if document.version == self.highest_seen {
            self.delta = Delta {
                state: document.delta(),
                version: Some(document.version),
            };
        }
        self.known = Known::Present(document);
    }

    fn set_absent(&mut self) {
        self.known = Known::Absent {
            last: self.highest_seen,
        };
        self.delta = Delta::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::Change;
    use crate::test_support::object;
    use serde_json::{Value, json};

    fn document(desired: Value, version: u64) -> Document {
        Document {
            desired: object(desired),
            version,
            ..Document::default()
        }
    }

    fn patch(desired: Value, version: u64) -> Patch {
        Patch {
            desired: Change::Merge(object(desired)),
            reported: Change::Keep,
            version,
        }
    }

    #[test]
    fn stale_not_found_does_not_clear_replica() {
        let mut replica = Replica::new();
        let baseline = replica.baseline();
        replica.on_document(document(json!({"a": 1}), 1));
        replica.on_not_found(baseline);
        assert_eq!(replica.document(), Some(&document(json!({"a": 1}), 1)));
        assert!(replica.is_behind());
        replica.on_not_found(replica.baseline());
        assert_eq!(replica.document(), None);
        assert!(!replica.is_behind());
    }

    #[test]
    fn full_document_corrects_merge_across_missed_delete() {
        let mut replica = Replica::new();
        replica.on_get(document(json!({"old": 1}), 5), 0);
        replica.on_patch(patch(json!({"new": 1}), 6));
        replica.on_document(document(json!({"new": 1}), 6));
        assert_eq!(replica.document(), Some(&document(json!({"new": 1}), 6)));
        assert_eq!(replica.delta().state, object(json!({"new": 1})));
    }

    #[test]
    fn stale_get_response_is_requested_again() {
        let mut replica = Replica::new();
        replica.on_get(document(json!({"a": 1}), 1), 0);
        let baseline = replica.baseline();
        replica.on_document(document(json!({"a": 2}), 2));
        replica.on_get(document(json!({"a": 1}), 1), baseline);
        assert_eq!(replica.document(), Some(&document(json!({"a": 2}), 2)));
        assert!(replica.is_behind());
        replica.on_get(document(json!({"a": 2}), 2), replica.baseline());
        assert!(!replica.is_behind());
    }

    #[test]
    fn first_document_is_built_in_any_message_order() {
        let delta = Delta {
            state: object(json!({"a": 1})),
            version: Some(1),
        };
        let mut replica = Replica::new();
        replica.on_not_found(0);
        replica.on_delta(delta);
        assert!(replica.is_behind());
        replica.on_patch(patch(json!({"a": 1}), 1));
        assert_eq!(replica.document(), Some(&document(json!({"a": 1}), 1)));
        assert!(!replica.is_behind());
    }

    /// Otherwise any client that can publish on a shadow's topics could grow it change by change.
    #[test]
    fn document_size_is_bounded() {
        let mut replica = Replica::new();
        replica.on_get(document(json!({"a": 1}), 1), 0);
        for version in 2..100 {
            replica.on_patch(patch(
                json!({ version.to_string(): "x".repeat(60_000) }),
                version,
            ));
        }
        let size = serde_json::to_string(&replica.document().unwrap().desired);
        assert!(size.unwrap().len() <= 128 * 1024);
        assert!(replica.is_behind());
        replica.on_get(document(json!({"a": 2}), 99), replica.baseline());
        assert!(!replica.is_behind());
    }

    #[test]
    fn maximum_version_is_accepted() {
        let mut replica = Replica::new();
        replica.on_get(document(json!({"a": 1}), u64::MAX), 0);
        replica.on_patch(patch(json!({"a": 2}), u64::MAX));
        replica.on_patch(patch(json!({"a": 2}), 0));
        replica.on_deleted(Some(u64::MAX));
        replica.on_patch(patch(json!({"a": 2}), 0));
        assert_eq!(replica.document(), None);
        replica.on_get(document(json!({"a": 3}), 1), replica.baseline());
        assert_eq!(replica.delta().state, object(json!({"a": 3})));
    }
}
