//! The registration request, in memory that is zeroized.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use zeroize::Zeroizing;

use crate::keys::DeviceKeys;
use crate::secret::ProvisioningKey;

/// A request that can be sent repeatedly. Clones share the body; dropping the last one zeroizes it.
#[derive(Clone)]
pub(crate) struct Registration {
    pub(crate) body: Bytes,
    pub(crate) key: ProvisioningKey,
    pub(crate) keys: Option<Arc<DeviceKeys>>,
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
    /// Creates the request for a validated serial number.
    pub(crate) fn new(serial: &str, key: &ProvisioningKey, keys: Option<DeviceKeys>) -> Self {
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
        // Capacity for an escape at every character: a reallocation would leave a copy behind.
        let capacity = 128 + serial.len() + 2 * (key.expose().len() + requests);
        let mut buffer = Zeroizing::new(Vec::with_capacity(capacity));
        // Serializing strings into memory cannot fail.
        let _ = serde_json::to_writer(&mut *buffer, &body);
        Self {
            body: Bytes::from_owner(ZeroizingBody(buffer)),
            key: key.clone(),
            keys: keys.map(Arc::new),
        }
    }
}

struct ZeroizingBody(Zeroizing<Vec<u8>>);

impl AsRef<[u8]> for ZeroizingBody {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
