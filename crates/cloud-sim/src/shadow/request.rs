//! Reading the payload of a request, and everything about it that can be judged without looking at
//! the shadow.

use serde::Deserialize;
use serde_json::{Map, Value};

use super::Rejection;
use super::limits::{MAX_DEPTH, MAX_DOCUMENT};
use super::update::{Change, Update};

/// A client token is at most this long, as in AWS IoT Core.
const MAX_CLIENT_TOKEN: usize = 64;

/// A payload as an object, and its client token. An empty payload is an empty object.
#[derive(Default)]
pub(super) struct Envelope {
    body: Map<String, Value>,
    pub(super) client_token: Option<String>,
}

impl Envelope {
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Rejection> {
        if payload.len() > MAX_DOCUMENT {
            return Err(Rejection::TooLarge);
        }
        let text = std::str::from_utf8(payload).map_err(|_| Rejection::NotUtf8)?;
        let mut body = if text.trim().is_empty() {
            Map::new()
        } else {
            serde_json::from_str(text).map_err(|_| Rejection::InvalidJson)?
        };
        let client_token = match body.remove("clientToken") {
            None => None,
            Some(Value::String(token)) if token.len() <= MAX_CLIENT_TOKEN => Some(token),
            Some(_) => return Err(Rejection::InvalidClientToken),
        };
        Ok(Self { body, client_token })
    }

    /// The client token of a payload that is refused for its size.
    pub(super) fn token_of_too_large(payload: &[u8]) -> Option<String> {
        #[derive(Deserialize)]
        struct Token {
            #[serde(rename = "clientToken")]
            client_token: String,
        }
        let Token { client_token } = serde_json::from_slice(payload).ok()?;
        (client_token.len() <= MAX_CLIENT_TOKEN).then_some(client_token)
    }

    /// Reads the rest of the payload as an update.
    pub(super) fn into_update(mut self) -> Result<Update, Rejection> {
        let version = match self.body.remove("version") {
            None => None,
            Some(version) => Some(version.as_u64().ok_or(Rejection::InvalidVersion)?),
        };
        let mut state = match self.body.remove("state") {
            None => return Err(Rejection::MissingState),
            Some(Value::Object(state)) => state,
            Some(_) => return Err(Rejection::NotAnObject("State")),
        };
        let desired = change("Desired", state.remove("desired"))?;
        let reported = change("Reported", state.remove("reported"))?;
        if let Some(section) = state.keys().next() {
            return Err(Rejection::InvalidNode(section.clone()));
        }
        Ok(Update {
            desired,
            reported,
            version,
        })
    }
}

fn change(section: &'static str, node: Option<Value>) -> Result<Change, Rejection> {
    match node {
        None => Ok(Change::Keep),
        Some(Value::Null) => Ok(Change::Clear),
        Some(Value::Object(patch)) => checked(patch).map(Change::Merge),
        Some(_) => Err(Rejection::NotAnObject(section)),
    }
}

/// Checks a patch for what no document may contain.
pub(super) fn checked(patch: Map<String, Value>) -> Result<Map<String, Value>, Rejection> {
    if patch.values().map(depth).max().unwrap_or(0) > MAX_DEPTH {
        return Err(Rejection::TooDeep);
    }
    for (key, value) in &patch {
        if has_null_in_array(value, false) {
            return Err(Rejection::InvalidNode(key.clone()));
        }
    }
    Ok(patch)
}

/// Levels of keys from this value downwards: 1 for a plain value.
fn depth(value: &Value) -> usize {
    let below = match value {
        Value::Object(map) => map.values().map(depth).max(),
        Value::Array(items) => items.iter().map(depth).max(),
        _ => None,
    };
    1 + below.unwrap_or(0)
}

fn has_null_in_array(value: &Value, inside_array: bool) -> bool {
    match value {
        Value::Null => inside_array,
        Value::Array(items) => items.iter().any(|item| has_null_in_array(item, true)),
        Value::Object(map) => map.values().any(|v| has_null_in_array(v, inside_array)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn update(payload: &Value) -> Result<Update, Rejection> {
        Envelope::parse(payload.to_string().as_bytes())?.into_update()
    }

    #[test]
    fn bad_payloads_have_typed_rejections() {
        let parse = |payload: &[u8]| Envelope::parse(payload).err();
        assert_eq!(parse(b"{"), Some(Rejection::InvalidJson));
        assert_eq!(parse(b"[]"), Some(Rejection::InvalidJson));
        assert_eq!(parse(b"\xff"), Some(Rejection::NotUtf8));
        assert_eq!(parse(&[b' '; 8193]), Some(Rejection::TooLarge));
        assert_eq!(
            parse(br#"{"clientToken":7}"#),
            Some(Rejection::InvalidClientToken)
        );
        let long = json!({ "clientToken": "t".repeat(65) }).to_string();
        assert_eq!(parse(long.as_bytes()), Some(Rejection::InvalidClientToken));
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"{}"), None);
    }

    #[test]
    fn bad_updates_have_typed_rejections() {
        let cases = [
            (json!({}), Rejection::MissingState),
            (json!({"state": null}), Rejection::NotAnObject("State")),
            (
                json!({"state": {"desired": 1}}),
                Rejection::NotAnObject("Desired"),
            ),
            (
                json!({"state": {"reported": []}}),
                Rejection::NotAnObject("Reported"),
            ),
            (
                json!({"state": {"wanted": {}}}),
                Rejection::InvalidNode("wanted".into()),
            ),
            (
                json!({"state": {}, "version": -1}),
                Rejection::InvalidVersion,
            ),
            (
                json!({"state": {}, "version": "1"}),
                Rejection::InvalidVersion,
            ),
            (
                json!({"state": {"desired": {"a": [1, null]}}}),
                Rejection::InvalidNode("a".into()),
            ),
            (
                json!({"state": {"desired": {"a": [{"b": null}]}}}),
                Rejection::InvalidNode("a".into()),
            ),
            (
                json!({"state": {"desired": {"1": {"2": {"3": {"4": {"5": {"6": 0}}}}}}}}),
                Rejection::TooDeep,
            ),
        ];
        for (payload, expected) in cases {
            assert_eq!(update(&payload), Err(expected), "{payload}");
        }
    }

    #[test]
    fn the_deepest_allowed_document_passes() {
        assert!(
            update(&json!({"state": {"desired": {"1": {"2": {"3": {"4": {"5": 0}}}}}}})).is_ok()
        );
    }

    #[test]
    fn null_section_clears_and_null_key_is_kept() {
        let update =
            update(&json!({"state": {"desired": null, "reported": {"a": null}}, "version": 3}))
                .unwrap();
        assert_eq!(update.desired, Change::Clear);
        assert_eq!(update.version, Some(3));
        assert_eq!(
            update.state(),
            json!({"desired": null, "reported": {"a": null}})
        );
    }

    #[test]
    fn depth_counts_arrays_too() {
        assert_eq!(depth(&json!(1)), 1);
        assert_eq!(depth(&json!({"a": [1]})), 3);
        assert_eq!(depth(&json!([])), 1);
    }
}
