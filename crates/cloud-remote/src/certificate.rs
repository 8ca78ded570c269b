//! The certificate of the remote UI: the request to the platform, its response, and the PEM texts
//! to store.
//!
//! Only the format of the response is checked here; [`verify`] verifies a certificate before it is
//! stored or served.

pub(crate) mod expiry;
pub(crate) mod leaf_verifier;
pub(crate) mod serial;
pub(crate) mod verify;

use std::borrow::Cow;
use std::fmt;
use std::time::SystemTime;

use cloud_net::rfc3339;
use cloud_pki::pem;
use serde::Serialize;
use zeroize::Zeroizing;

use self::serial::CertificateSerial;
use crate::response::{ResponseError, ResponseFields};

/// A certificate chain and its private key, both in PEM. `Debug` redacts both; the key is zeroized
/// on drop.
#[derive(Clone)]
pub struct CertificatePem {
    chain: String,
    key: Zeroizing<String>,
}

impl CertificatePem {
    /// Combines a chain (leaf first) and its key. Neither is verified. PEM that other programs
    /// could not read is rewritten.
    #[must_use]
    pub fn new(chain: impl Into<String>, key: impl Into<Zeroizing<String>>) -> Self {
        let (mut chain, mut key) = (chain.into(), key.into());
        if let Cow::Owned(rewritten) = pem::canonical(&chain) {
            chain = rewritten;
        }
        if let Cow::Owned(rewritten) = pem::canonical(&key) {
            key = rewritten.into();
        }
        Self { chain, key }
    }

    /// Returns the chain, leaf first.
    #[must_use]
    pub fn chain(&self) -> &str {
        &self.chain
    }

    /// Returns the private key. A secret.
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

/// A request for the certificate with a given serial number. Serializes to `{"remoteCertSn":
/// "<decimal>"}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateRequest {
    #[serde(rename = "remoteCertSn", serialize_with = "as_text")]
    serial: CertificateSerial,
}

// serde requires this signature.
fn as_text<S: serde::Serializer>(
    serial: &CertificateSerial,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(serial.as_str())
}

impl CertificateRequest {
    /// Creates a request for the certificate with this serial number.
    #[must_use]
    pub fn new(serial: CertificateSerial) -> Self {
        Self { serial }
    }

    /// Returns the requested serial number.
    #[must_use]
    pub fn serial(&self) -> &CertificateSerial {
        &self.serial
    }

    /// Returns the request as JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Digits need no escaping, so this cannot fail.
        format!(r#"{{"remoteCertSn":"{}"}}"#, self.serial).into_bytes()
    }
}

/// The platform's response to a [`CertificateRequest`]: `{"cert": "<PEM>", "pkey": "<PEM>"}`, not
/// verified.
#[derive(Debug)]
pub struct CertificateResponse {
    certificate: CertificatePem,
}

impl CertificateResponse {
    /// Parses a response. Fields other than `cert` and `pkey` are ignored.
    ///
    /// # Errors
    /// [`ResponseError`] if the response is too long, not a JSON object, or a field is missing or
    /// not a string. The error never quotes the response.
    pub fn from_json(json: &[u8]) -> Result<Self, ResponseError> {
        let mut fields = ResponseFields::parse(json)?;
        let key = fields.text("pkey")?;
        let chain = fields.text("cert")?.as_str().to_owned();
        Ok(Self {
            certificate: CertificatePem::new(chain, key),
        })
    }

    /// Returns the certificate and key.
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

/// The serial number and validity of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateStatus {
    /// Its serial number.
    pub serial: CertificateSerial,
    /// The start of its validity.
    pub not_before: SystemTime,
    /// The end of its validity.
    pub not_after: SystemTime,
}

impl CertificateStatus {
    /// Returns [`not_after`](Self::not_after) as RFC 3339, for log lines and messages.
    #[must_use]
    pub fn not_after_text(&self) -> String {
        rfc3339(self.not_after)
    }

    /// Creates the status of a certificate that was parsed elsewhere.
    #[must_use]
    pub fn new(serial: CertificateSerial, not_before: SystemTime, not_after: SystemTime) -> Self {
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
        let response =
            CertificateResponse::from_json(br#"{"cert": "CHAIN", "pkey": "s3cret", "more": 1}"#)
                .unwrap();
        assert!(!format!("{response:?}").contains("s3cret"));
        let certificate = response.into_certificate();
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
            "the field \"cert\" of the platform's response must be a string, not a number"
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
