//! Checks a certificate before it is stored or used.
//!
//! A new certificate replaces the old one only if it parses, belongs to its key, is the one that was asked for, can be
//! valid now, is certified by the chain that comes with it and, if it is for the device's page, covers the access point.
//! Whether an authority vouches for it is not asked: the device shows it, the other side judges it.
//!
//! Protocol: `docs/protocol.md`, "Remote access" (certificate rotation) and "IoT messaging" (client certificate).

use std::sync::Arc;
use std::time::Duration;

use rustls::RootCertStore;
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::certificate::CertificatePem;
use crate::clock::PlatformClock;
use crate::serial::CertificateSerial;
use crate::status::CertificateStatus;

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
    #[error("the certificate has expired on {not_after}")]
    Expired {
        /// The last moment of its validity.
        not_after: OffsetDateTime,
    },
    /// Not valid for more than a day to come.
    #[error("the certificate is not valid before {not_before}")]
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
        let key = PrivateKeyDer::from_pem_slice(pem.key().as_bytes())
            .map_err(|_| CertificateError::Key)?;
        let key = CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider())
            .map_err(|error| match error {
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

    /// Whether it can be valid at `now`.
    pub(crate) fn check_dates(&self, now: OffsetDateTime) -> Result<(), CertificateError> {
        if now.unix_timestamp() < CLOCK_SET_SINCE {
            tracing::warn!(%now, "the clock was never set: the certificate's dates are not checked");
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
        // The leaf's dates are judged elsewhere, with a tolerance.
        let seconds = u64::try_from(self.not_before.unix_timestamp()).unwrap_or(0);
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
pub(crate) fn check_server(
    pem: &CertificatePem,
    wanted: &CertificateSerial,
    access_point: &str,
    now: OffsetDateTime,
) -> Result<CheckedCertificate, CertificateError> {
    let certificate = CheckedCertificate::read(pem)?;
    certificate.check_serial(wanted)?;
    certificate.check_dates(now)?;
    certificate.check_name(access_point)?;
    certificate.check_chain(Usage::Server)?;
    Ok(certificate)
}

/// All checks that a new client certificate has to pass before it is tried: it parses, belongs to its key, is the one that
/// was asked for, can be valid by `clock`, and is certified by the chain that comes with it.
///
/// # Errors
/// [`CertificateError`]. Another one may be better.
pub fn check_client(
    pem: &CertificatePem,
    wanted: &CertificateSerial,
    clock: &PlatformClock,
) -> Result<CertificateStatus, CertificateError> {
    let certificate = CheckedCertificate::read(pem)?;
    certificate.check_serial(wanted)?;
    certificate.check_dates(clock.now())?;
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
mod tests {
    use rcgen::{CertificateParams, KeyPair, SerialNumber};

    use super::*;

    const NAME: &str = "sn0001.ui.example.com";

    fn now() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_893_456_000).unwrap()
    }

    fn params() -> CertificateParams {
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.serial_number = Some(SerialNumber::from(4_711));
        params.not_before = now() - time::Duration::days(1);
        params.not_after = now() + time::Duration::days(90);
        params
    }

    fn issue(params: CertificateParams) -> CertificatePem {
        let key = KeyPair::generate().unwrap();
        CertificatePem::new(params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    fn checked(pem: &CertificatePem) -> Result<CheckedCertificate, CertificateError> {
        check_server(pem, &"4711".parse().unwrap(), NAME, now())
    }

    #[test]
    fn a_good_certificate_passes() {
        let certificate = checked(&issue(params())).unwrap();
        assert_eq!(certificate.serial.as_str(), "4711");
        assert_eq!(certificate.not_after, now() + time::Duration::days(90));
    }

    #[test]
    fn a_chain_has_to_hang_together() {
        let authority = |name: &str| {
            let mut params = CertificateParams::new([]).unwrap();
            params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            params
                .distinguished_name
                .push(rcgen::DnType::CommonName, name);
            params.not_before = now() - time::Duration::days(400);
            params.not_after = now() + time::Duration::days(400);
            params
        };
        let [root_key, middle_key, key] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let root = rcgen::Issuer::new(authority("root"), &root_key);
        let middle = authority("middle").signed_by(&middle_key, &root).unwrap();
        let issuer = rcgen::Issuer::new(authority("middle"), &middle_key);
        let leaf = params().signed_by(&key, &issuer).unwrap().pem();
        let root = authority("root").self_signed(&root_key).unwrap().pem();
        let chain =
            |chain: &[&str]| checked(&CertificatePem::new(chain.concat(), key.serialize_pem()));
        assert!(chain(&[&leaf]).is_ok());
        assert!(chain(&[&leaf, &middle.pem()]).is_ok());
        assert!(chain(&[&leaf, &middle.pem(), &root]).is_ok());

        // The same name, another key.
        let impostor = authority("middle")
            .self_signed(&KeyPair::generate().unwrap())
            .unwrap()
            .pem();
        for broken in [
            &[&leaf[..], &root][..],
            &[&leaf, &impostor],
            &[&leaf, &middle.pem(), &impostor],
            &[
                &leaf,
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            ],
        ] {
            let error = chain(broken).unwrap_err();
            assert!(matches!(error, CertificateError::Chain(_)), "{error}");
        }
    }

    #[test]
    fn a_serial_number_of_twenty_octets_is_compared_in_full() {
        let mut params = params();
        params.serial_number = Some(SerialNumber::from_slice(&[0x7f; 20]));
        let certificate = CheckedCertificate::read(&issue(params)).unwrap();
        assert_eq!(
            certificate.serial.as_str(),
            "727885129180488904360266563744972327436484050815"
        );
        assert!(certificate.check_serial(&"4711".parse().unwrap()).is_err());
    }

    #[test]
    fn another_key_is_refused() {
        let pem = issue(params());
        let other = issue(params());
        let mixed = CertificatePem::new(pem.chain(), other.key().to_owned());
        assert_eq!(checked(&mixed).unwrap_err(), CertificateError::KeyMismatch);
    }

    #[test]
    fn another_serial_number_is_refused() {
        let mut params = params();
        params.serial_number = Some(SerialNumber::from(4_712));
        let error = checked(&issue(params)).unwrap_err();
        assert!(
            matches!(&error, CertificateError::WrongSerial { found, .. } if found.as_str() == "4712"),
            "{error}"
        );
    }

    #[test]
    fn dates_are_judged_with_a_day_of_tolerance_and_only_by_a_clock_that_was_set() {
        let mut expired = params();
        expired.not_after = now() - time::Duration::seconds(1);
        let expired = issue(expired);
        assert!(matches!(
            checked(&expired).unwrap_err(),
            CertificateError::Expired { .. }
        ));

        let mut future = params();
        future.not_before = now() + time::Duration::hours(23);
        assert!(checked(&issue(future.clone())).is_ok());
        future.not_before = now() + time::Duration::hours(25);
        assert!(matches!(
            checked(&issue(future)).unwrap_err(),
            CertificateError::NotYetValid { .. }
        ));

        let epoch = OffsetDateTime::UNIX_EPOCH;
        assert!(check_server(&expired, &"4711".parse().unwrap(), NAME, epoch).is_ok());
    }

    #[test]
    fn the_name_has_to_be_covered_wildcards_included() {
        let certificate = |name: &str| {
            let mut params = params();
            params.subject_alt_names = vec![rcgen::SanType::DnsName(name.try_into().unwrap())];
            checked(&issue(params))
        };
        assert!(certificate("*.ui.example.com").is_ok());
        for name in ["sn0002.ui.example.com", "*.example.com", "ui.example.com"] {
            assert!(
                matches!(certificate(name), Err(CertificateError::WrongName { .. })),
                "{name}"
            );
        }
    }

    #[test]
    fn text_that_is_no_certificate_or_key_is_refused() {
        let pem = issue(params());
        let cut = &pem.chain()[..pem.chain().len() / 2];
        for chain in [
            "",
            "hello",
            cut,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            let error = checked(&CertificatePem::new(chain, pem.key().to_owned())).unwrap_err();
            assert!(matches!(error, CertificateError::Chain(_)), "{error}");
        }
        let long = pem.chain().repeat(MAX_CHAIN + 1);
        let error = checked(&CertificatePem::new(long, pem.key().to_owned())).unwrap_err();
        assert!(matches!(error, CertificateError::Chain(_)), "{error}");
        for key in ["", "hello", pem.chain()] {
            let error = checked(&CertificatePem::new(pem.chain(), key.to_owned())).unwrap_err();
            assert_eq!(error, CertificateError::Key);
        }
    }
}
