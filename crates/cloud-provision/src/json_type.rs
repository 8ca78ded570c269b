//! Locates the value with the wrong type in a response.
//!
//! serde reports the offending value, which may be a private key, instead of its path. So a
//! response that does not deserialize is parsed again into types without values and compared with
//! the expected types.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::error::MalformedResponse;

/// The type of a JSON value, including the types of an object's members.
#[derive(Debug, PartialEq, Eq)]
enum JsonType {
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object(BTreeMap<String, JsonType>),
}

impl JsonType {
    fn name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "a boolean",
            Self::Number => "a number",
            Self::String => "a string",
            Self::Array => "an array",
            Self::Object(_) => "an object",
        }
    }

    /// Returns the type of the value at a dot-separated path.
    fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |value, key| match value {
            Self::Object(members) => members.get(key),
            _ => None,
        })
    }
}

const OBJECT: &str = "an object";
const STRING: &str = "a string";

/// Expected types by path, outermost first.
const EXPECTED: [(&str, &str); 15] = [
    ("registration", OBJECT),
    ("registration.thing", OBJECT),
    ("registration.thing.iot", OBJECT),
    ("registration.thing.iot.endpoint", STRING),
    ("registration.thing.iot.thing_name", STRING),
    ("registration.thing.iot.certificates", OBJECT),
    (
        "registration.thing.iot.certificates.device_certificate",
        STRING,
    ),
    ("registration.thing.iot.certificates.root_ca", STRING),
    ("registration.thing.iot.keyPair", OBJECT),
    ("registration.thing.iot.keyPair.privateKey", STRING),
    ("registration.thing.remote", OBJECT),
    ("registration.thing.remote.endpoint", STRING),
    ("registration.thing.remote.access_point", STRING),
    ("registration.thing.remote.cert", STRING),
    ("registration.thing.remote.pkey", STRING),
];

/// Finds the first value with an unexpected type. Null counts as absent.
///
/// # Errors
/// If the body is not JSON.
pub(crate) fn find_wrong(body: &[u8]) -> Result<Option<MalformedResponse>, serde_json::Error> {
    let response: JsonType = serde_json::from_slice(body)?;
    if !matches!(response, JsonType::Object(_)) {
        return Ok(Some(MalformedResponse::NotAnObject {
            found: response.name(),
        }));
    }
    let wrong = EXPECTED.into_iter().find_map(|(field, expected)| {
        let found = response.at(field)?;
        let fits = *found == JsonType::Null || found.name() == expected;
        (!fits).then(|| MalformedResponse::WrongType {
            field,
            expected,
            found: found.name(),
        })
    });
    Ok(wrong)
}

impl<'de> Deserialize<'de> for JsonType {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyType;

        impl<'de> Visitor<'de> for AnyType {
            type Value = JsonType;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any value")
            }

            fn visit_unit<E>(self) -> Result<JsonType, E> {
                Ok(JsonType::Null)
            }

            fn visit_bool<E>(self, _: bool) -> Result<JsonType, E> {
                Ok(JsonType::Boolean)
            }

            fn visit_i64<E>(self, _: i64) -> Result<JsonType, E> {
                Ok(JsonType::Number)
            }

            fn visit_u64<E>(self, _: u64) -> Result<JsonType, E> {
                Ok(JsonType::Number)
            }

            fn visit_f64<E>(self, _: f64) -> Result<JsonType, E> {
                Ok(JsonType::Number)
            }

            fn visit_str<E>(self, _: &str) -> Result<JsonType, E> {
                Ok(JsonType::String)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<JsonType, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(JsonType::Array)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<JsonType, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    members.insert(key, value);
                }
                Ok(JsonType::Object(members))
            }
        }

        deserializer.deserialize_any(AnyType)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_wrong_type_is_reported_with_its_path() {
        for (body, expected) in [
            ("[]", "it must be an object, not an array"),
            ("\"s3cret\"", "it must be an object, not a string"),
            (
                r#"{"registration": []}"#,
                "`registration` must be an object, not an array",
            ),
            (
                r#"{"registration": {"thing": {"iot": {"endpoint": 4711}}}}"#,
                "`registration.thing.iot.endpoint` must be a string, not a number",
            ),
            (
                r#"{"registration": {"thing": {"remote": {"pkey": ["s3cret"]}}}}"#,
                "`registration.thing.remote.pkey` must be a string, not an array",
            ),
            (
                r#"{"registration": {"thing": {"remote": {"cert": {"s3cret": 1}}}}}"#,
                "`registration.thing.remote.cert` must be a string, not an object",
            ),
            (
                r#"{"registration": {"thing": {"remote": {"cert": true}}}}"#,
                "`registration.thing.remote.cert` must be a string, not a boolean",
            ),
        ] {
            let found = find_wrong(body.as_bytes()).unwrap().unwrap();
            assert_eq!(found.to_string(), expected, "{body}");
            assert!(!format!("{found:?}").contains("s3cret"));
        }
        for fits in ["{}", r#"{"registration": {"thing": null, "x": [1.5e3]}}"#] {
            assert_eq!(find_wrong(fits.as_bytes()).unwrap(), None, "{fits}");
        }
    }
}
