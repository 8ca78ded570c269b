//! Verification of a certificate before it is stored or used.
//!
//! A new certificate replaces the old one only if it parses, matches its key, has the requested
//! serial number, can be valid now, is certified by its chain and, as a server certificate, covers
//! the access point. Trust in the authority is not checked: the device presents the certificate,
//! and its peer decides.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use cloud_net::{rfc3339, unix_seconds, warn_throttled};
use cloud_pki::key::{self, KeyError, PairError};
use cloud_pki::pem::{self, PemError};
use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::serial::CertificateSerial;
use crate::certificate::{CertificatePem, CertificateStatus};
use crate::clock::PlatformClock;

/// Real chains have two to four certificates, and each handshake sends all of them.
const MAX_CHAIN: usize = 10;
/// Tolerance for a certificate that is not valid yet: the device's clock may be behind the
/// platform's.
const NOT_BEFORE_TOLERANCE: Duration = Duration::from_secs(86_400);
/// A wall clock before 2025-01-01 was never set (a board without a battery), and dates are not
/// checked by it.
const CLOCK_SET_SINCE: i64 = 1_735_689_600;

/// An error of the verification of a certificate. Never quotes the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CertificateError {
    /// The text of the chain is not valid PEM, or the chain is too long.
    #[error("the certificate chain {0}")]
    Pem(#[source] PemError),
    /// The chain is not valid.
    #[error("the certificate chain cannot be used: {0}")]
    Chain(&'static str),
    /// The text of the private key is not valid PEM.
    #[error("the private key {0}")]
    KeyPem(#[source] PemError),
    /// The private key is damaged, or of a type that TLS cannot use.
    #[error("the private key {0}; report this to the platform, if it made the key")]
    Key(#[source] KeyError),
    /// The private key does not match the certificate.
    #[error("the private key does not belong to the certificate")]
    KeyMismatch,
    /// The certificate has another serial number than the requested one.
    #[error("the certificate has the serial number {found}, but {wanted} was requested")]
    WrongSerial {
        /// The requested serial number.
        wanted: CertificateSerial,
        /// The serial number of the certificate.
        found: CertificateSerial,
    },
    /// The certificate has expired.
    #[error("the certificate has expired on {}", rfc3339(*.not_after))]
    Expired {
        /// The end of its validity.
        not_after: SystemTime,
    },
    /// The certificate becomes valid in more than a day.
    #[error("the certificate is not valid before {}", rfc3339(*.not_before))]
    NotYetValid {
        /// The start of its validity.
        not_before: SystemTime,
    },
    /// The certificate is for another host.
    #[error("the certificate does not cover the host name {name}")]
    WrongName {
        /// The access point's host name.
        name: String,
    },
}

/// A parsed certificate with its key, ready to be served.
#[derive(Debug, Clone)]
pub(crate) struct CheckedCertificate {
    pub key: Arc<CertifiedKey>,
    pub serial: CertificateSerial,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl CheckedCertificate {
    /// Parses a chain and key, and checks that they match. This has to hold even for the stored
    /// certificate.
    pub(crate) fn read(pem: &CertificatePem) -> Result<Self, CertificateError> {
        let chain = pem::certificates(pem.chain(), MAX_CHAIN).map_err(CertificateError::Pem)?;
        let leaf = chain
            .first()
            .ok_or(CertificateError::Chain("it is empty"))?
            .clone();
        let key = pem::private_key(pem.key()).map_err(CertificateError::KeyPem)?;
        let key = key::certified(chain, key).map_err(|error| match error {
            PairError::Key(error) => CertificateError::Key(error),
            PairError::Mismatch => CertificateError::KeyMismatch,
            _ => CertificateError::Chain("its first certificate is not X.509"),
        })?;
        let (_, parsed) = X509Certificate::from_der(&leaf)
            .map_err(|_| CertificateError::Chain("its first certificate is not X.509"))?;
        let serial = parsed.tbs_certificate.serial.to_str_radix(10);
        Ok(Self {
            key: Arc::new(key),
            serial: serial
                .parse()
                .map_err(|_| CertificateError::Chain("its serial number is too long"))?,
            not_before: parsed.validity().not_before.to_datetime().into(),
            not_after: parsed.validity().not_after.to_datetime().into(),
        })
    }

    pub(crate) fn status(&self) -> CertificateStatus {
        CertificateStatus {
            serial: self.serial.clone(),
            not_before: self.not_before,
            not_after: self.not_after,
        }
    }

    /// Checks that the serial number is the requested one.
    pub(crate) fn check_serial(&self, wanted: &CertificateSerial) -> Result<(), CertificateError> {
        if self.serial == *wanted {
            return Ok(());
        }
        Err(CertificateError::WrongSerial {
            wanted: wanted.clone(),
            found: self.serial.clone(),
        })
    }

    /// Checks that the certificate can be valid by `clock`.
    pub(crate) fn check_dates(&self, clock: &PlatformClock) -> Result<(), CertificateError> {
        let now = clock.now();
        if unix_seconds(now) < CLOCK_SET_SINCE {
            warn_throttled!(clock.never_set_log(), now = %rfc3339(now), "the clock was never set: the certificate's dates are not checked");
            return Ok(());
        }
        if now > self.not_after {
            return Err(CertificateError::Expired {
                not_after: self.not_after,
            });
        }
        if now
            .checked_add(NOT_BEFORE_TOLERANCE)
            .is_some_and(|latest| latest < self.not_before)
        {
            return Err(CertificateError::NotYetValid {
                not_before: self.not_before,
            });
        }
        Ok(())
    }

    /// Checks that the certificate covers the access point, by the rules of a TLS client.
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

    /// Checks that each certificate of the chain certifies the previous one, as TLS peers require.
    /// A single certificate has nothing to check; the last one is trusted.
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
        // `check_dates` checks the leaf's dates, with a tolerance. An authority may be younger than
        // a backdated leaf, so this only requires a time at which all certificates are valid.
        let mut valid_from = unix_seconds(self.not_before);
        for authority in authorities {
            let (_, parsed) = X509Certificate::from_der(authority).map_err(|_| broken())?;
            valid_from = valid_from.max(parsed.validity().not_before.timestamp());
        }
        let seconds = u64::try_from(valid_from).unwrap_or(0);
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

/// The purpose of a certificate.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Usage {
    Server,
    Client,
}

/// Verifies a new server certificate for the access point.
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

/// Verifies a server certificate for the access point in the same way as a rotation does, without
/// installing it: it parses, matches its key, has the requested serial number, can be valid by
/// `clock`, covers the access point, and is certified by its chain.
///
/// # Errors
/// [`CertificateError`]. Another certificate may pass.
pub fn verify_server_certificate(
    pem: &CertificatePem,
    wanted: &CertificateSerial,
    access_point: &str,
    clock: &PlatformClock,
) -> Result<CertificateStatus, CertificateError> {
    verify_server(pem, wanted, access_point, clock).map(|certificate| certificate.status())
}

/// Verifies a new client certificate before its trial: it parses, matches its key, has the
/// requested serial number, can be valid by `clock`, and is certified by its chain.
///
/// # Errors
/// [`CertificateError`]. Another certificate may pass.
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

#[cfg(test)]
mod tests;
