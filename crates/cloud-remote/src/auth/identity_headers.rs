//! The headers that say to the application who the caller is. A caller's own never pass.
//!
//! Specification: RFC 9440 (`Client-Cert`), RFC 4514 (the text of a subject).

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate, X509Name};

use crate::request_policy::with_hyphens;

/// The name of the user whose password was right.
pub(crate) const REMOTE_USER: HeaderName = HeaderName::from_static("remote-user");
/// The client's certificate, as a byte sequence of RFC 8941.
pub(crate) const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
/// The subject of the client's certificate.
pub(crate) const CLIENT_SUBJECT: HeaderName = HeaderName::from_static("x-client-subject");
/// The client's intermediate authorities, which are not passed on.
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// Removes the headers that [`set_user`] sets, in every spelling.
pub(super) fn remove_user(headers: &mut HeaderMap) {
    remove(headers, &[REMOTE_USER]);
}

/// Removes the headers that [`set_certificate`] sets, in every spelling.
pub(super) fn remove_certificate(headers: &mut HeaderMap) {
    remove(headers, &[CLIENT_CERT, CLIENT_CERT_CHAIN, CLIENT_SUBJECT]);
}

fn remove(headers: &mut HeaderMap, names: &[HeaderName]) {
    let found: Vec<HeaderName> = headers
        .keys()
        .filter(|name| {
            names
                .iter()
                .any(|other| other == with_hyphens(name).as_str())
        })
        .cloned()
        .collect();
    for name in found {
        headers.remove(name);
    }
}

pub(super) fn set_user(headers: &mut HeaderMap, name: &str) {
    if let Ok(value) = HeaderValue::from_bytes(name.as_bytes()) {
        headers.insert(REMOTE_USER, value);
    }
}

pub(super) fn set_certificate(
    headers: &mut HeaderMap,
    certificate: &CertificateDer<'_>,
    subject: Option<&str>,
) {
    let encoded = format!(":{}:", STANDARD.encode(certificate));
    let values = [(CLIENT_CERT, Some(&*encoded)), (CLIENT_SUBJECT, subject)];
    for (name, value) in values {
        if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
            headers.insert(name, value);
        }
    }
}

/// Returns the subject of a certificate, with the most specific part first. `None` if it is empty
/// or not text.
pub(super) fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    distinguished_name(parsed.subject()).filter(|name| !name.is_empty())
}

fn distinguished_name(name: &X509Name<'_>) -> Option<String> {
    let mut text = String::new();
    let parts: Vec<_> = name.iter_rdn().collect();
    for (index, part) in parts.into_iter().rev().enumerate() {
        for (position, attribute) in part.iter().enumerate() {
            match (index, position) {
                (0, 0) => {}
                (_, 0) => text.push(','),
                _ => text.push('+'),
            }
            let kind = attribute.attr_type();
            match oid2abbrev(kind, oid_registry()) {
                Ok(short) => text.push_str(short),
                Err(_) => text.push_str(&kind.to_id_string()),
            }
            text.push('=');
            push_escaped(&mut text, attribute.as_str().ok()?);
        }
    }
    Some(text)
}

/// Escapes what separates parts, and all that is not printable ASCII.
fn push_escaped(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (index, byte) in value.bytes().enumerate() {
        let is_outer_space = byte == b' ' && (index == 0 || index == last);
        let is_special = b",+\"\\<>;=".contains(&byte) || (byte == b'#' && index == 0);
        if is_special || is_outer_space {
            text.push('\\');
            text.push(char::from(byte));
        } else if byte == b' ' || byte.is_ascii_graphic() {
            text.push(char::from(byte));
        } else {
            // Writing to a `String` cannot fail.
            let _ = write!(text, "\\{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType};
    use testkit::pki::Authority;

    use super::*;

    fn certificate(attributes: &[(DnType, &str)]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        Authority::new("CA").sign(&params).chain().remove(0)
    }

    #[test]
    fn subject_cannot_imitate_other_parts() {
        for (attributes, expected) in [
            (&[][..], None),
            (&[(DnType::CommonName, "alice")], Some("CN=alice")),
            (
                &[
                    (DnType::OrganizationName, "Example, Inc."),
                    (DnType::CommonName, "a,CN=root"),
                ],
                Some(r"CN=a\,CN\=root,O=Example\, Inc."),
            ),
            (
                &[(DnType::CommonName, " jürgen\r\nX-Admin: 1 ")],
                Some(r"CN=\ j\C3\BCrgen\0D\0AX-Admin: 1\ "),
            ),
            (
                &[(DnType::CustomDnType(vec![1, 2, 3, 4]), "#x")],
                Some(r"1.2.3.4=\#x"),
            ),
        ] {
            let certificate = certificate(attributes);
            assert_eq!(subject(&certificate).as_deref(), expected);
            let mut headers = HeaderMap::new();
            set_certificate(&mut headers, &certificate, expected);
            assert_eq!(headers.len(), 1 + usize::from(expected.is_some()));
        }
    }

    #[test]
    fn every_spelling_of_a_caller_is_removed() {
        let mut headers = HeaderMap::new();
        for name in [
            "client-cert",
            "client_cert",
            "x-client-subject",
            "x_client_subject",
            "client-cert-chain",
            "x-client-subjects",
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        remove_certificate(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-client-subjects"]);
        headers.insert(
            HeaderName::from_static("remote_user"),
            HeaderValue::from_static("x"),
        );
        remove_user(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
