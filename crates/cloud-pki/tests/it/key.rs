use cloud_pki::key::{KeyError, KeyType, PairError, certified, check};
use cloud_pki::pem;

use crate::file;

fn pair(certificate: &str, key: &str) -> Result<(), PairError> {
    let chain = pem::certificates(&file(certificate), 1).unwrap();
    certified(chain, pem::private_key(&file(key)).unwrap()).map(drop)
}

#[test]
fn keys_that_openssl_writes_are_taken() {
    for (certificate, key) in [
        ("ec-certificate.pem", "ec-key-without-public-part.pkcs8.pem"),
        ("ec-certificate.pem", "ec-key-without-public-part.sec1.pem"),
        ("p384.cert.pem", "p384-bare.pkcs8.pem"),
        ("p384.cert.pem", "p384-bare.sec1.pem"),
        ("p384.cert.pem", "p384.key.pem"),
        (
            "p256-with-parameters.cert.pem",
            "p256-with-parameters.sec1.pem",
        ),
        ("rsa2048.cert.pem", "rsa2048.key.pem"),
        ("rsa2048.cert.pem", "rsa2048.pkcs1.pem"),
        ("ed25519.cert.pem", "ed25519.key.pem"),
    ] {
        assert_eq!(pair(certificate, key), Ok(()), "{key}");
    }
}

#[test]
fn keys_that_tls_cannot_use_are_named() {
    for (name, key_type) in [
        ("p521", KeyType::Ec("P-521")),
        ("secp256k1", KeyType::Ec("secp256k1")),
        ("explicit", KeyType::EcExplicitParameters),
        ("rsa1024", KeyType::Rsa(1024)),
        ("rsa-pss", KeyType::RsaPss),
        ("ed448", KeyType::Named("Ed448")),
    ] {
        let result = pair(&format!("{name}.cert.pem"), &format!("{name}.key.pem"));
        let expected = KeyError::Unsupported(key_type.clone());
        assert_eq!(result, Err(PairError::Key(expected)), "{name}");
        let message = result.unwrap_err().to_string();
        assert!(message.contains(&key_type.to_string()), "{message}");
    }
    assert_eq!(
        pair("explicit.cert.pem", "explicit.sec1.pem"),
        Err(PairError::Key(KeyError::Unsupported(
            KeyType::EcExplicitParameters
        )))
    );
}

#[test]
fn key_of_another_certificate_is_a_mismatch() {
    for (certificate, key) in [
        (
            "p256-with-parameters.cert.pem",
            "ec-key-without-public-part.pkcs8.pem",
        ),
        (
            "p256-with-parameters.cert.pem",
            "ec-key-without-public-part.sec1.pem",
        ),
        ("p384.cert.pem", "ec-key-without-public-part.pkcs8.pem"),
        ("ec-certificate.pem", "p384-bare.sec1.pem"),
        ("rsa2048.cert.pem", "p384-bare.sec1.pem"),
        ("ec-certificate.pem", "p384.key.pem"),
        ("p384.cert.pem", "rsa2048.key.pem"),
        ("p384.cert.pem", "ed25519.key.pem"),
    ] {
        assert_eq!(
            pair(certificate, key),
            Err(PairError::Mismatch),
            "{certificate} {key}"
        );
    }
}

#[test]
fn damaged_key_and_certificate_are_different_errors() {
    let key = || pem::private_key(&file("p384.key.pem")).unwrap();
    assert_eq!(
        certified(Vec::new(), key()).unwrap_err(),
        PairError::NotX509
    );
    let damaged = vec![b"not X.509".as_slice().into()];
    assert_eq!(certified(damaged, key()).unwrap_err(), PairError::NotX509);
    let chain = || pem::certificates(&file("p384.cert.pem"), 1).unwrap();
    let whole = key();
    for end in [0, 1, 20, whole.secret_der().len() - 1] {
        let cut = whole.secret_der()[..end].to_vec();
        let cut = rustls_pki_types::PrivatePkcs8KeyDer::from(cut).into();
        let error = certified(chain(), cut).unwrap_err();
        assert_eq!(error, PairError::Key(KeyError::Damaged), "{end}");
    }
}

#[test]
fn key_with_short_scalar_is_padded() {
    // A scalar that begins with zeros, without them: some writers encode it as a number.
    let (certificate, key) = std::iter::repeat_with(|| {
        let made = rcgen::generate_simple_self_signed(vec!["device.example".to_owned()]).unwrap();
        (made.cert.der().clone(), made.signing_key.serialize_der())
    })
    .find(|(_, key)| key[36] == 0)
    .unwrap();
    let mut bare = vec![0x30, 0x30, 0x02, 0x01, 0x01, 0x04, 31];
    bare.extend_from_slice(&key[37..68]);
    bare.extend([
        0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07,
    ]);
    bare[1] = u8::try_from(bare.len() - 2).unwrap();
    let bare = rustls_pki_types::PrivateSec1KeyDer::from(bare).into();
    certified(vec![certificate], bare).unwrap();
}

proptest::proptest! {
    #[test]
    fn random_bytes_never_panic(
        key in proptest::collection::vec(proptest::num::u8::ANY, 0..200),
        public in proptest::collection::vec(proptest::num::u8::ANY, 0..100),
        at in 0_usize..66,
    ) {
        let mut mutated = pem::private_key(&file("ec-key-without-public-part.pkcs8.pem")).unwrap()
            .secret_der().to_vec();
        for (byte, random) in mutated.iter_mut().skip(at).zip(&key) {
            *byte ^= random;
        }
        for der in [key, mutated] {
            let pkcs8 = rustls_pki_types::PrivatePkcs8KeyDer::from(der.clone()).into();
            let chain = pem::certificates(&file("ec-certificate.pem"), 1).unwrap();
            let _ = certified(chain, pkcs8);
            let sec1 = rustls_pki_types::PrivateSec1KeyDer::from(der).into();
            let _ = check(sec1, &public);
        }
    }
}
