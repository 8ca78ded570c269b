//! Sample data of the examples.

use cloud_config::{DeviceConfig, PemParts};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Creates a configuration like the platform's, with generated certificates.
pub(crate) fn new_device() -> Result<DeviceConfig> {
    let (iot_cert, iot_key) = new_pair("SN0001")?;
    let (remote_cert, remote_key) = new_pair("sn0001.ui.example.com")?;
    Ok(DeviceConfig::from_pem_parts(PemParts {
        iot_thing_name: "SN0001",
        iot_endpoint: "abc-ats.iot.eu-west-1.amazonaws.com",
        remote_endpoint: "remote.example.com",
        access_point: "sn0001.ui.example.com",
        iot_ca: &iot_cert,
        iot_cert: &iot_cert,
        iot_key: &iot_key,
        remote_cert: &remote_cert,
        remote_key: &remote_key,
    })?)
}

/// Generates a certificate for one name and its key, PEM.
pub(crate) fn new_pair(name: &str) -> Result<(String, String)> {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()])?;
    Ok((made.cert.pem(), made.signing_key.serialize_pem()))
}
