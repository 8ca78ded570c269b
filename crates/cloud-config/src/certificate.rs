//! Readable content of a certificate, for display and for decisions about expiry and rotation.
//!
//! This module does not verify: TLS verifies a chain when it connects.

use std::net::IpAddr;
use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

use crate::names::HostName;

/// Maximum number of subject alternative names kept. Real certificates have at most a hundred.
const MAX_NAMES: usize = 256;

/// The readable content of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CertificateInfo {
    /// The subject as a distinguished name.
    pub subject: String,
    /// Subject alternative names (DNS names and IP addresses), in the certificate's order.
    pub names: Vec<String>,
    /// The serial number in decimal, the platform's form.
    pub serial: String,
    /// The serial number in lower-case hexadecimal, without separators.
    pub serial_hex: String,
    /// Start of validity.
    pub not_before: SystemTime,
    /// End of validity.
    pub not_after: SystemTime,
    /// The issuer as a distinguished name.
    pub issuer: String,
    /// The SHA-256 fingerprint in lower-case hexadecimal, without separators.
    pub sha256: String,
}

impl CertificateInfo {
    /// Parses a DER certificate, or returns `None` if it is invalid.
    #[must_use]
    pub fn from_der(der: &CertificateDer<'_>) -> Option<Self> {
        let (rest, certificate) = parse_x509_certificate(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let names = match certificate.subject_alternative_name() {
            Ok(Some(extension)) => extension
                .value
                .general_names
                .iter()
                .filter_map(format_name)
                .take(MAX_NAMES)
                .collect(),
            _ => Vec::new(),
        };
        Some(Self {
            subject: certificate.subject().to_string(),
            names,
            serial: certificate.serial.to_str_radix(10),
            serial_hex: certificate.serial.to_str_radix(16),
            not_before: certificate.validity().not_before.to_datetime().into(),
            not_after: certificate.validity().not_after.to_datetime().into(),
            issuer: certificate.issuer().to_string(),
            sha256: hex(&Sha256::digest(der)),
        })
    }

    /// Reports whether `now` is within the validity period.
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// Reports whether a name matches `host`: equal, or with `*` as exactly the leftmost label.
    #[must_use]
    pub fn covers(&self, host: &HostName) -> bool {
        let host = host.as_str();
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => host
                .split_once('.')
                .is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent)),
            None => name.eq_ignore_ascii_case(host),
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn format_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let address = match bytes.len() {
                4 => IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?),
                16 => IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
                _ => return None,
            };
            Some(address.to_string())
        }
        _ => None,
    }
}
