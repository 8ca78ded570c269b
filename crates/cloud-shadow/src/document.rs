//! The shadow document, and the operations on it: merge, difference, and the smallest patch to a
//! given state.
//!
//! Invariant: these functions match the shadow service, so that a document kept up to date by
//! merging equals the response to a `get`.

use std::io;

use serde_json::{Map, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

/// A shadow document at one version. A section that the cloud does not have is empty.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Document {
    /// The state that the cloud requests.
    pub desired: Object,
    /// The state that the device last reported.
    pub reported: Object,
    /// Increases by one with every update.
    pub version: u64,
}

impl Document {
    /// Returns the keys of `desired` that are missing or different in `reported`, each with its
    /// whole path.
    #[must_use]
    pub fn delta(&self) -> Object {
        difference(&self.desired, &self.reported)
    }
}

/// Returns the size of a section in bytes of JSON.
pub(crate) fn size(section: &Object) -> usize {
    struct Count(usize);

    impl io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let mut count = Count(0);
    match serde_json::to_writer(&mut count, section) {
        Ok(()) => count.0,
        Err(_) => usize::MAX,
    }
}

/// The change of one section by an accepted update.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Keep,
    Clear,
    Merge(Object),
}

impl Change {
    pub(crate) fn apply(self, section: &mut Object) {
        match self {
            Self::Keep => {}
            Self::Clear => section.clear(),
            Self::Merge(patch) => merge(section, patch),
        }
    }
}

/// Merges objects; `null` removes, any other value (including arrays) replaces.
pub(crate) fn merge(section: &mut Object, patch: Object) {
    for (key, value) in patch {
        match (value, section.get_mut(&key)) {
            (Value::Null, _) => {
                section.remove(&key);
            }
            (Value::Object(patch), Some(Value::Object(below))) => merge(below, patch),
            (Value::Object(patch), _) => {
                let mut below = Object::new();
                merge(&mut below, patch);
                section.insert(key, Value::Object(below));
            }
            (value, _) => {
                section.insert(key, value);
            }
        }
    }
}

/// Returns the part of `wanted` that is missing or different in `actual`.
pub(crate) fn difference(wanted: &Object, actual: &Object) -> Object {
    collect_difference(wanted, actual, |_, _| true)
}

/// Returns the smallest patch after which `actual` contains all of `wanted`; `null` in `wanted`
/// means that the key must be absent.
pub(crate) fn patch_to(wanted: &Object, actual: &Object) -> Object {
    collect_difference(wanted, actual, |value, present| present || !value.is_null())
}

fn collect_difference(
    wanted: &Object,
    actual: &Object,
    matters: fn(&Value, bool) -> bool,
) -> Object {
    let mut found = Object::new();
    for (key, value) in wanted {
        match (value, actual.get(key)) {
            (Value::Object(value), Some(Value::Object(actual))) => {
                let below = collect_difference(value, actual, matters);
                if !below.is_empty() {
                    found.insert(key.clone(), Value::Object(below));
                }
            }
            (value, Some(actual)) if value == actual => {}
            (value, actual) if matters(value, actual.is_some()) => {
                found.insert(key.clone(), value.clone());
            }
            _ => {}
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::object;
    use proptest::prelude::*;
    use serde_json::json;

    fn merged(state: Value, patch: Value) -> Value {
        let mut state = object(state);
        merge(&mut state, object(patch));
        Value::Object(state)
    }

    #[test]
    fn merge_matches_the_service() {
        assert_eq!(
            merged(
                json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "gone": 1, "leaf": 1}),
                json!({"a": {"c": 3, "x": null}, "l": [9], "gone": null, "leaf": {"d": 1, "n": null}, "none": null})
            ),
            json!({"a": {"b": 1, "c": 3}, "l": [9], "leaf": {"d": 1}})
        );
    }

    #[test]
    fn delta_has_whole_paths() {
        let wanted = object(
            json!({"same": 1, "deep": {"same": 1, "other": 2}, "list": [1], "new": {"a": 1}}),
        );
        let actual =
            object(json!({"same": 1, "deep": {"same": 1, "other": 3}, "list": [1, 2], "extra": 1}));
        assert_eq!(
            Value::Object(difference(&wanted, &actual)),
            json!({"deep": {"other": 2}, "list": [1], "new": {"a": 1}})
        );
    }

    #[test]
    fn patch_omits_unchanged_values() {
        let wanted = object(
            json!({"same": 1, "changed": 2, "remove": null, "absent": null, "deep": {"same": 1}}),
        );
        let actual =
            object(json!({"same": 1, "changed": 1, "remove": 1, "deep": {"same": 1, "more": 1}}));
        assert_eq!(
            Value::Object(patch_to(&wanted, &actual)),
            json!({"changed": 2, "remove": null})
        );
    }

    proptest! {
        #[test]
        fn merging_the_patch_completes_it(
            wanted in crate::test_support::any_patch(),
            actual in crate::test_support::any_state(),
        ) {
            let mut direct = actual.clone();
            merge(&mut direct, wanted.clone());
            let mut small = actual.clone();
            merge(&mut small, patch_to(&wanted, &actual));
            prop_assert_eq!(&small, &direct);
            prop_assert!(patch_to(&wanted, &small).is_empty());
        }

        #[test]
        fn merging_the_difference_removes_it(
            wanted in crate::test_support::any_state(),
            actual in crate::test_support::any_state(),
        ) {
            let mut next = actual.clone();
            merge(&mut next, difference(&wanted, &actual));
            prop_assert!(difference(&wanted, &next).is_empty());
        }
    }
}
