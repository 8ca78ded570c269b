//! Which certificates the platform wishes for, as the shadow tells it.
//!
//! Protocol: docs/protocol.md, "Remote access" (certificate rotation) and "IoT messaging" (client certificate).

use cloud_net::{LogThrottle, warn_throttled};
use cloud_remote::{CertificateSerial, SerialError};
use cloud_shadow::Delta;

/// What the platform wished for when it was last heard.
#[derive(Debug, Default)]
pub(super) struct Wishes {
    pub(super) remote: Wish,
    pub(super) iot: Wish,
}

/// The certificate that is wished for, if there is a wish.
#[derive(Debug, Default)]
pub(super) struct Wish(Option<CertificateSerial>);

impl Wish {
    /// Takes note of the wish, or of there being none, and says whether that is news.
    pub(super) fn note(&mut self, wish: Option<&CertificateSerial>) -> bool {
        let news = self.0.as_ref() != wish;
        self.0 = wish.cloned();
        news
    }
}

/// The certificate that is wished for under a key of the shadow.
pub(super) fn wished(delta: &Delta, key: &str, log: &LogThrottle) -> Option<CertificateSerial> {
    let wish = delta.state.get(key)?;
    let wish = wish.as_str().ok_or("it is not a string".to_owned());
    match wish.and_then(|serial| {
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
