//! The names of the files in the directory.

/// The files of a configuration, in the order of the moves. The last one makes the device
/// provisioned.
pub(crate) const FILES: [&str; 7] = [
    SERIAL_NUMBER,
    IOT_CA,
    IOT_CERT,
    IOT_KEY,
    REMOTE_CERT,
    REMOTE_KEY,
    CLOUD_CONFIG,
];
/// Exists only if the serial number is not the thing name.
pub(crate) const SERIAL_NUMBER: &str = "serial_number.json";
pub(crate) const IOT_CA: &str = "iot_ca.pem";
pub(crate) const IOT_CERT: &str = "iot_cert.pem";
pub(crate) const IOT_KEY: &str = "iot_key.pem";
pub(crate) const REMOTE_CERT: &str = "remote_cert.pem";
pub(crate) const REMOTE_KEY: &str = "remote_key.pem";
pub(crate) const CLOUD_CONFIG: &str = "cloud_config.json";

pub(crate) const STAGING: &str = ".staging";
pub(crate) const COMMITTED: &str = ".committed";
/// The former `cloud_config.json` of a reset device.
pub(crate) const REMOVED: &str = ".removed";
