//! `cloud_config.json`: one JSON object with exactly four string keys.
//!
//! Written byte for byte as the Python library writes it. Read strictly: a fifth key is an error here as it is there,
//! because a directory that only one of the two can read would look healthy until the day of the move. What we want
//! to keep beside these four goes into a file of its own.
//!
//! Protocol: `docs/protocol.md`, "On disk".

use serde_json::{Map, Value};

use crate::device::DeviceConfig;

/// The four keys, in the order in which they are written.
const KEYS: [&str; 4] = [
    "iot_thing_name",
    "iot_endpoint",
    "remote_endpoint",
    "access_point",
];

/// Most characters of a foreign key that an error repeats.
const SHOWN: usize = 40;

/// Why `cloud_config.json` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Zero bytes, or white space: typically a power cut while a less careful program wrote it.
    #[error("is empty")]
    Empty,
    /// A Windows editor's mark stands before it, which the Python library does not take either.
    #[error("begins with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// JSON that begins well and stops.
    #[error("is cut off (its JSON ends too early)")]
    Truncated,
    /// Not JSON.
    #[error("is not JSON (line {line}, column {column})")]
    NotJson {
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
    },
    /// JSON, and not an object.
    #[error("is not a JSON object")]
    NotAnObject,
    /// One of the four keys is absent.
    #[error("lacks the key `{0}`")]
    MissingKey(&'static str),
    /// A key beside the four.
    #[error("has a key that does not belong there: {0:?} (only {keys} do; remove it)", keys = KEYS.join(", "))]
    SurplusKey(String),
    /// One of the four has a value that is not a string.
    #[error("has a value for `{0}` that is not a string")]
    NotAString(&'static str),
}

/// The four values, present but not looked into yet.
pub(crate) struct Document {
    pub(crate) iot_thing_name: String,
    pub(crate) iot_endpoint: String,
    pub(crate) remote_endpoint: String,
    pub(crate) access_point: String,
}

pub(crate) fn parse(text: &str) -> Result<Document, DocumentError> {
    if text.trim().is_empty() {
        return Err(DocumentError::Empty);
    }
    if text.starts_with('\u{feff}') {
        return Err(DocumentError::ByteOrderMark);
    }
    let value: Value = serde_json::from_str(text).map_err(|error| match error.is_eof() {
        true => DocumentError::Truncated,
        false => DocumentError::NotJson {
            line: error.line(),
            column: error.column(),
        },
    })?;
    let Value::Object(mut map) = value else {
        return Err(DocumentError::NotAnObject);
    };
    let [thing, iot, remote, access] = KEYS;
    let document = Document {
        iot_thing_name: take(&mut map, thing)?,
        iot_endpoint: take(&mut map, iot)?,
        remote_endpoint: take(&mut map, remote)?,
        access_point: take(&mut map, access)?,
    };
    match map.into_iter().next() {
        Some((key, _)) => Err(DocumentError::SurplusKey(key.chars().take(SHOWN).collect())),
        None => Ok(document),
    }
}

fn take(map: &mut Map<String, Value>, key: &'static str) -> Result<String, DocumentError> {
    match map.remove(key) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(DocumentError::NotAString(key)),
        None => Err(DocumentError::MissingKey(key)),
    }
}

/// The bytes that Python's `json.dumps` would give: a blank after each colon and comma, no newline at the end.
/// All four values are ASCII by the rules of their types, so there is nothing to escape differently.
pub(crate) fn render(config: &DeviceConfig) -> String {
    let values = [
        config.iot_thing_name.to_string(),
        config.iot_endpoint.to_string(),
        config.remote_endpoint.to_string(),
        config.access_point.to_string(),
    ];
    let members: Vec<String> = KEYS
        .iter()
        .zip(values)
        .map(|(key, value)| format!("\"{key}\": {}", Value::String(value)))
        .collect();
    format!("{{{}}}", members.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"iot_thing_name": "SN1", "iot_endpoint": "a.b", "remote_endpoint": "c.d:8443", "access_point": "e.f"}"#;

    #[test]
    fn good_text_is_read_whatever_its_order_and_spacing() {
        let document = parse(GOOD).unwrap();
        assert_eq!(document.remote_endpoint, "c.d:8443");
        let other = "\n{\"access_point\":\"e.f\",\"remote_endpoint\":\"c\",\"iot_endpoint\":\"a\",\"iot_thing_name\":\"t\"}\n";
        assert_eq!(parse(other).unwrap().iot_thing_name, "t");
    }

    #[test]
    fn each_prefix_of_good_text_is_told_to_be_cut_off() {
        for end in 1..GOOD.len() {
            assert_eq!(
                parse(&GOOD[..end]).err(),
                Some(DocumentError::Truncated),
                "{end}"
            );
        }
        assert_eq!(parse("").err(), Some(DocumentError::Empty));
        assert_eq!(parse(" \n").err(), Some(DocumentError::Empty));
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert_eq!(
            parse("hello").err(),
            Some(DocumentError::NotJson { line: 1, column: 1 })
        );
        assert_eq!(
            parse(&format!("\u{feff}{GOOD}")).err(),
            Some(DocumentError::ByteOrderMark)
        );
        assert_eq!(parse("[]").err(), Some(DocumentError::NotAnObject));
        assert_eq!(parse("null").err(), Some(DocumentError::NotAnObject));
        assert_eq!(
            parse(&GOOD.replace("access_point", "excess_point")).err(),
            Some(DocumentError::MissingKey("access_point"))
        );
        assert_eq!(
            parse(&GOOD.replace("\"SN1\"", "7")).err(),
            Some(DocumentError::NotAString("iot_thing_name"))
        );
        assert_eq!(
            parse(&GOOD.replace('}', ", \"x\\n\": 1}")).err(),
            Some(DocumentError::SurplusKey("x\n".into()))
        );
    }
}
