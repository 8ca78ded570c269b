//! The certificates that the platform desires, according to the shadow.

use cloud_net::{LogThrottle, warn_throttled};
use cloud_remote::{CertificateSerial, SerialError};
use cloud_shadow::Delta;

/// The desired certificates in the last delta.
#[derive(Debug, Default)]
pub(super) struct DesiredCertificates {
    pub(super) remote: DesiredCertificate,
    pub(super) iot: DesiredCertificate,
}

/// A desired certificate, if any.
#[derive(Debug, Default)]
pub(super) struct DesiredCertificate(Option<CertificateSerial>);

impl DesiredCertificate {
    /// Updates the desired certificate; returns whether it changed.
    pub(super) fn update(&mut self, serial: Option<&CertificateSerial>) -> bool {
        let changed = self.0.as_ref() != serial;
        self.0 = serial.cloned();
        changed
    }
}

/// Parses the desired certificate under a key of the shadow.
pub(super) fn parse_desired(
    delta: &Delta,
    key: &str,
    log: &LogThrottle,
) -> Option<CertificateSerial> {
    let value = delta.state.get(key)?;
    let text = value.as_str().ok_or("it is not a string".to_owned());
    match text.and_then(|serial| {
        serial
            .parse()
            .map_err(|error: SerialError| error.to_string())
    }) {
        Ok(serial) => Some(serial),
        Err(error) => {
            warn_throttled!(
                log,
                error,
                "the shadow's {key} is not a serial number; it is ignored"
            );
            None
        }
    }
}
