//! What is issued, and for whom.

use super::*;

#[test]
fn a_kept_authority_goes_on_issuing() {
    let first = Authority::generate().unwrap();
    let kept = serde_json::to_string(first.saved()).unwrap();
    let second = Authority::restore(serde_json::from_str(&kept).unwrap()).unwrap();
    assert_eq!(first.bundle_pem(), second.bundle_pem());

    // Issued by the second, verified with the root that the first one gave its clients.
    let (chain, _) = second
        .issue_remote("sn.ui.localhost", None)
        .unwrap()
        .to_der()
        .unwrap();
    assert_eq!(chain.len(), 2, "leaf and intermediate");
    let mut roots = rustls::RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(first.bundle_pem().as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier =
        rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider)
            .build()
            .unwrap();
    let verify = |name: &str| {
        use rustls::client::danger::ServerCertVerifier;
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        verifier.verify_server_cert(
            &chain[0],
            &chain[1..],
            &name,
            &[],
            rustls_pki_types::UnixTime::now(),
        )
    };
    verify("sn.ui.localhost").unwrap();
    verify("other.ui.localhost").unwrap_err();
}

#[test]
fn device_certificate_names_thing_not_iot_root() {
    let authority = Authority::generate().unwrap();
    let issued = authority.issue_device(&"S:".repeat(64), None).unwrap();
    let (chain, _) = issued.to_der().unwrap();
    assert_eq!(
        thing_of(&chain[0]).unwrap(),
        ("S:".repeat(64), issued.serial)
    );
    assert_ne!(authority.iot_root_pem(), authority.device_issuer_pem());
}

#[test]
fn serial_numbers_are_fresh_decimal_and_of_one_length() {
    let authority = Authority::generate().unwrap();
    let serials: std::collections::HashSet<_> = (0..20)
        .map(|_| {
            authority
                .issue_remote("a.ui.localhost", None)
                .unwrap()
                .serial
        })
        .collect();
    assert_eq!(serials.len(), 20);
    assert!(
        serials
            .iter()
            .all(|serial| serial.bytes().all(|b| b.is_ascii_digit()))
    );
}

#[test]
fn a_request_gives_its_key_and_nothing_else() {
    let authority = Authority::generate().unwrap();
    let key = KeyPair::generate().unwrap();
    let mut requested = CertificateParams::new(vec!["bank.example".to_owned()]).unwrap();
    requested.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let request = requested.serialize_request(&key).unwrap().pem().unwrap();
    let request = SigningRequest::from_pem(&request).unwrap();
    let issued = authority
        .issue_remote("a.ui.localhost", Some(&request))
        .unwrap();
    assert!(issued.key_pem.is_none());
    let leaf = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap();
    let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
    assert_eq!(
        leaf.public_key().subject_public_key.data.as_ref(),
        key.der_bytes()
    );
    assert!(!leaf.is_ca());
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 1);
    assert_eq!(
        thing_of(&CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap()).unwrap(),
        ("a.ui.localhost".to_owned(), issued.serial)
    );
}

#[test]
fn a_request_that_its_key_did_not_sign_is_refused() {
    let key = KeyPair::generate().unwrap();
    let request = CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let good = request.pem().unwrap();
    // A bit in the middle of the signature, which is at the end.
    let at = good.trim_end().rfind("-----END").unwrap() - 30;
    let other = if &good[at..=at] == "A" { "B" } else { "A" };
    let mut forged = good.clone();
    forged.replace_range(at..=at, other);
    assert!(SigningRequest::from_pem(&good).is_some());
    assert!(SigningRequest::from_pem(&forged).is_none());
    assert!(SigningRequest::from_pem("hello").is_none());
}
