//! The device's public page: fetched by its public name, through the relay.

use std::io;
use std::net::{IpAddr, SocketAddr};

use cloud_facade::config::{CredentialSlot, PartialDeviceConfig, Store};
use rustls::RootCertStore;

use super::report::CheckResult;
use super::{PAGE_NAME, connection};
use crate::error::Result;
use crate::public_client::PublicClient;

/// The relay serves tunnels and the public on one port.
const HTTPS_PORT: u16 = 443;

pub(super) struct PublicPage<'a> {
    pub(super) store: &'a Store,
    pub(super) device: &'a PartialDeviceConfig,
    /// Addresses of the public name.
    pub(super) addresses: &'a io::Result<Vec<IpAddr>>,
    pub(super) roots: RootCertStore,
}

impl PublicPage<'_> {
    /// Fetches the page, if the tunnel is `open`. The page must equal `marker`, if there is one.
    pub(super) async fn check(&self, open: bool, marker: Option<&str>) -> Result<CheckResult> {
        let addresses = match self.addresses {
            _ if !open => return Ok(CheckResult::requires(connection::TUNNEL)),
            Ok(addresses) if !addresses.is_empty() => addresses,
            _ => return Ok(CheckResult::requires(PAGE_NAME)),
        };
        let client = self.client(addresses, self.roots.clone())?;
        let (response, trusted) = match client.fetch().await {
            Ok(response) => (response, true),
            Err(failure) => match self.client(addresses, self.own_issuers())?.fetch().await {
                Ok(response) => (response, false),
                Err(_) => {
                    return Ok(CheckResult::failed(
                        failure.to_string(),
                        "check whether the name resolves to the relay, and whether the certificate above is valid",
                    ));
                }
            },
        };
        let url = client.url();
        Ok(if marker.is_some_and(|marker| response.body != marker) {
            CheckResult::failed(
                format!("{url} shows a page that is not this device's"),
                "another device uses this access point: contact the platform's operator",
            )
        } else if !self.is_ours(&response.serial) {
            CheckResult::warning(
                format!(
                    "{url} shows the certificate {}, which is not this device's",
                    response.serial
                ),
                "this is correct with `run --passthrough`; otherwise contact the platform's operator",
            )
        } else if !trusted {
            CheckResult::warning(
                format!(
                    "{url} is reachable, but this system does not trust the authority that issued its certificate"
                ),
                "if it is a private authority, name its root with --ca-file, and install it in the visitors' browsers",
            )
        } else {
            CheckResult::Passed(format!(
                "{url} is reachable, with this device's certificate"
            ))
        })
    }

    fn client(&self, addresses: &[IpAddr], roots: RootCertStore) -> Result<PublicClient> {
        let port = self.device.remote_endpoint.port_or(HTTPS_PORT);
        let addresses: Vec<_> = addresses
            .iter()
            .map(|address| SocketAddr::new(*address, port))
            .collect();
        PublicClient::new(self.device, &addresses, roots)
    }

    /// The issuers in the device's own certificate chain, whether the system trusts them or not.
    fn own_issuers(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        if let Ok(remote) = &self.device.remote {
            roots.add_parsable_certificates(remote.chain().iter().skip(1).cloned());
        }
        roots
    }

    /// Whether this is the device's certificate: the one at the start of the checks, or its
    /// replacement.
    fn is_ours(&self, serial: &str) -> bool {
        let before = self.device.remote.as_ref();
        let now = self.store.inspect(CredentialSlot::Remote);
        before.is_ok_and(|before| before.info().serial == serial)
            || now.is_ok_and(|now| now.info.serial == serial)
    }
}
