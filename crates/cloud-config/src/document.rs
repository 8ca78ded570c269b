//! `cloud_config.json`: one JSON object with exactly four string keys.
//!
//! Written byte for byte like the Python library's. Parsed strictly: a fifth key is an error in
//! both, so that no directory is readable by only one of them. Additional data goes into separate
//! files.

use serde_json::{Map, Value};

/// The four keys, in the order in which they are written.
const KEYS: [&str; 4] = [
    "iot_thing_name",
    "iot_endpoint",
    "remote_endpoint",
    "access_point",
];

/// Maximum number of characters of an unknown key in an error.
const MAX_SHOWN: usize = 40;

/// Reason that `cloud_config.json` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Empty or white space: typically a power cut during a non-atomic write.
    #[error("is empty")]
    Empty,
    /// A leading byte order mark, which the Python library rejects too.
    #[error("begins with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,
    /// Truncated JSON.
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
    /// JSON other than an object.
    #[error("is not a JSON object")]
    NotAnObject,
    /// One of the four keys is absent.
    #[error("lacks the key `{0}`")]
    MissingKey(&'static str),
    /// A fifth key.
    #[error("has a key that does not belong there: {0:?} (only {keys} do; remove it)", keys = KEYS.join(", "))]
    SurplusKey(String),
    /// One of the four values is not a string.
    #[error("has a value for `{0}` that is not a string")]
    NotAString(&'static str),
}

/// The four values, not yet validated.
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
        Some((key, _)) => Err(DocumentError::SurplusKey(
            key.chars().take(MAX_SHOWN).collect(),
        )),
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

impl Document {
    /// Renders the output of Python's `json.dumps`: a space after each colon and comma, no trailing
    /// newline. All four values are ASCII by their types, so no escaping differs.
    pub(crate) fn render(self) -> String {
        let values = [
            self.iot_thing_name,
            self.iot_endpoint,
            self.remote_endpoint,
            self.access_point,
        ];
        let members: Vec<String> = KEYS
            .iter()
            .zip(values)
            .map(|(key, value)| format!("\"{key}\": {}", Value::String(value)))
            .collect();
        format!("{{{}}}", members.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"iot_thing_name": "SN1", "iot_endpoint": "a.b", "remote_endpoint": "c.d:8443", "access_point": "e.f"}"#;

    #[test]
    fn valid_text_is_parsed_in_any_order_and_spacing() {
        let document = parse(GOOD).unwrap();
        assert_eq!(document.remote_endpoint, "c.d:8443");
        let other = "\n{\"access_point\":\"e.f\",\"remote_endpoint\":\"c\",\"iot_endpoint\":\"a\",\"iot_thing_name\":\"t\"}\n";
        assert_eq!(parse(other).unwrap().iot_thing_name, "t");
    }

    #[test]
    fn each_prefix_is_reported_as_truncated() {
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
    fn each_problem_has_its_own_error() {
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
