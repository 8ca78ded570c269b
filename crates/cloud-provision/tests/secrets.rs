//! No log line at any level, from this crate or a dependency, contains a secret. This is a separate
//! program because tracing caches the enabled levels per process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test code"
)]

#[path = "it/common/mod.rs"]
mod common;

use std::io;
use std::sync::{Arc, Mutex};

use cloud_provision::{DeviceKey, KeyPurpose, KeySource, KeySourceError, PrivateKeyPem};
use tracing_subscriber::filter::LevelFilter;

use common::{Api, KEY, granted, key, ok, with_status};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Generates keys and keeps them in PEM.
#[derive(Default)]
struct RecordingSource(Mutex<Vec<String>>);

impl KeySource for RecordingSource {
    async fn make_key(&self, _: KeyPurpose, _: &str) -> Result<DeviceKey, KeySourceError> {
        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key);
        self.0.lock().unwrap().push(key.serialize_pem());
        let private_key = PrivateKeyPem::new(key.serialize_pem());
        Ok(DeviceKey::new(private_key, request.unwrap().pem().unwrap()))
    }
}

#[tokio::test]
async fn no_log_line_contains_a_secret() {
    let captured = Captured::default();
    let writer = captured.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let guard = tracing::subscriber::set_default(subscriber);

    let answer = granted();
    let mut mismatched = answer.clone();
    mismatched["registration"]["thing"]["remote"]["pkey"] =
        answer["registration"]["thing"]["iot"]["keyPair"]["privateKey"].clone();
    let sent = answer.clone();
    let api = Api::start(move |n| {
        Some(match n {
            0 => with_status(500, "oops"),
            1 => ok(&sent),
            2 => ok(&mismatched),
            _ => with_status(
                400,
                axum::Json(serde_json::json!({"registration": {"error": KEY}})),
            ),
        })
    })
    .await;
    let client = api.client();
    let mut output = format!("{:?}", client.register("SN0001", &key()).await.unwrap());
    for _ in 0..2 {
        let error = client.register("SN0001", &key()).await.unwrap_err();
        tracing::error!(%error, ?error, key = ?key(), "as a host would log it");
        output.push_str(&format!("{error} {error:?}"));
    }
    let source = RecordingSource::default();
    let registered = client.register_with_keys("SN0001", &key(), &source).await;
    output.push_str(&format!("{registered:?}"));
    drop(guard);

    output.push_str(&String::from_utf8(captured.0.lock().unwrap().clone()).unwrap());
    for expected in [
        "registering",
        "trying again",
        "registered",
        "as a host would log it",
    ] {
        assert!(
            output.contains(expected),
            "the log was not captured: {output}"
        );
    }
    let thing = &answer["registration"]["thing"];
    let keys = [
        &thing["iot"]["keyPair"]["privateKey"],
        &thing["remote"]["pkey"],
    ];
    let lines = keys.iter().flat_map(|pem| {
        pem.as_str()
            .unwrap()
            .lines()
            .filter(|line| !line.starts_with("-----"))
    });
    let own = source.0.lock().unwrap().clone();
    assert_eq!(own.len(), 2, "the request contains the device's keys");
    let own_lines = own
        .iter()
        .flat_map(|pem| pem.lines().filter(|line| !line.starts_with("-----")));
    for secret in lines.chain(own_lines).chain([KEY]) {
        assert!(!output.contains(secret), "{secret} in {output}");
    }
}
