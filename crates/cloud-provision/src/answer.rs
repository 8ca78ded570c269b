//! What the platform answers: JSON, read with care.
//!
//! Keys that are not known are ignored everywhere; `error` absent counts as null, and any other value means refused,
//! whatever else is in the answer. The JSON library's own messages are not passed on: they repeat the value at fault,
//! which may be a private key.
//!
//! Protocol: `docs/protocol.md`, "Provisioning".

use cloud_net::UntrustedText;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;

use crate::error::Malformed;
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

/// The answer's `thing`, every key of which may be absent.
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

/// The platform's refusal, if the body is one. Anything that is not is `None`, whatever is wrong with it.
/// Should the platform repeat our key in it, the key is left out.
pub(crate) fn refusal(body: &[u8], key: &ProvisioningKey) -> Option<UntrustedText> {
    let envelope: Envelope<IgnoredAny> = serde_json::from_slice(body).ok()?;
    match envelope.registration?.error {
        Value::Null => None,
        Value::String(words) => Some(reason(&without(&words, key))),
        other => Some(reason(&without(&other.to_string(), key))),
    }
}

fn without(words: &str, key: &ProvisioningKey) -> String {
    words.replace(key.expose(), "[redacted]")
}

/// The `thing` of an answer that is not a refusal.
pub(crate) fn thing(body: &[u8]) -> Result<Thing, Malformed> {
    let envelope: Envelope<Thing> = parse(body)?;
    let registration = envelope
        .registration
        .ok_or(Malformed::Missing("registration"))?;
    registration
        .thing
        .ok_or(Malformed::Missing("registration.thing"))
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Malformed> {
    match body.trim_ascii() {
        [] => return Err(Malformed::Empty),
        [b'<', ..] => return Err(Malformed::Html),
        _ => {}
    }
    serde_json::from_slice(body).map_err(|error| {
        if !error.is_data() {
            return not_json(&error);
        }
        match json_type::find_wrong(body) {
            Ok(Some(wrong)) => wrong,
            // What does not fit by its type does so by its keys.
            Ok(None) => Malformed::RepeatedKey {
                line: error.line(),
                column: error.column(),
            },
            Err(error) => not_json(&error),
        }
    })
}

fn not_json(error: &serde_json::Error) -> Malformed {
    match error.is_eof() {
        true => Malformed::CutOff,
        false => Malformed::NotJson {
            line: error.line(),
            column: error.column(),
        },
    }
}

/// The reason that the platform gives; never empty.
fn reason(words: &str) -> UntrustedText {
    match words.trim() {
        "" => "no reason given".into(),
        words => words.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_any_kind_is_a_refusal() {
        let key = ProvisioningKey::new("s3cret").unwrap();
        for (body, words) in [
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
            assert_eq!(reason, words, "{body}");
        }
        let long = format!(r#"{{"registration": {{"error": "{}"}}}}"#, "é".repeat(5000));
        let long = refusal(long.as_bytes(), &key).unwrap();
        assert!(long.as_str().chars().count() < 300, "{long}");
    }

    #[test]
    fn what_is_wrong_with_an_answer_is_told_without_repeating_it() {
        let problem = |body: &str| thing(body.as_bytes()).err().unwrap();
        assert_eq!(problem(" "), Malformed::Empty);
        assert_eq!(problem("\n<!doctype html>"), Malformed::Html);
        assert_eq!(
            problem(r#"{"registration": {"thing": {"iot": {"#),
            Malformed::CutOff
        );
        assert_eq!(problem("oops"), Malformed::NotJson { line: 1, column: 1 });
        assert_eq!(problem("{}"), Malformed::Missing("registration"));
        assert_eq!(
            problem(r#"{"registration": {"error": null, "thing": null}}"#),
            Malformed::Missing("registration.thing")
        );
        let secret = r#"{"registration": {"thing": {"remote": "-----BEGIN PRIVATE KEY-----"}}}"#;
        assert_eq!(
            problem(secret).to_string(),
            "`registration.thing.remote` must be an object, not a string"
        );
        let twice = r#"{"registration": {"thing": {"iot": {}, "iot": {}}}}"#;
        assert!(matches!(
            problem(twice),
            Malformed::RepeatedKey { line: 1, .. }
        ));
        assert_eq!(
            problem(r#"{"registration": {"thing": 7, oops"#),
            Malformed::NotJson {
                line: 1,
                column: 31
            }
        );
    }

    #[test]
    fn keys_that_are_not_known_are_ignored_at_every_level() {
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
