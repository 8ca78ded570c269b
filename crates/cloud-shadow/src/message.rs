//! Payloads of the shadow service, parsed leniently: unknown keys are ignored, and only the needed
//! ones are required.

use cloud_net::UntrustedText;
use serde::{Deserialize, Deserializer};

use crate::document::{Change, Document, Object};
use crate::error::{Malformed, Rejection, RejectionCode};
use crate::topic::Operation;

/// Maximum size of a parsed message, in bytes: the limit of AWS IoT Core.
pub(crate) const MAX_MESSAGE: usize = 128 * 1024;

/// Parses the token that matches a response to its request. Parsed separately, so that a request
/// also fails when the rest of its response is unreadable.
pub(crate) fn client_token(payload: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Wire {
        client_token: Option<String>,
    }
    serde_json::from_slice::<Wire>(payload).ok()?.client_token
}

#[derive(Deserialize, Default)]
struct Sections {
    #[serde(default)]
    desired: Option<Object>,
    #[serde(default)]
    reported: Option<Object>,
}

#[derive(Deserialize)]
struct Whole {
    #[serde(default)]
    state: Option<Sections>,
    version: u64,
}

impl From<Whole> for Document {
    fn from(whole: Whole) -> Self {
        let state = whole.state.unwrap_or_default();
        Self {
            desired: state.desired.unwrap_or_default(),
            reported: state.reported.unwrap_or_default(),
            version: whole.version,
        }
    }
}

/// Parses `get/accepted`.
pub(crate) fn parse_document(payload: &[u8]) -> Result<Document, Malformed> {
    Ok(serde_json::from_slice::<Whole>(payload)?.into())
}

/// Parses the current document of `update/documents`.
pub(crate) fn parse_documents(payload: &[u8]) -> Result<Document, Malformed> {
    #[derive(Deserialize)]
    struct Wire {
        current: Whole,
    }
    let wire: Wire = serde_json::from_slice(payload)?;
    Ok(wire.current.into())
}

/// `update/accepted`: the change of an update, and its version.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Patch {
    pub(crate) desired: Change,
    pub(crate) reported: Change,
    pub(crate) version: u64,
}

pub(crate) fn parse_patch(payload: &[u8]) -> Result<Patch, Malformed> {
    #[derive(Deserialize, Default)]
    struct State {
        #[serde(default, deserialize_with = "mentioned")]
        desired: Option<Option<Object>>,
        #[serde(default, deserialize_with = "mentioned")]
        reported: Option<Option<Object>>,
    }
    #[derive(Deserialize)]
    struct Wire {
        #[serde(default)]
        state: Option<State>,
        version: u64,
    }
    fn change(section: Option<Option<Object>>) -> Change {
        match section {
            None => Change::Keep,
            Some(None) => Change::Clear,
            Some(Some(patch)) => Change::Merge(patch),
        }
    }
    let wire: Wire = serde_json::from_slice(payload)?;
    let state = wire.state.unwrap_or_default();
    Ok(Patch {
        desired: change(state.desired),
        reported: change(state.reported),
        version: wire.version,
    })
}

/// Distinguishes `null` from a missing section.
fn mentioned<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Option<Object>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Parses `delete/accepted`: the version at which the shadow was deleted.
pub(crate) fn parse_deleted(payload: &[u8]) -> Result<Option<u64>, Malformed> {
    #[derive(Deserialize)]
    struct Wire {
        version: Option<u64>,
    }
    let wire: Wire = serde_json::from_slice(payload)?;
    Ok(wire.version)
}

/// Parses `…/rejected`.
pub(crate) fn parse_rejection(
    operation: Operation,
    payload: &[u8],
) -> Result<Rejection, Malformed> {
    #[derive(Deserialize)]
    struct Wire {
        code: u16,
        #[serde(default)]
        message: Option<UntrustedText>,
    }
    let wire: Wire = serde_json::from_slice(payload)?;
    Ok(Rejection {
        operation,
        code: RejectionCode::from(wire.code),
        message: wire.message.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_support::object;
    use serde_json::json;

    #[test]
    fn missing_null_or_empty_section_is_empty() {
        for state in [
            json!({"desired": {}}),
            json!({"reported": null}),
            json!({}),
            json!(null),
        ] {
            let payload = json!({"state": state, "version": 4, "unknown": 1}).to_string();
            let document = parse_document(payload.as_bytes()).unwrap();
            assert_eq!(
                document,
                Document {
                    version: 4,
                    ..Document::default()
                }
            );
        }
        assert!(parse_document(br#"{"state": {}}"#).is_err());
    }

    #[test]
    fn patch_distinguishes_null_and_missing() {
        let payload = br#"{"state": {"desired": null, "reported": {"a": null}}, "version": 2}"#;
        let patch = parse_patch(payload).unwrap();
        assert_eq!(patch.desired, Change::Clear);
        assert_eq!(patch.reported, Change::Merge(object(json!({"a": null}))));
        assert_eq!(
            parse_patch(br#"{"version": 2}"#).unwrap().reported,
            Change::Keep
        );
    }

    #[test]
    fn documents_message_yields_current() {
        let payload = br#"{"previous": {"version": 1}, "current": {"state": {"reported": {"a": 1}}, "version": 2}}"#;
        let document = parse_documents(payload).unwrap();
        assert_eq!(
            (document.version, document.reported),
            (2, object(json!({"a": 1})))
        );
    }

    #[test]
    fn rejection_message_is_escaped_and_bounded() {
        let message = format!("\u{1b}[2J\u{9b}\r\n{}", "é".repeat(1000));
        let payload = json!({"code": 409, "message": message, "clientToken": "t"}).to_string();
        let rejection = parse_rejection(Operation::Update, payload.as_bytes()).unwrap();
        assert_eq!(rejection.code, RejectionCode::Conflict);
        let shown = rejection.to_string();
        assert!(shown.contains(r"409: \u{1b}[2J\u{9b}\r\né"), "{shown}");
        assert!(shown.chars().count() < 400, "{shown}");
        assert_eq!(client_token(payload.as_bytes()).as_deref(), Some("t"));
        assert_eq!(client_token(b"{"), None);
    }
}
