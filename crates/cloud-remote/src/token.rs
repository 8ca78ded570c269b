//! The token of the tunnel: its request and response.
//!
//! Token, key and IV belong together: the platform encrypts the request's key and IV into the
//! token, so a response is usable only with the keys of its own request. The core decides when to
//! request one, and [`TokenSource`](crate::TokenSource) sends the request.

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime};

use cloud_net::from_unix_seconds;
use serde::ser::{Serialize, SerializeStruct, Serializer};
use serde_json::Value;
use snitun::client::Token;
use snitun::{Cipher, ProtocolVersion, SessionKey};
use zeroize::Zeroizing;

use crate::response::{NUMBER, ResponseError, ResponseFields, STRING, wrong_type};

/// The maximum length of a token that a tunnel server reads.
const MAX_TOKEN: usize = 2_048;
/// The first byte of a Fernet token.
const FERNET_VERSION: u128 = 0x80;
/// The longest plausible lifetime of a token: ten years.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Returns the value of a URL-safe base64 digit.
fn base64_value(digit: u8) -> Option<u8> {
    Some(match digit {
        b'A'..=b'Z' => digit - b'A',
        b'a'..=b'z' => digit - b'a' + 26,
        b'0'..=b'9' => digit - b'0' + 52,
        b'-' => 62,
        b'_' => 63,
        _ => return None,
    })
}

/// A request for a token, with the session key that the platform encrypts into it.
///
/// Serializes to `{"aesKey": "<64 hex>", "aesIv": "<32 hex>"}`. `Debug` redacts both.
pub struct TokenRequest {
    key: Zeroizing<String>,
    iv: Zeroizing<String>,
}

impl TokenRequest {
    pub(crate) fn new(key: &SessionKey) -> Self {
        Self {
            key: key.key_hex(),
            iv: key.iv_hex(),
        }
    }

    /// Returns the AES-256 key as 64 hexadecimal digits. A secret.
    #[must_use]
    pub fn key_hex(&self) -> &str {
        &self.key
    }

    /// Returns the initialization vector as 32 hexadecimal digits. A secret.
    #[must_use]
    pub fn iv_hex(&self) -> &str {
        &self.iv
    }

    /// Returns the request as JSON. A secret.
    #[must_use]
    pub fn to_json(&self) -> Zeroizing<Vec<u8>> {
        // Hexadecimal digits need no escaping. A growing buffer would leave copies of the secret.
        let json = format!(r#"{{"aesKey":"{}","aesIv":"{}"}}"#, *self.key, *self.iv);
        Zeroizing::new(json.into_bytes())
    }
}

impl Serialize for TokenRequest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut request = serializer.serialize_struct("TokenRequest", 2)?;
        request.serialize_field("aesKey", self.key.as_str())?;
        request.serialize_field("aesIv", self.iv.as_str())?;
        request.end()
    }
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenRequest([redacted])")
    }
}

/// The platform's response to a [`TokenRequest`].
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use cloud_remote::TokenResponse;
///
/// let response = TokenResponse::from_json(br#"{"valid": 1893456000, "throttling": 500, "token": "gAAAAAB"}"#)?;
/// assert_eq!(response.valid(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_893_456_000));
/// assert_eq!(response.throttling().map(u32::from), Some(500));
/// # Ok::<(), cloud_remote::ResponseError>(())
/// ```
#[derive(Debug)]
pub struct TokenResponse {
    valid: SystemTime,
    throttling: Option<NonZeroU32>,
    version: ProtocolVersion,
    cipher: Cipher,
    token: Token,
}

impl TokenResponse {
    /// Parses a response: `valid`, `token`, and optionally `throttling`, `protocol_version` and
    /// `cipher`. Other fields are ignored.
    ///
    /// # Errors
    /// [`ResponseError`] if the response is too long, not a JSON object, or a field is missing or
    /// out of its range. The error never quotes the response.
    pub fn from_json(json: &[u8]) -> Result<Self, ResponseError> {
        let mut fields = ResponseFields::parse(json)?;
        let token = fields.text("token")?;
        if token.is_empty()
            || token.len() > MAX_TOKEN
            || !token.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(ResponseError::Invalid {
                field: "token",
                expected: "1 to 2048 printable characters",
            });
        }
        Ok(Self {
            valid: valid(fields.optional("valid"))?,
            throttling: throttling(fields.optional("throttling"))?,
            version: version(fields.optional("protocol_version"))?,
            cipher: cipher(fields.optional("cipher"))?,
            token: Token::from(token.as_str()),
        })
    }

    /// Returns the expiry of the token, by the platform's clock.
    #[must_use]
    pub fn valid(&self) -> SystemTime {
        self.valid
    }

    /// Returns the issue time of the token, by the platform's clock, from the first bytes of a
    /// Fernet token. `None` for another kind of token, or if it would have been issued
    /// after its expiry or more than ten years before.
    pub(crate) fn issued(&self) -> Option<SystemTime> {
        let head = self.token.expose().as_bytes().first_chunk::<12>()?;
        // 72 bits: the version, then the time.
        let mut bits = 0_u128;
        for digit in head {
            bits = (bits << 6) | u128::from(base64_value(*digit)?);
        }
        let issued = i64::try_from(bits & u128::from(u64::MAX)).ok()?;
        let issued = from_unix_seconds(issued);
        let lifetime = self.valid.duration_since(issued).ok()?;
        let plausible = !lifetime.is_zero() && lifetime <= MAX_LIFETIME;
        (bits >> 64 == FERNET_VERSION && plausible).then_some(issued)
    }

    /// Returns the maximum number of messages per second that the device may send, or `None` for no
    /// limit.
    #[must_use]
    pub fn throttling(&self) -> Option<NonZeroU32> {
        self.throttling
    }

    /// Returns the version of the tunnel's protocol that the token is for.
    #[must_use]
    pub fn protocol_version(&self) -> ProtocolVersion {
        self.version
    }

    /// Returns the session cipher that the token is for.
    #[must_use]
    pub fn cipher(&self) -> Cipher {
        self.cipher
    }

    /// Returns the token. A secret: `Debug` redacts it.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }
}

fn valid(value: Option<Value>) -> Result<SystemTime, ResponseError> {
    let value = number("valid", value)?.ok_or(ResponseError::Missing { field: "valid" })?;
    if let Some(seconds) = value.as_i64() {
        return Ok(from_unix_seconds(seconds));
    }
    // A Python platform may send a float; the fraction does not matter.
    match value.as_f64() {
        #[allow(clippy::cast_possible_truncation)] // Checked to be far inside of i64.
        Some(seconds) if seconds.abs() < 1e15 => Ok(from_unix_seconds(seconds as i64)),
        _ => Err(ResponseError::Invalid {
            field: "valid",
            expected: "a time in Unix seconds",
        }),
    }
}

/// The value of a field, if it is there, which has to be a number.
fn number(field: &'static str, value: Option<Value>) -> Result<Option<Value>, ResponseError> {
    match value {
        Some(value) if !value.is_number() => Err(wrong_type(field, NUMBER, &value)),
        value => Ok(value),
    }
}

fn throttling(value: Option<Value>) -> Result<Option<NonZeroU32>, ResponseError> {
    let Some(value) = number("throttling", value)? else {
        return Ok(None);
    };
    value
        .as_u64()
        .and_then(|rate| u32::try_from(rate).ok())
        .map(NonZeroU32::new)
        .ok_or(ResponseError::Invalid {
            field: "throttling",
            expected: "a number of messages per second",
        })
}

fn version(value: Option<Value>) -> Result<ProtocolVersion, ResponseError> {
    let Some(value) = number("protocol_version", value)? else {
        return Ok(ProtocolVersion::default());
    };
    value
        .as_u64()
        .and_then(|version| u8::try_from(version).ok())
        .and_then(|version| ProtocolVersion::try_from(version).ok())
        .ok_or(ResponseError::Invalid {
            field: "protocol_version",
            expected: "a version known to this device",
        })
}

fn cipher(value: Option<Value>) -> Result<Cipher, ResponseError> {
    let Some(value) = value else {
        return Ok(Cipher::default());
    };
    let Value::String(name) = &value else {
        return Err(wrong_type("cipher", STRING, &value));
    };
    name.parse().map_err(|_| ResponseError::Invalid {
        field: "cipher",
        expected: "a cipher known to this device",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_serializes_to_protocol_json() {
        let key = SessionKey::from_hex(&"0f".repeat(32), &"a1".repeat(16)).unwrap();
        let request = TokenRequest::new(&key);
        let expected = serde_json::json!({"aesKey": "0f".repeat(32), "aesIv": "a1".repeat(16)});
        assert_eq!(
            serde_json::from_slice::<Value>(&request.to_json()).unwrap(),
            expected
        );
        assert_eq!(serde_json::to_value(&request).unwrap(), expected);
        assert!(!format!("{request:?}").contains("0f0f"));
    }

    #[test]
    fn defaults_match_current_platform() {
        let response = TokenResponse::from_json(
            br#"{"valid": 1, "token": "gAA", "throttling": null, "x": 1}"#,
        )
        .unwrap();
        assert_eq!(response.throttling(), None);
        assert_eq!(u8::from(response.protocol_version()), 0);
        assert_eq!(response.cipher().to_string(), "aes-cbc");
        let response =
            TokenResponse::from_json(br#"{"valid": 1.9, "token": "gAA", "throttling": 0}"#)
                .unwrap();
        assert_eq!(
            (response.valid(), response.throttling()),
            (from_unix_seconds(1), None)
        );
    }

    #[test]
    fn fernet_token_contains_issue_time() {
        // The example of the Fernet specification, of 1985.
        let example = "gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA==";
        let issued = |valid: i64, token: &str| {
            let json = serde_json::json!({"valid": valid, "token": token}).to_string();
            TokenResponse::from_json(json.as_bytes()).unwrap().issued()
        };
        assert_eq!(
            issued(499_162_860, example),
            Some(from_unix_seconds(499_162_800))
        );
        for (valid, token) in [
            (499_162_800, example),
            (0, example),
            (1_893_456_000, example),
            (499_162_860, "gAAAAAAdwJ"),
            (499_162_860, "gAAAAAAdwJ+wAAEC"),
            (499_162_860, "hAAAAAAdwJ6wAAEC"),
            (499_162_860, "gP________8AAAEC"),
        ] {
            assert_eq!(issued(valid, token), None, "{valid} {token}");
        }
    }

    #[test]
    fn parses_version_and_cipher() {
        let json = br#"{"valid": 1, "token": "gAA", "protocol_version": 2, "cipher": "aes-gcm"}"#;
        let response = TokenResponse::from_json(json).unwrap();
        assert_eq!(u8::from(response.protocol_version()), 2);
        assert_eq!(response.cipher().to_string(), "aes-gcm");
    }

    #[test]
    fn wrong_type_names_the_field_and_both_types() {
        for (json, expected) in [
            (
                r#"{"valid": "s3cret", "token": "gAA"}"#,
                "\"valid\" of the platform's response must be a number, not a string",
            ),
            (
                r#"{"valid": 1, "token": 5}"#,
                "\"token\" of the platform's response must be a string, not a number",
            ),
            (
                r#"{"valid": 1, "token": "gAA", "throttling": [1]}"#,
                "\"throttling\" of the platform's response must be a number, not an array",
            ),
            (
                r#"{"valid": 1, "token": "gAA", "protocol_version": true}"#,
                "\"protocol_version\" of the platform's response must be a number, not a boolean",
            ),
            (
                r#"{"valid": 1, "token": "gAA", "cipher": {"s3cret": 1}}"#,
                "\"cipher\" of the platform's response must be a string, not an object",
            ),
        ] {
            let error = TokenResponse::from_json(json.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), format!("the field {expected}"));
        }
    }

    #[test]
    fn malformed_responses_are_typed_errors_without_quotes() {
        let long = format!(r#"{{"valid": 1, "token": "{}"}}"#, "s3cret".repeat(400));
        let cases: [&[u8]; 13] = [
            b"",
            b"<html>s3cret",
            br#"{"valid": 1, "token": "s3cret"#,
            b"[]",
            br#"{"token": "s3cret"}"#,
            br#"{"valid": "s3cret", "token": "s3cret"}"#,
            br#"{"valid": 1}"#,
            br#"{"valid": 1, "token": ["s3cret"]}"#,
            br#"{"valid": 1, "token": "s3cret s3cret"}"#,
            long.as_bytes(),
            br#"{"valid": 1, "token": "s3cret", "throttling": -1}"#,
            br#"{"valid": 1, "token": "s3cret", "protocol_version": 9}"#,
            br#"{"valid": 1, "token": "s3cret", "cipher": "rot13"}"#,
        ];
        for json in cases {
            let error = TokenResponse::from_json(json).unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("s3cret"),
                "{error:?}"
            );
        }
        let huge = vec![b' '; crate::response::MAX_RESPONSE_SIZE + 1];
        assert!(matches!(
            TokenResponse::from_json(&huge),
            Err(ResponseError::TooLong { .. })
        ));
    }
}
