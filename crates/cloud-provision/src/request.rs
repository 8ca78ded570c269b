//! The request for a registration: what it says, in memory that is wiped.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::keys::OwnKeys;
use crate::secret::ProvisioningKey;

/// What is sent, as often as needed. Clones share the body, which is wiped with the last of them.
#[derive(Clone)]
pub(crate) struct Registration {
    pub(crate) body: Bytes,
    pub(crate) key: ProvisioningKey,
    pub(crate) keys: Option<Arc<OwnKeys>>,
}

#[derive(Serialize)]
struct Body<'a> {
    sn: &'a str,
    token: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    csr: Option<SigningRequests<'a>>,
}

#[derive(Serialize)]
struct SigningRequests<'a> {
    iot: &'a str,
    remote: &'a str,
}

impl Registration {
    /// The request for a serial number that was checked.
    pub(crate) fn new(serial: &str, key: &ProvisioningKey, keys: Option<OwnKeys>) -> Self {
        let csr = keys.as_ref().map(|keys| SigningRequests {
            iot: &keys.iot.request_pem,
            remote: &keys.remote.request_pem,
        });
        let requests = csr
            .as_ref()
            .map_or(0, |csr| csr.iot.len() + csr.remote.len());
        let body = Body {
            sn: serial,
            token: key.expose(),
            csr,
        };
        // Room for an escape at every character, so that the buffer does not move and leave a copy behind.
        let room = 128 + serial.len() + 2 * (key.expose().len() + requests);
        let mut buffer = Zeroizing::new(Vec::with_capacity(room));
        // A few strings into memory: this has no way to fail.
        let _ = serde_json::to_writer(&mut *buffer, &body);
        Self {
            body: Bytes::from_owner(Wiped(buffer)),
            key: key.clone(),
            keys: keys.map(Arc::new),
        }
    }
}

struct Wiped(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
