//! The device's copy of the shadow, kept up to date from messages that may come in any order, twice, or not at all.
//!
//! It is pure bookkeeping, without time and requests. What it says of itself is whether it [is behind](Replica::is_behind):
//! whether something was seen that its document does not have yet, so that a `get` is needed if nothing else arrives.
//!
//! The rules, each for a reason:
//!
//! - A message whose version is not newer than what is known is stale and dropped.
//! - A change is merged only if it is the very next version; after a gap only a whole document helps.
//! - A change that would make the document larger than any message that could bring it is not merged either.
//! - The answer to a `get` of ours was made after everything that we had seen when we asked. So if its version is *lower*
//!   than that, the shadow was deleted and made anew, and counting began again: the answer holds.
//! - After a delete, a version at or below the deleted one is either late or from a shadow made anew. It is not believed,
//!   but a `get` is asked for.
//! - A delta without a version cannot be ordered. It is believed, since nothing else may ever come, and a `get` is asked
//!   for.
//!
//! Protocol: `docs/protocol.md`, "Shadows".

use crate::delta::Delta;
use crate::document::{Document, size};
use crate::message::{MAX_MESSAGE, Patch};

#[derive(Debug, Clone, PartialEq)]
enum Known {
    /// Nothing yet.
    Nothing,
    /// There is no shadow. The last one was deleted at this version; 0 if there never was one.
    Absent { last: u64 },
    /// This document.
    Present(Document),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Replica {
    known: Known,
    delta: Delta,
    /// The highest version seen in this life of the shadow.
    seen: u64,
    /// Something was seen that only a `get` can settle.
    unsettled: bool,
}

impl Replica {
    pub(crate) fn new() -> Self {
        Self {
            known: Known::Nothing,
            delta: Delta::default(),
            seen: 0,
            unsettled: false,
        }
    }

    pub(crate) fn document(&self) -> Option<&Document> {
        match &self.known {
            Known::Present(document) => Some(document),
            Known::Nothing | Known::Absent { .. } => None,
        }
    }

    pub(crate) fn delta(&self) -> &Delta {
        &self.delta
    }

    /// Whether a `get` is needed to know the present document.
    pub(crate) fn is_behind(&self) -> bool {
        self.unsettled
            || match &self.known {
                Known::Present(document) => document.version < self.seen,
                Known::Absent { last } => *last < self.seen,
                Known::Nothing => self.seen > 0,
            }
    }

    /// To be remembered when a request is sent, and handed in with its answer.
    pub(crate) fn baseline(&self) -> u64 {
        self.seen
    }

    /// The answer to a `get` of ours that was sent at `baseline`.
    pub(crate) fn got(&mut self, document: Document, baseline: u64) {
        let made_anew = document.version < baseline;
        if made_anew || document.version >= self.seen || matches!(self.known, Known::Nothing) {
            if made_anew {
                self.seen = document.version;
            }
            self.unsettled = false;
            self.settle(document);
        } else {
            // Overtaken by newer messages, or by old ones of an earlier life: asking again tells which.
            self.unsettled = true;
        }
    }

    /// A `get` or a `delete` of ours, sent at `baseline`, was answered with "no such shadow".
    pub(crate) fn found_none(&mut self, baseline: u64) {
        if self.seen > baseline {
            // It was made while the answer was on its way, or what we saw since was late.
            self.unsettled = true;
            return;
        }
        self.unsettled = false;
        self.clear();
    }

    /// The shadow was deleted at `version`, by us or by somebody else.
    pub(crate) fn deleted(&mut self, version: Option<u64>) {
        if version.is_some_and(|version| version < self.seen) {
            // Late: it has been made anew. Or early, and what we saw was of the life before: asking tells.
            self.unsettled = true;
            return;
        }
        self.seen = version.unwrap_or(self.seen);
        self.clear();
        // Repeated after counting began again, this message would look just the same.
        self.unsettled = true;
    }

    /// A whole document that we did not ask for. One of the version that we have is welcome too: ours may come from
    /// merging a change into a shadow that was deleted and made anew in between.
    pub(crate) fn snapshot(&mut self, document: Document) {
        let same_version = self
            .document()
            .is_some_and(|known| known.version == document.version);
        if same_version || self.admits(document.version) {
            self.settle(document);
        }
    }

    /// What an update changed, by us or by somebody else.
    pub(crate) fn patch(&mut self, patch: Patch) {
        if !self.admits(patch.version) {
            return;
        }
        let before = patch.version.checked_sub(1);
        let mut next = match &self.known {
            Known::Present(document) if Some(document.version) == before => document.clone(),
            Known::Absent { last } if Some(*last) == before => Document::default(),
            _ => {
                self.seen = self.seen.max(patch.version);
                return;
            }
        };
        patch.desired.apply(&mut next.desired);
        patch.reported.apply(&mut next.reported);
        next.version = patch.version;
        if size(&next.desired).saturating_add(size(&next.reported)) > MAX_MESSAGE {
            self.seen = self.seen.max(patch.version);
            return;
        }
        self.settle(next);
    }

    /// A delta message.
    pub(crate) fn delta_arrived(&mut self, delta: Delta) {
        match delta.version {
            None => {
                self.delta = delta;
                self.unsettled = true;
            }
            Some(version) if self.seen < version => {
                self.seen = version;
                self.delta = delta;
            }
            Some(_) => self.unsettled |= matches!(self.known, Known::Absent { .. }),
        }
    }

    /// Whether a message of this version can bring something new. If that cannot be known, it is not admitted, but the
    /// replica is behind.
    fn admits(&mut self, version: u64) -> bool {
        match &self.known {
            Known::Present(document) => document.version < version,
            Known::Nothing => true,
            Known::Absent { last } => {
                let new = *last < version;
                self.unsettled |= !new;
                new
            }
        }
    }

    fn settle(&mut self, document: Document) {
        self.seen = self.seen.max(document.version);
        if document.version == self.seen {
            self.delta = Delta {
                state: document.delta(),
                version: Some(document.version),
            };
        }
        self.known = Known::Present(document);
    }

    fn clear(&mut self) {
        self.known = Known::Absent { last: self.seen };
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
        replica.snapshot(document(json!({"a": 1}), 1));
        replica.found_none(baseline);
        assert_eq!(replica.document(), Some(&document(json!({"a": 1}), 1)));
        assert!(replica.is_behind());
        replica.found_none(replica.baseline());
        assert_eq!(replica.document(), None);
        assert!(!replica.is_behind());
    }

    #[test]
    fn full_document_corrects_merge_across_missed_delete() {
        let mut replica = Replica::new();
        replica.got(document(json!({"old": 1}), 5), 0);
        replica.patch(patch(json!({"new": 1}), 6));
        replica.snapshot(document(json!({"new": 1}), 6));
        assert_eq!(replica.document(), Some(&document(json!({"new": 1}), 6)));
        assert_eq!(replica.delta().state, object(json!({"new": 1})));
    }

    #[test]
    fn stale_get_response_is_requested_again() {
        let mut replica = Replica::new();
        replica.got(document(json!({"a": 1}), 1), 0);
        let baseline = replica.baseline();
        replica.snapshot(document(json!({"a": 2}), 2));
        replica.got(document(json!({"a": 1}), 1), baseline);
        assert_eq!(replica.document(), Some(&document(json!({"a": 2}), 2)));
        assert!(replica.is_behind());
        replica.got(document(json!({"a": 2}), 2), replica.baseline());
        assert!(!replica.is_behind());
    }

    #[test]
    fn first_document_is_built_in_any_message_order() {
        let delta = Delta {
            state: object(json!({"a": 1})),
            version: Some(1),
        };
        let mut replica = Replica::new();
        replica.found_none(0);
        replica.delta_arrived(delta);
        assert!(replica.is_behind());
        replica.patch(patch(json!({"a": 1}), 1));
        assert_eq!(replica.document(), Some(&document(json!({"a": 1}), 1)));
        assert!(!replica.is_behind());
    }

    /// Whoever can publish on a shadow's topics could otherwise have it grow change by change.
    #[test]
    fn document_size_is_bounded() {
        let mut replica = Replica::new();
        replica.got(document(json!({"a": 1}), 1), 0);
        for version in 2..100 {
            replica.patch(patch(
                json!({ version.to_string(): "x".repeat(60_000) }),
                version,
            ));
        }
        let size = serde_json::to_string(&replica.document().unwrap().desired);
        assert!(size.unwrap().len() <= 128 * 1024);
        assert!(replica.is_behind());
        replica.got(document(json!({"a": 2}), 99), replica.baseline());
        assert!(!replica.is_behind());
    }

    #[test]
    fn maximum_version_is_accepted() {
        let mut replica = Replica::new();
        replica.got(document(json!({"a": 1}), u64::MAX), 0);
        replica.patch(patch(json!({"a": 2}), u64::MAX));
        replica.patch(patch(json!({"a": 2}), 0));
        replica.deleted(Some(u64::MAX));
        replica.patch(patch(json!({"a": 2}), 0));
        assert_eq!(replica.document(), None);
        replica.got(document(json!({"a": 3}), 1), replica.baseline());
        assert_eq!(replica.delta().state, object(json!({"a": 3})));
    }
}
