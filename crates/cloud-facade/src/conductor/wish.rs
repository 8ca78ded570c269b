//! Which certificates the platform wishes for, as the shadow tells it.
//!
//! Protocol: docs/protocol.md, "Remote access" (certificate rotation) and "IoT messaging" (client certificate).

use cloud_remote::{CertificateSerial, SerialError};
use cloud_shadow::Delta;

/// What the platform wished for when it was last heard.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) remote: Wish,
    pub(super) iot: Wish,
}

/// Whether there is a wish for a certificate.
#[derive(Debug, Default)]
pub(super) struct Wish(bool);

impl Wish {
    /// The certificate to have from now on: the one that is wished for, or the one in use where a wish is there no more.
    /// `None` as long as there is no wish.
    pub(super) fn next(
        &mut self,
        wish: Option<CertificateSerial>,
        in_use: impl FnOnce() -> CertificateSerial,
    ) -> Option<CertificateSerial> {
        let had = std::mem::replace(&mut self.0, wish.is_some());
        wish.or_else(|| had.then(in_use))
    }
}

/// The certificate that is wished for under a key of the shadow.
pub(super) fn wished(delta: &Delta, key: &str) -> Option<CertificateSerial> {
    let wish = delta.state.get(key)?;
    let wish = wish.as_str().ok_or("it is not a string".to_owned());
    match wish.and_then(|serial| {
        serial
            .parse()
            .map_err(|error: SerialError| error.to_string())
    }) {
        Ok(serial) => Some(serial),
        Err(error) => {
            tracing::warn!(
                error,
                "the shadow's {key} is not a serial number; it is ignored"
            );
            None
        }
    }
}
