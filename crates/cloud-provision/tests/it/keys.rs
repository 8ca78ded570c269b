//! Keys generated on the device: the signing requests and the certificates for them.

use cloud_provision::{
    DeviceKey, KeyOrigin, KeyPurpose, KeySource, KeySourceError, PrivateKeyPem, ProvisionError,
};
use rcgen::{CertificateParams, CertificateSigningRequestParams, KeyPair};
use serde_json::Value;

use crate::common::tls::{Ca, ca};
use crate::common::{Api, granted, key, ok, with_status};

/// A correct key source without state.
struct ValidSource;

fn device_key() -> DeviceKey {
    let key = KeyPair::generate().unwrap();
    DeviceKey::new(PrivateKeyPem::new(key.serialize_pem()), request(&key))
}

fn request(key: &KeyPair) -> String {
    let params = CertificateParams::default();
    params.serialize_request(key).unwrap().pem().unwrap()
}

impl KeySource for ValidSource {
    async fn make_key(&self, _: KeyPurpose, serial: &str) -> Result<DeviceKey, KeySourceError> {
        assert_eq!(serial, "SN0001");
        Ok(device_key())
    }
}

/// The response of a platform that supports signing requests.
fn signed(ca: &Ca, request: &Value) -> Value {
    let mut answer = granted();
    let thing = &mut answer["registration"]["thing"];
    let sign = |request: &Value| {
        let request = CertificateSigningRequestParams::from_pem(request.as_str().unwrap()).unwrap();
        Value::from(request.signed_by(ca.issuer()).unwrap().pem())
    };
    thing["iot"]["certificates"]["device_certificate"] = sign(&request["csr"]["iot"]);
    thing["remote"]["cert"] = sign(&request["csr"]["remote"]);
    thing["iot"].as_object_mut().unwrap().remove("keyPair");
    thing["remote"].as_object_mut().unwrap().remove("pkey");
    answer
}

/// An API that returns HTTP 500 `failures` times and then `answer` of each request.
async fn api(
    failures: usize,
    answer: impl Fn(Value) -> Value + Clone + Send + Sync + 'static,
) -> Api {
    Api::start_with_body(move |n, body| {
        Some(match n {
            n if n < failures => with_status(500, "oops"),
            _ => ok(&answer(serde_json::from_slice(body).unwrap())),
        })
    })
    .await
}

#[tokio::test]
async fn platform_receives_csr_and_sends_no_key() {
    let ca = std::sync::Arc::new(ca());
    let api = api(1, move |request| signed(&ca, &request)).await;
    let client = api.client();
    let provisioned = client
        .register_with_keys("SN0001", &key(), &ValidSource)
        .await
        .unwrap();
    assert_eq!(
        api.received(0).body,
        api.received(1).body,
        "a retry sends the same keys"
    );
    let (iot, remote) = (&provisioned.iot, &provisioned.remote);
    assert_eq!(
        (iot.key_origin, remote.key_origin),
        (KeyOrigin::Device, KeyOrigin::Device)
    );
    assert_ne!(
        iot.private_key.expose_secret(),
        remote.private_key.expose_secret()
    );
    let sent = String::from_utf8(api.received(1).body.to_vec()).unwrap();
    assert!(sent.contains("BEGIN CERTIFICATE REQUEST") && !sent.contains("PRIVATE KEY"));
    for private_key in [&iot.private_key, &remote.private_key] {
        let line = private_key.expose_secret().lines().nth(1).unwrap();
        assert!(!sent.contains(line) && !format!("{provisioned:?}").contains(line));
    }
}

#[tokio::test]
async fn keys_from_platform_without_csr_support_are_marked() {
    let api = api(0, |_| granted()).await;
    let provisioned = api
        .client()
        .register_with_keys("SN0001", &key(), &ValidSource)
        .await
        .unwrap();
    assert_eq!(provisioned.iot.key_origin, KeyOrigin::Platform);
    assert_eq!(provisioned.remote.key_origin, KeyOrigin::Platform);
    let request = api.received(0);
    assert!(request.body.starts_with(br#"{"sn":"SN0001","token":"#));
}

#[tokio::test]
async fn certificate_for_another_key_is_rejected() {
    let ca = std::sync::Arc::new(ca());
    let api = api(0, move |mut request| {
        // Swap the certificates.
        let csr = request["csr"].as_object_mut().unwrap();
        let iot = csr["iot"].clone();
        csr.insert("remote".into(), iot);
        signed(&ca, &request)
    })
    .await;
    let error = api
        .client()
        .register_with_keys("SN0001", &key(), &ValidSource)
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            ProvisionError::CertificateMismatch {
                field: "registration.thing.remote.cert",
                ..
            }
        ),
        "{error}"
    );
    assert!(error.may_have_registered() && !error.is_retryable());
}

#[tokio::test]
async fn response_without_keys_is_rejected_without_csr() {
    let ca = std::sync::Arc::new(ca());
    let api = api(0, move |_| {
        let key = KeyPair::generate().unwrap();
        let request = request(&key);
        signed(
            &ca,
            &serde_json::json!({"csr": {"iot": request, "remote": request}}),
        )
    })
    .await;
    let error = api.client().register("SN0001", &key()).await.unwrap_err();
    assert!(error.to_string().contains("keyPair` is missing"), "{error}");
}

/// Returns the function's result for remote access.
struct FaultySource(fn() -> Result<DeviceKey, KeySourceError>);

impl KeySource for FaultySource {
    async fn make_key(&self, purpose: KeyPurpose, _: &str) -> Result<DeviceKey, KeySourceError> {
        match purpose {
            KeyPurpose::Iot => Ok(device_key()),
            KeyPurpose::Remote => (self.0)(),
        }
    }
}

#[tokio::test]
async fn unusable_key_fails_before_anything_is_sent() {
    let api = api(0, |_| granted()).await;
    for (source, reason) in [
        (
            FaultySource(|| Err(KeySourceError::new("the key store is locked"))),
            "the key store is locked",
        ),
        (
            FaultySource(|| Ok(DeviceKey::new(PrivateKeyPem::new("hello"), "hello"))),
            "the private key is missing",
        ),
        (
            FaultySource(|| {
                let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
                Ok(DeviceKey::new(
                    PrivateKeyPem::new(key.serialize_pem()),
                    request(&other),
                ))
            }),
            "is for another key",
        ),
        (
            FaultySource(|| {
                let key = KeyPair::generate().unwrap();
                Ok(DeviceKey::new(
                    PrivateKeyPem::new(key.serialize_pem()),
                    "hello",
                ))
            }),
            "the signing request is missing",
        ),
    ] {
        let error = api
            .client()
            .register_with_keys("SN0001", &key(), &source)
            .await
            .unwrap_err();
        assert!(
            matches!(
                error,
                ProvisionError::DeviceKey {
                    purpose: KeyPurpose::Remote,
                    ..
                }
            ),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains(reason) && text.contains("for remote access"),
            "{text}"
        );
        assert!(!error.may_have_registered());
    }
    assert_eq!(api.requests(), 0);
}

#[cfg(feature = "csr")]
#[tokio::test]
async fn generated_keys_are_unique_and_usable() {
    let ca = std::sync::Arc::new(ca());
    let api = api(0, move |request| signed(&ca, &request)).await;
    let mut seen = std::collections::HashSet::new();
    for _ in 0..2 {
        let provisioned = api
            .client()
            .register_with_keys("SN0001", &key(), &cloud_provision::GeneratedKeys)
            .await
            .unwrap();
        for key in [provisioned.iot.private_key, provisioned.remote.private_key] {
            assert!(seen.insert(key.expose_secret().to_owned()));
        }
    }
}
