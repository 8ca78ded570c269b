//! The shadow's document as the device knows it, and the arithmetic on it: merging a patch, the difference that is left,
//! and the smallest patch that leads to a wanted state.
//!
//! Invariant: these functions do what the shadow service does, so that a document kept up to date by merging is the one
//! that a `get` would bring.
//!
//! Protocol: `docs/protocol.md`, "Shadows".

use std::io;

use serde_json::{Map, Value};

/// A JSON object.
pub type Object = Map<String, Value>;

/// A shadow's document at one version. A section that the cloud does not have is empty here.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Document {
    /// What the cloud wants of the device.
    pub desired: Object,
    /// What the device last said of itself.
    pub reported: Object,
    /// Goes up by one with every update.
    pub version: u64,
}

impl Document {
    /// The keys of `desired` that `reported` lacks or has otherwise, each with its whole path.
    #[must_use]
    pub fn delta(&self) -> Object {
        difference(&self.desired, &self.reported)
    }
}

/// Bytes of JSON that a section takes.
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

/// What an accepted update did to one section.
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

/// Objects merge, `null` removes, everything else (arrays too) replaces.
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

/// The part of `wanted` that `actual` lacks or has otherwise.
pub(crate) fn difference(wanted: &Object, actual: &Object) -> Object {
    collect_difference(wanted, actual, |_, _| true)
}

/// The smallest patch that makes `actual` have all of `wanted`, in which `null` says that a key shall not be there.
pub(crate) fn patch_towards(wanted: &Object, actual: &Object) -> Object {
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
            Value::Object(patch_towards(&wanted, &actual)),
            json!({"changed": 2, "remove": null})
        );
    }

    proptest! {
        #[test]
        fn merging_the_patch_leaves_nothing_to_patch(
            wanted in crate::test_support::any_patch(),
            actual in crate::test_support::any_state(),
        ) {
            let mut direct = actual.clone();
            merge(&mut direct, wanted.clone());
            let mut small = actual.clone();
            merge(&mut small, patch_towards(&wanted, &actual));
            prop_assert_eq!(&small, &direct);
            prop_assert!(patch_towards(&wanted, &small).is_empty());
        }

        #[test]
        fn merging_the_difference_leaves_none(
            wanted in crate::test_support::any_state(),
            actual in crate::test_support::any_state(),
        ) {
            let mut next = actual.clone();
            merge(&mut next, difference(&wanted, &actual));
            prop_assert!(difference(&wanted, &next).is_empty());
        }
    }
}
