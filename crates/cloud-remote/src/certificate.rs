//! The certificate of the remote UI as text: what is asked of the platform, what comes back, what is stored.
//!
//! Nothing is checked here beyond the shape of the answer; [`crate::rotation`] does that before a new certificate is
//! stored or served.
//!
//! Protocol: `docs/protocol.md`, "Remote access" (certificate rotation) and "On disk".

pub(crate) mod expiry;
pub(crate) mod serial;
pub(crate) mod verify;

use std::fmt;

use serde::Serialize;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use self::serial::CertificateSerial;
use crate::clock::rfc3339;
use crate::response::{ResponseError, ResponseFields};

/// A certificate chain and its private key, both in PEM. `Debug` shows neither; the key is wiped on drop.
#[derive(Clone)]
pub struct CertificatePem {
    chain: String,
    key: Zeroizing<String>,
}

impl CertificatePem {
    /// Puts a chain (leaf first) and its key together. Nothing is checked yet.
    #[must_use]
    pub fn new(chain: impl Into<String>, key: impl Into<Zeroizing<String>>) -> Self {
        Self {
            chain: chain.into(),
            key: key.into(),
        }
    }

    /// The chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// The private key. A secret.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }
}

impl fmt::Debug for CertificatePem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CertificatePem([redacted])")
    }
}

/// A request for the certificate with a given serial number. Serializes to `{"remoteCertSn": "<decimal>"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateRequest {
    #[serde(rename = "remoteCertSn", serialize_with = "as_text")]
    serial: CertificateSerial,
}

// The signature is serde's.
fn as_text<S: serde::Serializer>(
    serial: &CertificateSerial,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(serial.as_str())
}

impl CertificateRequest {
    /// Asks for the certificate with this serial number.
    #[must_use]
    pub fn new(serial: CertificateSerial) -> Self {
        Self { serial }
    }

    /// The serial number that is asked for.
    #[must_use]
    pub fn serial(&self) -> &CertificateSerial {
        &self.serial
    }

    /// The request as JSON, ready to be published.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Digits need no escaping, so this cannot fail.
        format!(r#"{{"remoteCertSn":"{}"}}"#, self.serial).into_bytes()
    }
}

/// The platform's answer to a [`CertificateRequest`]: `{"cert": "<PEM>", "pkey": "<PEM>"}`, not yet checked.
#[derive(Debug)]
pub struct CertificateResponse {
    certificate: CertificatePem,
}

impl CertificateResponse {
    /// Reads an answer. Fields other than `cert` and `pkey` are ignored.
    ///
    /// # Errors
    /// [`ResponseError`] if the answer is too long, not a JSON object, or a field is missing or not text. The error
    /// never quotes the answer.
    pub fn from_json(json: &[u8]) -> Result<Self, ResponseError> {
        let mut fields = ResponseFields::parse(json)?;
        let key = fields.text("pkey")?;
        let chain = fields.text("cert")?.as_str().to_owned();
        Ok(Self {
            certificate: CertificatePem { chain, key },
        })
    }

    /// The certificate and key that the platform sent.
    #[must_use]
    pub fn into_certificate(self) -> CertificatePem {
        self.certificate
    }
}

impl From<CertificatePem> for CertificateResponse {
    fn from(certificate: CertificatePem) -> Self {
        Self { certificate }
    }
}

/// What is known of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateStatus {
    /// Its serial number.
    pub serial: CertificateSerial,
    /// The first moment of its validity.
    pub not_before: OffsetDateTime,
    /// The last moment of its validity.
    pub not_after: OffsetDateTime,
}

impl CertificateStatus {
    /// [`not_after`](Self::not_after) as log lines and messages have it, in RFC 3339.
    #[must_use]
    pub fn not_after_text(&self) -> String {
        rfc3339(self.not_after)
    }

    /// Of a certificate that somebody else has read.
    #[must_use]
    pub fn new(
        serial: CertificateSerial,
        not_before: OffsetDateTime,
        not_after: OffsetDateTime,
    ) -> Self {
        Self {
            serial,
            not_before,
            not_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_serializes_to_protocol_json() {
        let request = CertificateRequest::new("4711".parse().unwrap());
        assert_eq!(request.to_json(), br#"{"remoteCertSn":"4711"}"#);
        assert_eq!(serde_json::to_vec(&request).unwrap(), request.to_json());
    }

    #[test]
    fn response_is_parsed_and_redacted() {
        let answer =
            CertificateResponse::from_json(br#"{"cert": "CHAIN", "pkey": "s3cret", "more": 1}"#)
                .unwrap();
        assert!(!format!("{answer:?}").contains("s3cret"));
        let certificate = answer.into_certificate();
        assert_eq!(
            (certificate.chain(), certificate.key()),
            ("CHAIN", "s3cret")
        );
    }

    #[test]
    fn wrong_type_names_the_field_and_both_types() {
        let error =
            CertificateResponse::from_json(br#"{"cert": 5, "pkey": "s3cret"}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the field \"cert\" of the platform's answer must be a string, not a number"
        );
    }

    #[test]
    fn malformed_responses_are_typed_errors_without_quotes() {
        let cases: [&[u8]; 5] = [
            b"{\"pkey\": \"s3cret",
            br#"{"pkey": "s3cret"}"#,
            br#"{"cert": "CHAIN"}"#,
            br#"{"cert": "CHAIN", "pkey": {"s3cret": "s3cret"}}"#,
            br#"{"cert": 5, "pkey": "s3cret"}"#,
        ];
        for json in cases {
            let error = CertificateResponse::from_json(json).unwrap_err();
            assert!(
                !format!("{error} {error:?}").contains("s3cret"),
                "{error:?}"
            );
        }
    }
}
