//! Certificates that pass and fail the verification.

use rcgen::{CertificateParams, KeyPair, SerialNumber};
use time::OffsetDateTime;

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
    checked_at(now(), pem)
}

fn checked_at(
    now: OffsetDateTime,
    pem: &CertificatePem,
) -> Result<CheckedCertificate, CertificateError> {
    let clock = PlatformClock::default();
    clock.set(now.into());
    verify_server(pem, &"4711".parse().unwrap(), NAME, &clock)
}

#[test]
fn accepts_valid_certificate() {
    let certificate = checked(&issue(params())).unwrap();
    assert_eq!(certificate.serial.as_str(), "4711");
    assert_eq!(certificate.not_after, now() + time::Duration::days(90));
}

#[test]
fn accepts_pem_without_line_breaks_and_rewrites_it() {
    let pem = issue(params());
    let one_line = CertificatePem::new(pem.chain().replace('\n', " "), pem.key().replace('\n', ""));
    checked(&one_line).unwrap();
    assert_eq!(one_line.chain(), pem.chain().replace("\r\n", "\n"));
}

/// RFC 5915 makes the public part of an EC key optional.
#[test]
fn accepts_ec_key_without_public_part() {
    let bare = include_str!("../../../../cloud-pki/tests/keys/p384-bare.sec1.pem");
    let own = include_str!("../../../../cloud-pki/tests/keys/p384.cert.pem");
    CheckedCertificate::read(&CertificatePem::new(own, bare.to_owned())).unwrap();
    let other = include_str!("../../../../cloud-pki/tests/keys/ec-certificate.pem");
    let error = CheckedCertificate::read(&CertificatePem::new(other, bare.to_owned()));
    assert_eq!(error.unwrap_err(), CertificateError::KeyMismatch);
}

#[test]
fn rejects_broken_chain() {
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
    let chain = |chain: &[&str]| checked(&CertificatePem::new(chain.concat(), key.serialize_pem()));
    assert!(chain(&[&leaf]).is_ok());
    assert!(chain(&[&leaf, &middle.pem()]).is_ok());
    assert!(chain(&[&leaf, &middle.pem(), &root]).is_ok());

    // The same name with another key.
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

/// Authorities backdate certificates, some by a day, including those that a new authority
/// certificate signs.
#[test]
fn accepts_authority_younger_than_backdated_leaf() {
    let authority = |name: &str, hours: i64| {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        params.not_before = now() - time::Duration::hours(hours);
        params.not_after = now() + time::Duration::days(400);
        params
    };
    let [root_key, middle_key, key] = [(); 3].map(|()| KeyPair::generate().unwrap());
    let root = rcgen::Issuer::new(authority("root", 2), &root_key);
    let middle = authority("middle", 1)
        .signed_by(&middle_key, &root)
        .unwrap();
    let issuer = rcgen::Issuer::new(authority("middle", 1), &middle_key);
    let leaf = params().signed_by(&key, &issuer).unwrap().pem();
    let root = authority("root", 2).self_signed(&root_key).unwrap().pem();
    let chain = [leaf, middle.pem(), root].concat();
    let pem = CertificatePem::new(chain, key.serialize_pem());
    checked(&pem).unwrap();
}

#[test]
fn compares_20_octet_serial_in_full() {
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
fn rejects_other_key() {
    let pem = issue(params());
    let other = issue(params());
    let mixed = CertificatePem::new(pem.chain(), other.key().to_owned());
    assert_eq!(checked(&mixed).unwrap_err(), CertificateError::KeyMismatch);
}

#[test]
fn rejects_other_serial() {
    let mut params = params();
    params.serial_number = Some(SerialNumber::from(4_712));
    let error = checked(&issue(params)).unwrap_err();
    assert!(
        matches!(&error, CertificateError::WrongSerial { found, .. } if found.as_str() == "4712"),
        "{error}"
    );
}

#[test]
fn dates_have_a_day_of_tolerance_and_need_a_set_clock() {
    let mut expired = params();
    expired.not_after = now() - time::Duration::seconds(1);
    let expired = issue(expired);
    let error = checked(&expired).unwrap_err();
    assert!(matches!(error, CertificateError::Expired { .. }));
    assert!(
        error.to_string().ends_with(" 2029-12-31T23:59:59Z"),
        "{error}"
    );

    let mut future = params();
    future.not_before = now() + time::Duration::hours(23);
    assert!(checked(&issue(future.clone())).is_ok());
    future.not_before = now() + time::Duration::hours(25);
    assert!(matches!(
        checked(&issue(future)).unwrap_err(),
        CertificateError::NotYetValid { .. }
    ));

    let epoch = OffsetDateTime::UNIX_EPOCH;
    assert!(checked_at(epoch, &expired).is_ok());
}

#[test]
fn requires_matching_name_wildcards_included() {
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
fn rejects_malformed_certificate_or_key() {
    let pem = issue(params());
    let cut = &pem.chain()[..pem.chain().len() / 2];
    for chain in [
        "",
        "hello",
        cut,
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
    ] {
        let error = checked(&CertificatePem::new(chain, pem.key().to_owned())).unwrap_err();
        assert!(
            matches!(error, CertificateError::Chain(_) | CertificateError::Pem(_)),
            "{error}"
        );
    }
    let long = pem.chain().repeat(MAX_CHAIN + 1);
    let error = checked(&CertificatePem::new(long, pem.key().to_owned())).unwrap_err();
    assert_eq!(error, CertificateError::Pem(PemError::TooMany(MAX_CHAIN)));
    for key in ["", "hello", pem.chain()] {
        let error = checked(&CertificatePem::new(pem.chain(), key.to_owned())).unwrap_err();
        assert!(matches!(error, CertificateError::KeyPem(_)), "{error}");
    }
}
