//! The delta message, in both of its forms.
//!
//! AWS's form has the difference as its `state`: `{"state": {"key": …}, "metadata": …, "timestamp":
//! …, "version": …}`. The nested form, which the original device library reads, has it one level
//! deeper, beside the whole desired section: `{"state": {"desired": {…}, "delta": {"key": …}}}`,
//! mostly without a version.

use serde::Deserialize;
use serde_json::Value;

use crate::document::Object;
use crate::error::Malformed;

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
struct Wire {
    state: Object,
    version: Option<u64>,
    metadata: Option<Value>,
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
/// [`Malformed`] if the payload is not JSON, or `state` is not an object.
pub fn parse_delta(payload: &[u8]) -> Result<Delta, Malformed> {
    let Wire {
        mut state,
        version,
        metadata,
    } = serde_json::from_slice(payload)?;
    if is_nested(&state, metadata.as_ref())
        && let Some(Value::Object(delta)) = state.remove("delta")
    {
        state = delta;
    }
    Ok(Delta { state, version })
}

/// Distinguishes the nested form from a desired state with keys named `delta` and `desired`: it has
/// no keys but a document's sections, both are objects, and the metadata, which in AWS's form
/// mirrors the state, has no `delta`.
fn is_nested(state: &Object, metadata: Option<&Value>) -> bool {
    let object = |key| matches!(state.get(key), Some(Value::Object(_)));
    object("delta")
        && object("desired")
        && state
            .keys()
            .all(|key| matches!(key.as_str(), "delta" | "desired" | "reported"))
        && metadata.is_none_or(|metadata| metadata.get("delta").is_none())
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
