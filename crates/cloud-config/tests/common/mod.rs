//! Configurations to store, made on the spot.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use cloud_config::{DeviceConfig, PemParts};

/// A directory in memory where there is such a thing: the tests sync thousands of files, and what a slow disk adds to that
/// is time alone.
pub(crate) fn fast_directory() -> tempfile::TempDir {
    tempfile::TempDir::new_in("/dev/shm")
        .or_else(|_| tempfile::TempDir::new())
        .unwrap()
}

/// A certificate for one name and its key, PEM.
pub(crate) fn pair(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

pub(crate) fn device(name: &str) -> DeviceConfig {
    let (iot_cert, iot_key) = pair(&format!("iot.{name}.example"));
    let (remote_cert, remote_key) = pair(&format!("ui.{name}.example"));
    device_of(name, [&iot_cert, &iot_key, &remote_cert, &remote_key])
}

/// The same from stored texts: certificate and key for the broker, certificate and key for remote access.
pub(crate) fn device_of(
    name: &str,
    [iot_cert, iot_key, remote_cert, remote_key]: [&str; 4],
) -> DeviceConfig {
    DeviceConfig::from_pem_parts(PemParts {
        iot_thing_name: name,
        iot_endpoint: "abc-ats.iot.eu-west-1.amazonaws.com",
        remote_endpoint: "relay.example.com",
        access_point: &format!("ui.{name}.example"),
        iot_ca: iot_cert,
        iot_cert,
        iot_key,
        remote_cert,
        remote_key,
    })
    .unwrap()
}
