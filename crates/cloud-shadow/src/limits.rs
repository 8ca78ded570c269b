//! Limits of the shadow service, checked before a request is sent.

use serde_json::Value;

use crate::document::Object;

/// Maximum size of a request in AWS IoT Core, and of a document without metadata. In bytes.
const MAX_REQUEST: usize = 8 * 1024;

/// Reserved for the envelope of the state in a request: `{"state":…,"clientToken":"…","version":…}`
/// has 58 bytes, with the token (at most 37) 95, and with a version of 20 digits 115.
const ENVELOPE: usize = 128;

/// Maximum size of a `state`, in bytes of JSON.
pub const MAX_STATE: usize = MAX_REQUEST - ENVELOPE;

/// Maximum nesting inside `desired` or `reported`; the section's own keys are the first level.
/// AWS's documents name 5, 6 and 8; all of them permit five.
pub const MAX_DEPTH: usize = 5;

/// A state that is not sent, because the shadow service would reject it. It is an error of the
/// caller; a retry does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidState {
    /// A section is neither an object nor `null`.
    #[error("the {0} state must be a JSON object, or null to remove it")]
    NotAnObject(&'static str),
    /// The update has neither section.
    #[error("the update has neither a desired nor a reported state")]
    Empty,
    /// Nested too deeply.
    #[error("the state under {key:?} is nested {depth} levels deep; a shadow takes {MAX_DEPTH}")]
    TooDeep {
        /// The key of the section.
        key: String,
        /// Its levels.
        depth: usize,
    },
    /// Too large.
    #[error("the state has {size} bytes; a shadow takes {MAX_STATE}")]
    TooLarge {
        /// Bytes of JSON.
        size: usize,
    },
    /// `null` inside an array.
    #[error("an array under {key:?} holds null, which a shadow does not take")]
    NullInArray {
        /// The key of the section.
        key: String,
    },
}

/// Validates one section.
pub(crate) fn check_section(section: &Object) -> Result<(), InvalidState> {
    for (key, value) in section {
        let depth = depth(value);
        if depth > MAX_DEPTH {
            return Err(InvalidState::TooDeep {
                key: key.clone(),
                depth,
            });
        }
        if has_null_in_array(value, false) {
            return Err(InvalidState::NullInArray { key: key.clone() });
        }
    }
    Ok(())
}

/// Validates the size of a whole `state` node.
pub(crate) fn check_size(state: &Value) -> Result<(), InvalidState> {
    let size = state.to_string().len();
    if size > MAX_STATE {
        return Err(InvalidState::TooLarge { size });
    }
    Ok(())
}

fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Object(map) => map.values().map(depth).max(),
        Value::Array(items) => items.iter().map(depth).max(),
        _ => None,
    };
    1 + below.unwrap_or(0)
}

fn has_null_in_array(value: &Value, inside: bool) -> bool {
    match value {
        Value::Null => inside,
        Value::Array(items) => items.iter().any(|item| has_null_in_array(item, true)),
        Value::Object(map) => map.values().any(|value| has_null_in_array(value, inside)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::object;
    use serde_json::json;

    #[test]
    fn limits_are_exact() {
        let five = json!({"1": {"2": {"3": {"4": {"5": 0}}}}});
        assert_eq!(check_section(&object(five)), Ok(()));
        let six = json!({"1": {"2": {"3": {"4": {"5": [0]}}}}});
        assert_eq!(
            check_section(&object(six)),
            Err(InvalidState::TooDeep {
                key: "1".into(),
                depth: 6
            })
        );
        let text = |len: usize| json!({ "a": "x".repeat(len - 8) });
        assert_eq!(check_size(&text(MAX_STATE)), Ok(()));
        assert_eq!(
            check_size(&text(MAX_STATE + 1)),
            Err(InvalidState::TooLarge {
                size: MAX_STATE + 1
            })
        );
    }

    #[test]
    fn null_in_arrays_is_rejected() {
        assert_eq!(
            check_section(&object(json!({"a": null, "b": {"c": null}, "l": [1]}))),
            Ok(())
        );
        for bad in [
            json!({"l": [null]}),
            json!({"l": [{"a": null}]}),
            json!({"l": [[null]]}),
        ] {
            assert_eq!(
                check_section(&object(bad)),
                Err(InvalidState::NullInArray { key: "l".into() })
            );
        }
    }
}
