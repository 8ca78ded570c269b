//! Parses the platform's JSON responses without repeating their content in errors.
//!
//! serde's messages quote the unexpected value, which may be a token or a private key. So a
//! response is parsed into a map, from which each field is taken by name; errors contain names and
//! positions only.

use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

/// The maximum length of a response: AWS IoT Core limits a message to 128 KiB.
pub const MAX_RESPONSE_SIZE: usize = 128 * 1024;

/// An error of parsing a response of the platform. Never quotes the response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// The response is longer than the maximum.
    #[error(
        "the platform's response is {size} bytes long, more than the {MAX_RESPONSE_SIZE} allowed"
    )]
    TooLong {
        /// Its length in bytes.
        size: usize,
    },
    /// The response is not JSON, or is truncated.
    #[error("the platform's response is not JSON (line {line}, column {column})")]
    NotJson {
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
    },
    /// The response is JSON, but not an object.
    #[error("the platform's response is not a JSON object")]
    NotAnObject,
    /// A required field is missing.
    #[error("the platform's response has no field \"{field}\"")]
    Missing {
        /// The field's name.
        field: &'static str,
    },
    /// A field has a value of another type.
    #[error("the field \"{field}\" of the platform's response must be {expected}, not {found}")]
    WrongType {
        /// The field's name.
        field: &'static str,
        /// The expected type.
        expected: &'static str,
        /// The actual type.
        found: &'static str,
    },
    /// A field has an invalid value.
    #[error("the field \"{field}\" of the platform's response is not {expected}")]
    Invalid {
        /// The field's name.
        field: &'static str,
        /// The expected value.
        expected: &'static str,
    },
}

/// The fields of a response. Fields that are not taken are ignored and zeroized.
pub(crate) struct ResponseFields(Map<String, Value>);

impl Drop for ResponseFields {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

/// Zeroizes the strings in a value. The parser limits its depth.
fn wipe(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(values) => values.iter_mut().for_each(wipe),
        Value::Object(map) => map.values_mut().for_each(wipe),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

impl ResponseFields {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, ResponseError> {
        if json.len() > MAX_RESPONSE_SIZE {
            return Err(ResponseError::TooLong { size: json.len() });
        }
        match serde_json::from_slice(json) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(ResponseError::NotAnObject),
            Err(error) => Err(ResponseError::NotJson {
                line: error.line(),
                column: error.column(),
            }),
        }
    }

    /// Takes a string field.
    pub(crate) fn text(&mut self, field: &'static str) -> Result<Zeroizing<String>, ResponseError> {
        match self.0.remove(field) {
            Some(Value::String(text)) => Ok(Zeroizing::new(text)),
            Some(Value::Null) | None => Err(ResponseError::Missing { field }),
            Some(other) => Err(wrong_type(field, STRING, &other)),
        }
    }

    /// Takes any field; null counts as missing.
    pub(crate) fn optional(&mut self, field: &'static str) -> Option<Value> {
        self.0.remove(field).filter(|value| !value.is_null())
    }
}

/// The name of a JSON string in errors.
pub(crate) const STRING: &str = "a string";

/// The name of a JSON number in errors.
pub(crate) const NUMBER: &str = "a number";

/// Returns the error for a value of another type, without the value itself.
pub(crate) fn wrong_type(
    field: &'static str,
    expected: &'static str,
    value: &Value,
) -> ResponseError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => NUMBER,
        Value::String(_) => STRING,
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    ResponseError::WrongType {
        field,
        expected,
        found,
    }
}
