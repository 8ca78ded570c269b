//! Payloads of messages in JSON: text, a JSON value, or base64.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use cloud_facade::bytes::Bytes;
use cloud_facade::iot::MessageProperties;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api_error::ApiError;
use crate::time_fmt::now;

/// Exactly one of the three forms.
#[derive(Debug, Deserialize)]
pub(super) struct Payload {
    payload: Option<String>,
    #[serde(default, deserialize_with = "present")]
    json: Option<Value>,
    base64: Option<String>,
}

/// Distinguishes `null` from a missing field.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Payload {
    /// Returns the bytes.
    ///
    /// # Errors
    /// There is not exactly one form, or the base64 is invalid.
    pub(super) fn bytes(self) -> Result<Bytes, ApiError> {
        match (self.payload, self.json, self.base64) {
            (Some(text), None, None) => Ok(text.into()),
            (None, Some(value), None) => Ok(value.to_string().into()),
            (None, None, Some(text)) => decode("base64", &text),
            _ => Err(ApiError::invalid(
                "give the payload in one of the fields payload (text), json and base64",
            )),
        }
    }
}

/// Decodes base64.
///
/// # Errors
/// It is invalid; the error names the field.
pub(super) fn decode(field: &str, text: &str) -> Result<Bytes, ApiError> {
    let decoded = STANDARD.decode(text);
    decoded
        .map(Bytes::from)
        .map_err(|error| ApiError::invalid(format!("{field}: {error}")))
}

/// Adds a payload to an object: `payload` if it is text, else `base64`.
pub(super) fn add_payload(object: &mut Map<String, Value>, payload: &[u8]) {
    match std::str::from_utf8(payload) {
        Ok(text) => object.insert("payload".to_owned(), text.into()),
        Err(_) => object.insert("base64".to_owned(), STANDARD.encode(payload).into()),
    };
}

/// Adds the properties that a message has to an object, under the names of `publish`.
pub(super) fn add_properties(object: &mut Map<String, Value>, properties: &MessageProperties) {
    let mut add = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            object.insert(name.to_owned(), value);
        }
    };
    add(
        "content_type",
        properties.content_type.clone().map(Value::from),
    );
    add(
        "response_topic",
        properties.response_topic.clone().map(Value::from),
    );
    let data = properties.correlation_data.as_ref();
    add(
        "correlation_data",
        data.map(|data| STANDARD.encode(data).into()),
    );
    let pairs = &properties.user_properties;
    add("user_properties", (!pairs.is_empty()).then(|| json!(pairs)));
}

/// Returns the line about lost messages.
pub(super) fn missed(messages: u64) -> Value {
    json!({ "event": "missed", "messages": messages, "ts": now() })
}
