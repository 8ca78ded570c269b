//! The delta message, in both of its forms.
//!
//! AWS's form has the difference as its `state`: `{"state": {"key": …}, "metadata": …, "timestamp":
//! …, "version": …}`. The nested form, which the original device library reads, has it one level
//! deeper, beside the whole desired section: `{"state": {"desired": {…}, "delta": {"key": …}}}`,
//! mostly without a version.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::document::Object;
use crate::error::Malformed;
use crate::raw_json::{Instead, LeftOut, entries, escape_invalid_utf8, get, read_object};

/// The desired values that the device has not reported.
#[derive(Debug, Clone, Default, PartialEq)]
#[non_exhaustive]
pub struct Delta {
    /// The different keys, each with its whole path. Empty: nothing to do.
    pub state: Object,
    /// The version of the document, if the message contains it.
    pub version: Option<u64>,
}

impl Delta {
    /// Returns whether device and cloud agree.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.is_empty()
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    state: &'a RawValue,
    version: Option<u64>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

/// Parses the payload of an `update/delta` message in either form.
///
/// ```
/// let aws = br#"{"state": {"remoteCertSn": "42"}, "version": 7, "timestamp": 1700000000}"#;
/// let nested = br#"{"state": {"desired": {"remoteCertSn": "42"}, "delta": {"remoteCertSn": "42"}}}"#;
/// for payload in [&aws[..], &nested[..]] {
///     assert_eq!(cloud_shadow::parse_delta(payload)?.state["remoteCertSn"], "42");
/// }
/// # Ok::<(), cloud_shadow::Malformed>(())
/// ```
///
/// # Errors
///
/// [`Malformed`] if the payload is not JSON, or `state` is not an object. A value that cannot be
/// represented (text that is not Unicode, a number beyond a double) is left out.
pub fn parse_delta(payload: &[u8]) -> Result<Delta, Malformed> {
    read_delta(&escape_invalid_utf8(payload), &mut LeftOut::default())
}

/// Parses a delta; `left_out` receives the values that cannot be represented.
pub(crate) fn read_delta(payload: &[u8], left_out: &mut LeftOut) -> Result<Delta, Malformed> {
    let Wire {
        state,
        version,
        metadata,
    } = serde_json::from_slice(payload)?;
    let mut state = read_object(state, Instead::Nothing, left_out)?;
    if is_nested(&state, metadata)
        && let Some(Value::Object(delta)) = state.remove("delta")
    {
        state = delta;
    }
    Ok(Delta { state, version })
}

/// Distinguishes the nested form from a desired state with keys named `delta` and `desired`: it has
/// no keys but a document's sections, both are objects, and the metadata, which in AWS's form
/// mirrors the state, has no `delta`.
fn is_nested(state: &Object, metadata: Option<&RawValue>) -> bool {
    let object = |key| matches!(state.get(key), Some(Value::Object(_)));
    let mirrors = |metadata| entries(metadata).is_ok_and(|keys| get(&keys, "delta").is_some());
    object("delta")
        && object("desired")
        && state
            .keys()
            .all(|key| matches!(key.as_str(), "delta" | "desired" | "reported"))
        && !metadata.is_some_and(mirrors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::object;
    use serde_json::json;

    fn parse(payload: Value) -> Delta {
        parse_delta(payload.to_string().as_bytes()).unwrap()
    }

    #[test]
    fn parses_aws_delta() {
        let delta = parse(json!({
            "version": 7, "timestamp": 1_700_000_000, "clientToken": "t",
            "state": {"remoteCertSn": "42", "deep": {"a": 1}},
            "metadata": {"remoteCertSn": {"timestamp": 1}},
        }));
        assert_eq!(delta.version, Some(7));
        assert_eq!(
            delta.state,
            object(json!({"remoteCertSn": "42", "deep": {"a": 1}}))
        );
    }

    #[test]
    fn numbers_are_kept_or_left_out() {
        let float = include_str!("../tests/cases/shadow-float.json");
        let delta = parse_delta(float.as_bytes()).unwrap();
        assert_eq!(delta.state["t"].to_string(), "117.63331139400017");
        let integer = include_str!("../tests/cases/shadow-bigint.json");
        let mut left_out = LeftOut::default();
        let delta = read_delta(integer.as_bytes(), &mut left_out).unwrap();
        assert!(delta.is_empty());
        assert_eq!(
            left_out.to_string(),
            "t: a number that cannot be represented"
        );
    }

    #[test]
    fn parses_nested_delta_with_and_without_version() {
        let state =
            json!({"desired": {"remoteCertSn": "42", "other": 1}, "delta": {"remoteCertSn": "42"}});
        let bare = parse(json!({ "state": state }));
        assert_eq!(
            bare,
            Delta {
                state: object(json!({"remoteCertSn": "42"})),
                version: None
            }
        );
        let versioned = parse(json!({"state": state, "version": 3, "metadata": {"desired": {}}}));
        assert_eq!(versioned.version, Some(3));
        assert_eq!(versioned.state, bare.state);
    }

    #[test]
    fn desired_key_named_delta_is_not_nested() {
        for state in [
            json!({"delta": {"a": 1}}),
            json!({"delta": 5, "desired": {"a": 1}}),
            json!({"delta": {"a": 1}, "desired": {}, "more": 1}),
        ] {
            assert_eq!(
                parse(json!({"state": state, "version": 1})).state,
                object(state)
            );
        }
        let state = json!({"delta": {"a": 1}, "desired": {"b": 1}});
        let metadata =
            json!({"delta": {"a": {"timestamp": 1}}, "desired": {"b": {"timestamp": 1}}});
        assert_eq!(
            parse(json!({"state": state, "metadata": metadata})).state,
            object(state)
        );
    }

    #[test]
    fn invalid_delta_is_an_error() {
        for payload in [
            &b""[..],
            b"{}",
            b"[]",
            br#"{"state": 1}"#,
            br#"{"state": {}, "version": -1}"#,
            b"\xff",
        ] {
            assert!(parse_delta(payload).is_err());
        }
    }
}
