//! The shadow document, and the operations on it: merge, difference, and the smallest patch to a
//! given state.
//!
//! Invariant: these functions match the shadow service, so that a document kept up to date by
//! merging equals the response to a `get`.

use std::io;

use serde_json::{Map, Number, Value};

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

/// Returns whether two values are equal, where numbers are compared by value: 21 and 21.0 are the
/// same.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => is_same_number(one, other),
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other)
                    .all(|(one, other)| is_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && (one.iter())
                    .all(|(key, one)| other.get(key).is_some_and(|other| is_same(one, other)))
        }
        _ => one == other,
    }
}

fn is_same_number(one: &Number, other: &Number) -> bool {
    match (one.as_i128(), other.as_i128()) {
        (Some(one), Some(other)) => one == other,
        (None, None) => one.as_f64() == other.as_f64(),
        (Some(integer), None) => is_integer(other, integer),
        (None, Some(integer)) => is_integer(one, integer),
    }
}

/// Returns whether a double is this integer, which has 64 bits.
fn is_integer(double: &Number, integer: i128) -> bool {
    // The range of a 128-bit integer is far beyond, and within it the conversion is exact.
    (double.as_f64()).is_some_and(|double| double.fract() == 0.0 && double as i128 == integer)
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
            (value, Some(actual)) if is_same(value, actual) => {}
            (value, actual) if matters(value, actual.is_some()) => {
                found.insert(key.clone(), value.clone());
            }
            _ => {}
        }
    }
    found
}

/// Converts `json!({…})` into an object.
#[cfg(test)]
pub(crate) fn object(value: Value) -> Object {
    match value {
        Value::Object(map) => map,
        other => panic!("not an object: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
    fn numbers_are_compared_by_value() {
        for (one, other, same) in [
            (json!(21), json!(21.0), true),
            (json!([1, {"a": 2.0}]), json!([1.0, {"a": 2}]), true),
            (json!(0), json!(-0.0), true),
            (
                json!(9_007_199_254_740_993_u64),
                json!(9_007_199_254_740_992.0),
                false,
            ),
            (json!(u64::MAX), json!(18_446_744_073_709_551_616.0), false),
            (json!(i64::MIN), json!(i64::MIN as f64), true),
            (json!(21), json!(21.5), false),
            (json!(1e300), json!(1e300), true),
            (json!(21), json!("21"), false),
        ] {
            assert_eq!(is_same(&one, &other), same, "{one} {other}");
            assert_eq!(is_same(&other, &one), same, "{other} {one}");
        }
        let state = |value| object(json!({ "t": value }));
        assert!(patch_to(&state(json!(21.0)), &state(json!(21))).is_empty());
        assert!(difference(&state(json!(21)), &state(json!(21.0))).is_empty());
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
