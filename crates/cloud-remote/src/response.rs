//! Reading a JSON answer of the platform without ever repeating its content in an error.
//!
//! serde's own messages quote the value that they did not expect, and here that value may be a token or a private key.
//! So an answer is read into a map and each field is taken out by name; errors carry names and positions only.

use serde_json::{Map, Value};
use zeroize::{Zeroize, Zeroizing};

/// No answer of the platform can be longer: AWS IoT Core carries at most 128 KiB in a message.
pub const MAX_RESPONSE_SIZE: usize = 128 * 1024;

/// Why an answer of the platform could not be used. Never quotes the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResponseError {
    /// Longer than any answer can be.
    #[error(
        "the platform's answer is {size} bytes long, more than the {MAX_RESPONSE_SIZE} allowed"
    )]
    TooLong {
        /// Its length in bytes.
        size: usize,
    },
    /// Not JSON, or cut off.
    #[error("the platform's answer is not JSON (line {line}, column {column})")]
    NotJson {
        /// Line of the first error, from 1.
        line: usize,
        /// Column of the first error, from 1.
        column: usize,
    },
    /// JSON, but not an object.
    #[error("the platform's answer is not a JSON object")]
    NotAnObject,
    /// A field that has to be there is not.
    #[error("the platform's answer has no field \"{field}\"")]
    Missing {
        /// The field's name.
        field: &'static str,
    },
    /// A field is there, but its value has another type.
    #[error("the field \"{field}\" of the platform's answer must be {expected}, not {found}")]
    WrongType {
        /// The field's name.
        field: &'static str,
        /// The type that it should have.
        expected: &'static str,
        /// The type that it has.
        found: &'static str,
    },
    /// A field is there, but its value cannot be used.
    #[error("the field \"{field}\" of the platform's answer is not {expected}")]
    Invalid {
        /// The field's name.
        field: &'static str,
        /// What it should have been.
        expected: &'static str,
    },
}

/// The fields of one answer; what is not taken out is ignored, and wiped.
pub(crate) struct ResponseFields(Map<String, Value>);

impl Drop for ResponseFields {
    fn drop(&mut self) {
        self.0.values_mut().for_each(wipe);
    }
}

/// Wipes the texts in a value. Its depth is bounded by the parser.
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

    /// Takes a text field out of the answer.
    pub(crate) fn text(&mut self, field: &'static str) -> Result<Zeroizing<String>, ResponseError> {
        match self.0.remove(field) {
            Some(Value::String(text)) => Ok(Zeroizing::new(text)),
            Some(Value::Null) | None => Err(ResponseError::Missing { field }),
            Some(other) => Err(wrong_type(field, STRING, &other)),
        }
    }

    /// Takes any field; null counts as absent.
    pub(crate) fn optional(&mut self, field: &'static str) -> Option<Value> {
        self.0.remove(field).filter(|value| !value.is_null())
    }
}

/// A JSON string, as an error calls it.
pub(crate) const STRING: &str = "a string";

/// A JSON number, as an error calls it.
pub(crate) const NUMBER: &str = "a number";

/// A value of a type other than the expected one. Says nothing of the value itself.
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
