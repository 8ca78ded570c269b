//! The JSON body of a response.
//!
//! Unknown keys are ignored at every level. An absent `error` counts as null; any other value means
//! a refusal, regardless of the rest. Messages of the JSON library are not passed on: they repeat
//! the offending value, which may be a private key.

use std::collections::HashMap;

use cloud_net::UntrustedText;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::error::MalformedResponse;
use crate::json_type;
use crate::secret::{PrivateKeyPem, ProvisioningKey};

#[derive(Deserialize)]
struct Envelope<T> {
    registration: Option<Registration<T>>,
}

#[derive(Deserialize)]
struct Registration<T> {
    #[serde(default)]
    error: Value,
    thing: Option<T>,
}

/// The response's `thing`. Every key may be absent.
#[derive(Deserialize)]
pub(crate) struct Thing {
    pub(crate) iot: Option<Iot>,
    pub(crate) remote: Option<Remote>,
}

#[derive(Deserialize)]
pub(crate) struct Iot {
    pub(crate) endpoint: Option<String>,
    pub(crate) thing_name: Option<String>,
    pub(crate) certificates: Option<Certificates>,
    #[serde(rename = "keyPair")]
    pub(crate) key_pair: Option<KeyPair>,
}

#[derive(Deserialize)]
pub(crate) struct Certificates {
    pub(crate) device_certificate: Option<String>,
    pub(crate) root_ca: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct KeyPair {
    #[serde(rename = "privateKey")]
    pub(crate) private_key: Option<PrivateKeyPem>,
}

#[derive(Deserialize)]
pub(crate) struct Remote {
    pub(crate) endpoint: Option<String>,
    pub(crate) access_point: Option<String>,
    pub(crate) cert: Option<String>,
    pub(crate) pkey: Option<PrivateKeyPem>,
}

/// Returns the platform's reason if the body is a refusal, and `None` for any other body, even a
/// malformed one. Redacts the provisioning key, in case the platform repeats it.
pub(crate) fn refusal(body: &[u8], key: &ProvisioningKey) -> Option<UntrustedText> {
    let envelope: Envelope<IgnoredAny> = serde_json::from_slice(without_bom(body)).ok()?;
    match envelope.registration?.error {
        Value::Null => None,
        Value::String(text) => Some(reason(&redact(&text, key))),
        other => Some(reason(&redact(&other.to_string(), key))),
    }
}

/// Maximum length in bytes of a body without JSON that is shown.
const MAX_MESSAGE: usize = 1024;

/// Members of a JSON object that hold a message, the most specific first: RFC 9457, OAuth, and what
/// API gateways write.
const MESSAGE_MEMBERS: [&str; 7] = [
    "detail",
    "error_description",
    "message",
    "Message",
    "reason",
    "error",
    "title",
];

/// Returns what the body of an unsuccessful response says, without the provisioning key, in case
/// the response repeats it. `None` if it says nothing.
pub(crate) fn message(body: &[u8], key: &ProvisioningKey) -> Option<UntrustedText> {
    let body = without_bom(body).trim_ascii();
    let text = match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => MESSAGE_MEMBERS
            .iter()
            .find_map(|name| members.get(*name).and_then(text_of))?,
        Ok(other) => text_of(&other)?,
        Err(_) if body.starts_with(b"<") || body.len() > MAX_MESSAGE => return None,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    (!text.trim().is_empty()).then(|| reason(&redact(&text, key)))
}

/// Returns a text, or the message inside an object.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Object(members) => MESSAGE_MEMBERS
            .iter()
            .find_map(|name| Some(members.get(*name)?.as_str()?.to_owned())),
        _ => None,
    }
}

/// Returns whether the body is a JSON object.
pub(crate) fn is_object(body: &[u8]) -> bool {
    serde_json::from_slice::<HashMap<String, IgnoredAny>>(without_bom(body)).is_ok()
}

/// RFC 8259, 8.1: a parser may ignore a byte order mark.
fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

fn redact(text: &str, key: &ProvisioningKey) -> String {
    text.replace(key.expose(), "[redacted]")
}

/// Parses the `thing` of a response that is not a refusal.
pub(crate) fn thing(body: &[u8]) -> Result<Thing, MalformedResponse> {
    let envelope: Envelope<Thing> = parse(without_bom(body))?;
    let registration = envelope
        .registration
        .ok_or(MalformedResponse::Missing("registration"))?;
    registration
        .thing
        .ok_or(MalformedResponse::Missing("registration.thing"))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, MalformedResponse> {
    match body.trim_ascii() {
        [] => return Err(MalformedResponse::Empty),
        [b'<', ..] => return Err(MalformedResponse::Html),
        _ => {}
    }
    serde_json::from_slice(body).map_err(|error| {
        if !error.is_data() {
            return not_json(&error);
        }
        match json_type::find_wrong(body) {
            Ok(Some(wrong)) => wrong,
            // Without a type mismatch, the remaining cause is a duplicate key.
            Ok(None) => MalformedResponse::RepeatedKey {
                line: error.line(),
                column: error.column(),
            },
            Err(error) => not_json(&error),
        }
    })
}

fn not_json(error: &serde_json::Error) -> MalformedResponse {
    match error.is_eof() {
        true => MalformedResponse::CutOff,
        false => MalformedResponse::NotJson {
            line: error.line(),
            column: error.column(),
        },
    }
}

/// Trims the platform's reason and replaces an empty one.
fn reason(text: &str) -> UntrustedText {
    match text.trim() {
        "" => "no reason given".into(),
        text => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_non_null_error_is_refusal() {
        let key = ProvisioningKey::new("s3cret").unwrap();
        for (body, text) in [
            (
                r#"{"registration": {"error": "sn unknown", "thing": null}}"#,
                Some("sn unknown"),
            ),
            (
                r#"{"registration": {"error": "a\u001b[31m\nb"}}"#,
                Some(r"a\u{1b}[31m\nb"),
            ),
            (
                r#"{"registration": {"error": {"code": 7}, "thing": 3}}"#,
                Some(r#"{"code":7}"#),
            ),
            (r#"{"registration": {"error": false}}"#, Some("false")),
            (
                r#"{"registration": {"error": "bad token s3cret!"}}"#,
                Some("bad token [redacted]!"),
            ),
            (
                r#"{"registration": {"error": ""}}"#,
                Some("no reason given"),
            ),
            (r#"{"registration": {"error": null}}"#, None),
            (r#"{"registration": {}}"#, None),
            (r#"{"registration": null}"#, None),
            (r#"{"error": "elsewhere"}"#, None),
            ("<html>", None),
        ] {
            let reason = refusal(body.as_bytes(), &key);
            let reason = reason.as_ref().map(UntrustedText::as_str);
            assert_eq!(reason, text, "{body}");
        }
        let long = format!(r#"{{"registration": {{"error": "{}"}}}}"#, "é".repeat(5000));
        let long = refusal(long.as_bytes(), &key).unwrap();
        assert!(long.as_str().chars().count() < 300, "{long}");
    }

    #[test]
    fn malformed_response_errors_do_not_quote_values() {
        let problem = |body: &str| thing(body.as_bytes()).err().unwrap();
        assert_eq!(problem(" "), MalformedResponse::Empty);
        assert_eq!(problem("\n<!doctype html>"), MalformedResponse::Html);
        assert_eq!(
            problem(r#"{"registration": {"thing": {"iot": {"#),
            MalformedResponse::CutOff
        );
        assert_eq!(
            problem("oops"),
            MalformedResponse::NotJson { line: 1, column: 1 }
        );
        assert_eq!(problem("{}"), MalformedResponse::Missing("registration"));
        assert_eq!(
            problem(r#"{"registration": {"error": null, "thing": null}}"#),
            MalformedResponse::Missing("registration.thing")
        );
        let secret = r#"{"registration": {"thing": {"remote": "-----BEGIN PRIVATE KEY-----"}}}"#;
        assert_eq!(
            problem(secret).to_string(),
            "`registration.thing.remote` must be an object, not a string"
        );
        let twice = r#"{"registration": {"thing": {"iot": {}, "iot": {}}}}"#;
        assert!(matches!(
            problem(twice),
            MalformedResponse::RepeatedKey { line: 1, .. }
        ));
        assert_eq!(
            problem(r#"{"registration": {"thing": 7, oops"#),
            MalformedResponse::NotJson {
                line: 1,
                column: 31
            }
        );
    }

    #[test]
    fn unknown_keys_are_ignored_at_every_level() {
        let body = r#"{"x": 1, "registration": {"x": 1, "thing": {"x": 1, "iot": {"x": [], "thing_name": "t"}}}}"#;
        assert_eq!(
            thing(body.as_bytes())
                .unwrap()
                .iot
                .unwrap()
                .thing_name
                .as_deref(),
            Some("t")
        );
    }
}
