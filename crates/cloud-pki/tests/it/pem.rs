use std::borrow::Cow;

use cloud_pki::pem::{PemError, canonical, certificates, private_key, signing_request};

use crate::file;

/// The layouts in which a text arrives.
fn layouts(pem: &str) -> Vec<String> {
    let body = |text: &str| text.replace('\n', "");
    vec![
        pem.to_owned(),
        pem.replace('\n', "\r\n"),
        pem.replace('\n', "\r"),
        format!("\u{feff}{pem}"),
        pem.lines().map(|line| format!("    {line}\n")).collect(),
        pem.lines().map(|line| format!("\t{line} \n")).collect(),
        pem.replace('\n', " "),
        body(pem),
        pem.replace('\n', "\\n"),
        pem.replace('\n', "\\r\\n"),
        pem.replace('\n', "\n\n"),
        format!("Subject: CN = device.example\n{pem}\ntext behind it\n"),
        pem.trim_end().to_owned(),
    ]
}

#[test]
fn certificates_are_read_in_any_layout() {
    let one = file("p384.cert.pem");
    let two = format!("{one}{}", file("rsa2048.cert.pem"));
    let expected = certificates(&two, 2).unwrap();
    for text in layouts(&two) {
        assert_eq!(certificates(&text, 2).as_ref(), Ok(&expected), "{text}");
    }
    assert_eq!(certificates(&two, 1), Err(PemError::TooMany(1)));
}

#[test]
fn keys_are_read_in_any_layout() {
    for name in [
        "p384.key.pem",
        "rsa2048.pkcs1.pem",
        "p256-with-parameters.sec1.pem",
    ] {
        let expected = private_key(&file(name)).unwrap();
        for text in layouts(&file(name)) {
            assert_eq!(private_key(&text).as_ref(), Ok(&expected), "{name}");
        }
    }
}

#[test]
fn canonical_text_is_strict_pem_with_the_same_content() {
    let pem = format!("{}{}", file("p384.cert.pem"), file("p384.key.pem"));
    let strict = |text: &str| {
        let certificates = rustls_pemfile::certs(&mut text.as_bytes()).count();
        let key = rustls_pemfile::private_key(&mut text.as_bytes());
        certificates == 1 && key.is_ok_and(|key| key == private_key(&pem).ok())
    };
    for text in layouts(&pem) {
        let rewritten = canonical(&text);
        assert!(strict(&rewritten), "{text}");
        assert!(rewritten.lines().all(|line| line.trim_start() == line));
    }
    assert!(matches!(canonical(&pem), Cow::Borrowed(_)));
    assert!(matches!(canonical("not PEM"), Cow::Borrowed("not PEM")));
}

#[test]
fn damage_and_absence_are_different_errors() {
    let (certificate, key) = (file("p384.cert.pem"), file("p384.key.pem"));
    for (text, expected) in [
        ("", PemError::Empty),
        ("\u{feff} \n", PemError::Empty),
        ("hello", PemError::NoCertificate),
        (key.as_str(), PemError::NoCertificate),
        (&certificate[..certificate.len() - 30], PemError::Syntax),
        (
            &certificate.replace("CERTIFICATE-----\nMII", "CERTIFICATE-----\n#II"),
            PemError::Syntax,
        ),
        (
            &certificate.replacen("CERTIFICATE", "CERT", 1),
            PemError::Syntax,
        ),
        ("-----BEGIN CERTIFICATE-----", PemError::Syntax),
        ("-----BEGIN ", PemError::Syntax),
    ] {
        assert_eq!(certificates(text, 4), Err(expected), "{text}");
    }
    assert_eq!(private_key(&certificate), Err(PemError::NoKey));
    assert_eq!(signing_request(&certificate), Err(PemError::NoRequest));
    for name in ["encrypted.pkcs8.pem", "encrypted-traditional.pem"] {
        assert_eq!(
            private_key(&file(name)),
            Err(PemError::EncryptedKey),
            "{name}"
        );
    }
    // A cut-off block behind a whole one.
    let cut = format!("{certificate}{}", &certificate[..200]);
    assert_eq!(certificates(&cut, 4), Err(PemError::Syntax));
}

proptest::proptest! {
    #[test]
    fn random_text_never_panics(text in "(-----BEGIN |-----END |-----|CERTIFICATE|\\\\|n|A|é|\n| ){0,40}") {
        let _ = certificates(&text, 3);
        let _ = private_key(&text);
        let _ = canonical(&text);
    }
}
