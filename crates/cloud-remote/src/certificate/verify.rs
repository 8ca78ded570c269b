//! Checks a certificate before it is stored or used.
//!
//! A new certificate replaces the old one only if it parses, belongs to its key, is the one that was asked for, can be
//! valid now, is certified by the chain that comes with it and, if it is for the device's page, covers the access point.
//! Whether an authority vouches for it is not asked: the device shows it, the other side judges it.
//!
//! Protocol: `docs/protocol.md`, "Remote access" (certificate rotation) and "IoT messaging" (client certificate).

use std::sync::Arc;
use std::time::Duration;

use cloud_net::warn_throttled;
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};
use zeroize::Zeroize;

use crate::certificate::serial::CertificateSerial;
use crate::certificate::{CertificatePem, CertificateStatus};
use crate::clock::PlatformClock;
use crate::clock::rfc3339;

/// Real chains have two to four certificates; each handshake sends all of them.
const MAX_CHAIN: usize = 10;
/// A certificate that becomes valid within this time is taken: the device's clock may be behind the platform's.
const NOT_BEFORE_TOLERANCE: time::Duration = time::Duration::DAY;
/// A wall clock before 2025-01-01 was never set (a board without a battery): dates are not judged by it.
const CLOCK_SET_SINCE: i64 = 1_735_689_600;

/// Why a certificate cannot be used. Never quotes the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The PEM text holds no usable chain, or too long a one.
    #[error("the certificate chain cannot be read: {0}")]
    Chain(&'static str),
    /// The PEM text holds no usable private key.
    #[error("the private key cannot be read")]
    Key,
    /// The private key belongs to another certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// Not the certificate that was asked for.
    #[error("the certificate has the serial number {found}, but {wanted} was asked for")]
    WrongSerial {
        /// The serial number that was asked for.
        wanted: CertificateSerial,
        /// The serial number that came.
        found: CertificateSerial,
    },
    /// No longer valid.
    #[error("the certificate has expired on {}", rfc3339(*.not_after))]
    Expired {
        /// The last moment of its validity.
        not_after: OffsetDateTime,
    },
    /// Not valid for more than a day to come.
    #[error("the certificate is not valid before {}", rfc3339(*.not_before))]
    NotYetValid {
        /// The first moment of its validity.
        not_before: OffsetDateTime,
    },
    /// For another host.
    #[error("the certificate does not cover the host name {name}")]
    WrongName {
        /// The access point's host name.
        name: String,
    },
}

/// A certificate that passed the checks, ready to be served.
#[derive(Debug, Clone)]
pub(crate) struct CheckedCertificate {
    pub key: Arc<CertifiedKey>,
    pub serial: CertificateSerial,
    pub not_before: OffsetDateTime,
    pub not_after: OffsetDateTime,
}

impl CheckedCertificate {
    /// Reads a chain and key and checks that they belong together. This much has to hold even for the certificate that
    /// is already in the store.
    pub(crate) fn read(pem: &CertificatePem) -> Result<Self, CertificateError> {
        let chain = read_chain(pem.chain())?;
        let leaf = chain
            .first()
            .ok_or(CertificateError::Chain("it is empty"))?
            .clone();
        let mut der = PrivateKeyDer::from_pem_slice(pem.key().as_bytes())
            .map_err(|_| CertificateError::Key)?;
        let signer = any_supported_type(&der);
        der.zeroize();
        let key = CertifiedKey::new(chain, signer.map_err(|_| CertificateError::Key)?);
        key.keys_match().map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => CertificateError::KeyMismatch,
            rustls::Error::InvalidCertificate(_) => {
                CertificateError::Chain("its first certificate is not X.509")
            }
            _ => CertificateError::Key,
        })?;
        let (_, parsed) = X509Certificate::from_der(&leaf)
            .map_err(|_| CertificateError::Chain("its first certificate is not X.509"))?;
        let serial = parsed.tbs_certificate.serial.to_str_radix(10);
        Ok(Self {
            key: Arc::new(key),
            serial: serial
                .parse()
                .map_err(|_| CertificateError::Chain("its serial number is too long"))?,
            not_before: parsed.validity().not_before.to_datetime(),
            not_after: parsed.validity().not_after.to_datetime(),
        })
    }

    pub(crate) fn status(&self) -> CertificateStatus {
        CertificateStatus {
            serial: self.serial.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }

    /// Whether it is the one that was asked for.
    pub(crate) fn check_serial(&self, wanted: &CertificateSerial) -> Result<(), CertificateError> {
        if self.serial == *wanted {
            return Ok(());
        }
        Err(CertificateError::WrongSerial {
            wanted: wanted.clone(),
            found: self.serial.clone(),
        })
    }

    /// Whether it can be valid by `clock`.
    pub(crate) fn check_dates(&self, clock: &PlatformClock) -> Result<(), CertificateError> {
        let now = clock.now();
        if now.unix_timestamp() < CLOCK_SET_SINCE {
            warn_throttled!(clock.never_set_log(), %now, "the clock was never set: the certificate's dates are not checked");
            return Ok(());
        }
        if now > self.not_after {
            return Err(CertificateError::Expired {
                not_after: self.not_after,
            });
        }
        if self
            .not_before
            .checked_sub(NOT_BEFORE_TOLERANCE)
            .is_some_and(|earliest| now < earliest)
        {
            return Err(CertificateError::NotYetValid {
                not_before: self.not_before,
            });
        }
        Ok(())
    }

    /// Whether it covers the access point, by the rules of a TLS client.
    pub(crate) fn check_name(&self, access_point: &str) -> Result<(), CertificateError> {
        let wrong = || CertificateError::WrongName {
            name: access_point.to_owned(),
        };
        let name = ServerName::try_from(access_point).map_err(|_| wrong())?;
        let leaf = self
            .key
            .end_entity_cert()
            .map_err(|_| CertificateError::Chain("it is empty"))?;
        let leaf = ParsedCertificate::try_from(leaf)
            .map_err(|_| CertificateError::Chain("its first certificate is not X.509"))?;
        verify_server_name(&leaf, &name).map_err(|_| wrong())
    }

    /// Whether each certificate of the chain certifies the one before it, as the other side of TLS wants it. A chain of
    /// one has nothing to show; the last one is taken as it is.
    pub(crate) fn check_chain(&self, usage: Usage) -> Result<(), CertificateError> {
        let [leaf, authorities @ ..] = &self.key.cert[..] else {
            return Err(CertificateError::Chain("it is empty"));
        };
        let Some(last) = authorities.last() else {
            return Ok(());
        };
        let broken = || CertificateError::Chain("its certificates do not certify each other");
        let mut roots = RootCertStore::empty();
        roots.add(last.clone()).map_err(|_| broken())?;
        // The leaf's dates are judged elsewhere, with a tolerance. An authority may well be younger than the leaf, which it has
        // dated back; so what counts is whether there is a moment at which all are valid.
        let mut begun = self.not_before.unix_timestamp();
        for authority in authorities {
            let (_, parsed) = X509Certificate::from_der(authority).map_err(|_| broken())?;
            begun = begun.max(parsed.validity().not_before.timestamp());
        }
        let seconds = u64::try_from(begun).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        match usage {
            Usage::Server => {
                let leaf = ParsedCertificate::try_from(leaf).map_err(|_| broken())?;
                let algorithms = provider.signature_verification_algorithms.all;
                verify_server_cert_signed_by_trust_anchor(
                    &leaf,
                    &roots,
                    authorities,
                    now,
                    algorithms,
                )
                .map_err(|_| broken())
            }
            Usage::Client => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                        .build()
                        .map_err(|_| broken())?;
                let verified = verifier.verify_client_cert(leaf, authorities, now);
                verified.map(drop).map_err(|_| broken())
            }
        }
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Usage {
    Server,
    Client,
}

/// All checks that a new certificate for the device's page has to pass.
pub(crate) fn verify_server(
    pem: &CertificatePem,
    wanted: &CertificateSerial,
    access_point: &str,
    clock: &PlatformClock,
) -> Result<CheckedCertificate, CertificateError> {
    let certificate = CheckedCertificate::read(pem)?;
    certificate.check_serial(wanted)?;
    certificate.check_dates(clock)?;
    certificate.check_name(access_point)?;
    certificate.check_chain(Usage::Server)?;
    Ok(certificate)
}

/// The checks that a certificate for the device's page has to pass when there is none in use that it could replace: those of a
/// rotation. It parses, belongs to its key, is the one that was asked for, can be valid by `clock`, covers the access point,
/// and is certified by the chain that comes with it.
///
/// # Errors
/// [`CertificateError`]. Another one may be better.
pub fn verify_server_certificate(
    pem: &CertificatePem,
    wanted: &CertificateSerial,
    access_point: &str,
    clock: &PlatformClock,
) -> Result<CertificateStatus, CertificateError> {
    verify_server(pem, wanted, access_point, clock).map(|certificate| certificate.status())
}

/// All checks that a new client certificate has to pass before it is tried: it parses, belongs to its key, is the one that
/// was asked for, can be valid by `clock`, and is certified by the chain that comes with it.
///
/// # Errors
/// [`CertificateError`]. Another one may be better.
pub fn verify_client_certificate(
    pem: &CertificatePem,
    wanted: &CertificateSerial,
    clock: &PlatformClock,
) -> Result<CertificateStatus, CertificateError> {
    let certificate = CheckedCertificate::read(pem)?;
    certificate.check_serial(wanted)?;
    certificate.check_dates(clock)?;
    certificate.check_chain(Usage::Client)?;
    Ok(certificate.status())
}

fn read_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let mut chain = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        if chain.len() == MAX_CHAIN {
            return Err(CertificateError::Chain("it has more than 10 certificates"));
        }
        chain.push(certificate.map_err(|_| CertificateError::Chain("it is not PEM"))?);
    }
    if chain.is_empty() {
        return Err(CertificateError::Chain("it holds no certificate"));
    }
    Ok(chain)
}

#[cfg(test)]
mod tests;
