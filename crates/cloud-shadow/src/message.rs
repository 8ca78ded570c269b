//! Payloads of the shadow service, parsed leniently: unknown keys are ignored, and only the needed
//! ones are required.

use std::time::SystemTime;

use cloud_net::{UntrustedText, from_unix_seconds};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::document::{Change, Document, Object};
use crate::error::{Malformed, Rejection, RejectionCode};
use crate::raw_json::{Instead, LeftOut, entries, get, read_object, text};
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

#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow, default)]
    state: Option<&'a RawValue>,
    version: u64,
}

impl Whole<'_> {
    /// Returns a section, which is `None` if it is missing.
    fn section(
        &self,
        name: &str,
        instead: Instead,
        left_out: &mut LeftOut,
    ) -> Result<Option<Change>, Malformed> {
        let Some(state) = self.state.filter(|state| !is_null(state)) else {
            return Ok(None);
        };
        Ok(match get(&entries(state)?, name) {
            None => None,
            Some(section) if is_null(section) => Some(Change::Clear),
            Some(section) => Some(Change::Merge(read_object(section, instead, left_out)?)),
        })
    }

    fn document(self, left_out: &mut LeftOut) -> Result<Document, Malformed> {
        let mut section = |name| -> Result<Object, Malformed> {
            match self.section(name, Instead::Nothing, left_out)? {
                Some(Change::Merge(section)) => Ok(section),
                _ => Ok(Object::new()),
            }
        };
        Ok(Document {
            desired: section("desired")?,
            reported: section("reported")?,
            version: self.version,
        })
    }
}

fn is_null(raw: &RawValue) -> bool {
    raw.get() == "null"
}

/// Returns the time of a message of the shadow service.
#[must_use]
pub fn parse_timestamp(payload: &[u8]) -> Option<SystemTime> {
    #[derive(Deserialize)]
    struct Wire {
        timestamp: i64,
    }
    let wire: Wire = serde_json::from_slice(payload).ok()?;
    Some(from_unix_seconds(wire.timestamp))
}

/// Parses `get/accepted`.
pub(crate) fn parse_document(
    payload: &[u8],
    left_out: &mut LeftOut,
) -> Result<Document, Malformed> {
    serde_json::from_slice::<Whole<'_>>(payload)?.document(left_out)
}

/// Parses the current document of `update/documents`.
pub(crate) fn parse_documents(
    payload: &[u8],
    left_out: &mut LeftOut,
) -> Result<Document, Malformed> {
    #[derive(Deserialize)]
    struct Wire<'a> {
        #[serde(borrow)]
        current: Whole<'a>,
    }
    let wire: Wire<'_> = serde_json::from_slice(payload)?;
    wire.current.document(left_out)
}

/// `update/accepted`: the change of an update, and its version.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Patch {
    pub(crate) desired: Change,
    pub(crate) reported: Change,
    pub(crate) version: u64,
}

pub(crate) fn parse_patch(payload: &[u8], left_out: &mut LeftOut) -> Result<Patch, Malformed> {
    let whole: Whole<'_> = serde_json::from_slice(payload)?;
    let mut change = |name| whole.section(name, Instead::Null, left_out);
    Ok(Patch {
        desired: change("desired")?.unwrap_or(Change::Keep),
        reported: change("reported")?.unwrap_or(Change::Keep),
        version: whole.version,
    })
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
    struct Wire<'a> {
        code: u16,
        #[serde(borrow, default)]
        message: Option<&'a RawValue>,
    }
    let wire: Wire<'_> = serde_json::from_slice(payload)?;
    let message = wire.message.and_then(text);
    Ok(Rejection {
        operation,
        code: RejectionCode::from(wire.code),
        message: message.map(UntrustedText::from).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raw_json::escape_invalid_utf8;
    use crate::test_support::object;
    use serde_json::json;

    fn document(payload: &[u8]) -> Result<Document, Malformed> {
        parse_document(payload, &mut LeftOut::default())
    }

    /// Reads a case whose state is a whole document, or its `state` a section.
    fn case(payload: &str) -> (Document, String) {
        let mut left_out = LeftOut::default();
        let document = parse_document(payload.as_bytes(), &mut left_out).unwrap();
        (document, left_out.to_string())
    }

    #[test]
    fn unreadable_value_costs_only_itself() {
        let deep = format!("{}1{}", "[".repeat(130), "]".repeat(130));
        let deep = format!(
            r#"{{"state":{{"desired":{{"remoteCertSn":"42","d":{deep}}}}},"metadata":{{"desired":{{"d":{deep}}}}},"version":3}}"#
        );
        let integer = r#"{"state":{"desired":{"remoteCertSn":"42","n":{"i":12345678901234567890123}}},"version":3}"#;
        let tiny = r#"{"state":{"desired":{"remoteCertSn":"42","t":1e-400}},"version":3}"#;
        let key = r#"{"state":{"desired":{"remoteCertSn":"42","\ud83d":1}},"version":3}"#;
        let array =
            r#"{"state":{"desired":{"remoteCertSn":"42","a":[1,{"b":"\ud83d"}]}},"version":3}"#;
        for (payload, path) in [
            (
                include_str!("../tests/cases/shadow-lone-surrogate.json"),
                "label: text",
            ),
            (
                include_str!("../tests/cases/shadow-1e400.json"),
                "t: a number",
            ),
            (&deep, "d: nested"),
            (integer, "n.i: a number"),
            (tiny, "t: a number"),
            (key, r"\\ud83d: text"),
            (array, "a: text"),
        ] {
            let (document, left_out) = case(payload);
            assert!(left_out.contains(path), "{left_out}");
            assert_eq!(document.desired["remoteCertSn"], "42");
            let rest = document.desired.keys().filter(|key| *key != "n");
            assert_eq!(rest.collect::<Vec<_>>(), ["remoteCertSn"], "{left_out}");
            assert_eq!(document.version, 3);

            // A change removes what the document can no longer know.
            let patch = parse_patch(payload.as_bytes(), &mut LeftOut::default()).unwrap();
            let mut section = object(json!({"label": 1, "t": 1, "d": 1, "a": 1, "n": {"i": 1}}));
            patch.desired.apply(&mut section);
            assert_eq!(section["remoteCertSn"], "42");
            let removed = !left_out.contains("ud83d: text") && !left_out.contains("n.i");
            assert_eq!(section.len(), if removed { 5 } else { 6 }, "{left_out}");
        }
    }

    #[test]
    fn invalid_utf8_costs_only_its_value() {
        let payload = b"{\"state\":{\"desired\":{\"remoteCertSn\":\"42\",\"a\":\"\xff\",\
            \"b\":\"\\ud83d\xc3\",\"\xfe\":1,\"c\":[\"\xe9t\xe9\"],\"d\":\"\\\xff\"}},\
            \"metadata\":{\"\xfe\":0},\"version\":3}";
        let escaped = escape_invalid_utf8(payload);
        let mut left_out = LeftOut::default();
        let read = parse_document(&escaped, &mut left_out).unwrap();
        assert_eq!(read.desired, object(json!({"remoteCertSn": "42"})));
        assert_eq!(read.version, 3);
        let shown = left_out.to_string();
        assert!(shown.starts_with("a: text that is not Unicode"), "{shown}");
        assert!(shown.ends_with("and 1 more"), "{shown}");
        let delta = b"{\"state\":{\"a\":\"\xff\",\"remoteCertSn\":\"42\"}}";
        let delta = crate::parse_delta(delta).unwrap();
        assert_eq!(delta.state, object(json!({"remoteCertSn": "42"})));
        // Outside a text it is no JSON.
        assert!(document(&escape_invalid_utf8(b"{\"state\":\xff,\"version\":3}")).is_err());

        let rejection = escape_invalid_utf8(b"{\"code\":409,\"message\":\"\xff\"}").into_owned();
        let rejection = parse_rejection(Operation::Update, &rejection).unwrap();
        assert_eq!(rejection.code, RejectionCode::Conflict);
    }

    #[test]
    fn numbers_are_kept_as_sent() {
        for (source, kept) in [
            ("117.63331139400017", Some("117.63331139400017")),
            ("-0.1", Some("-0.1")),
            ("5e-324", Some("5e-324")),
            ("0e9", Some("0.0")),
            ("9223372036854775808", Some("9223372036854775808")),
            ("-9223372036854775808", Some("-9223372036854775808")),
            ("10000000000000000000000", Some("1e+22")),
            ("18446744073709551617", None),
            ("-12345678901234567890123", None),
            ("1e400", None),
            ("1e-400", None),
        ] {
            let payload = format!(r#"{{"state":{{"reported":{{"t":{source}}}}},"version":2}}"#);
            let (document, left_out) = case(&payload);
            let shown = document.reported.get("t").map(ToString::to_string);
            assert_eq!(shown.as_deref(), kept, "{source}");
            assert_eq!(left_out.is_empty(), kept.is_some(), "{source}");
        }
    }

    #[test]
    fn missing_null_or_empty_section_is_empty() {
        for state in [
            json!({"desired": {}}),
            json!({"reported": null}),
            json!({}),
            json!(null),
        ] {
            let payload = json!({"state": state, "version": 4, "unknown": 1}).to_string();
            let document = document(payload.as_bytes()).unwrap();
            assert_eq!(
                document,
                Document {
                    version: 4,
                    ..Document::default()
                }
            );
        }
        assert!(document(br#"{"state": {}}"#).is_err());
    }

    #[test]
    fn patch_distinguishes_null_and_missing() {
        let payload = br#"{"state": {"desired": null, "reported": {"a": null}}, "version": 2}"#;
        let patch = parse_patch(payload, &mut LeftOut::default()).unwrap();
        assert_eq!(patch.desired, Change::Clear);
        assert_eq!(patch.reported, Change::Merge(object(json!({"a": null}))));
        assert_eq!(
            parse_patch(br#"{"version": 2}"#, &mut LeftOut::default())
                .unwrap()
                .reported,
            Change::Keep
        );
    }

    #[test]
    fn documents_message_yields_current() {
        let payload = br#"{"previous": {"version": 1}, "current": {"state": {"reported": {"a": 1}}, "version": 2}}"#;
        let document = parse_documents(payload, &mut LeftOut::default()).unwrap();
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
