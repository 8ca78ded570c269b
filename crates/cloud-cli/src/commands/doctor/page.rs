//! The device as the public sees it: its page, by its public name, through the relay.

use std::io;
use std::net::{IpAddr, SocketAddr};

use cloud_facade::config::{CredentialSlot, PartialDeviceConfig, Store};
use rustls::RootCertStore;

use super::report::Finding;
use super::{PAGE_NAME, cloud};
use crate::failure::Outcome;
use crate::visitor::Visitor;

/// Relay and public share a port.
const HTTPS_PORT: u16 = 443;

pub(super) struct Public<'a> {
    pub(super) store: &'a Store,
    pub(super) device: &'a PartialDeviceConfig,
    /// Where the public name leads.
    pub(super) addresses: &'a io::Result<Vec<IpAddr>>,
    pub(super) roots: RootCertStore,
}

impl Public<'_> {
    /// Visits the page, if the tunnel is `open`. `mark` is what it must say; without one any page will do.
    pub(super) async fn visit(&self, open: bool, mark: Option<&str>) -> Outcome<Finding> {
        let addresses = match self.addresses {
            _ if !open => return Ok(Finding::after(cloud::TUNNEL)),
            Ok(addresses) if !addresses.is_empty() => addresses,
            _ => return Ok(Finding::after(PAGE_NAME)),
        };
        let visitor = self.visitor(addresses, self.roots.clone())?;
        let (visit, trusted) = match visitor.fetch().await {
            Ok(visit) => (visit, true),
            Err(failure) => match self.visitor(addresses, self.own_issuers())?.fetch().await {
                Ok(visit) => (visit, false),
                Err(_) => {
                    return Ok(Finding::bad(
                        failure.to_string(),
                        "see whether the name leads to the relay, and whether the certificate above is in order",
                    ));
                }
            },
        };
        let url = visitor.url();
        Ok(if mark.is_some_and(|mark| visit.body != mark) {
            Finding::bad(
                format!("{url} shows a page that is not this device's"),
                "another device has this access point: tell the platform's operator",
            )
        } else if !self.is_ours(&visit.serial) {
            Finding::warning(
                format!(
                    "{url} shows the certificate {}, which is not this device's",
                    visit.serial
                ),
                "with `run --passthrough` that is as it should be; otherwise tell the platform's operator",
            )
        } else if !trusted {
            Finding::warning(
                format!(
                    "{url} is reached, but this system does not trust the authority that made its certificate"
                ),
                "if it is a private one, give its root with --ca-file, and to the visitors' browsers",
            )
        } else {
            Finding::Good(format!("{url} is reached, with this device's certificate"))
        })
    }

    fn visitor(&self, addresses: &[IpAddr], roots: RootCertStore) -> Outcome<Visitor> {
        let port = self.device.remote_endpoint.port_or(HTTPS_PORT);
        let addresses: Vec<_> = addresses
            .iter()
            .map(|address| SocketAddr::new(*address, port))
            .collect();
        Visitor::new(self.device, &addresses, roots)
    }

    /// Those that vouch for this device's certificate in its own chain, whether anybody else knows them or not.
    fn own_issuers(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        if let Ok(remote) = &self.device.remote {
            roots.add_parsable_certificates(remote.chain().iter().skip(1).cloned());
        }
        roots
    }

    /// Whether it is the certificate that this device had when it was looked at, or has been given since.
    fn is_ours(&self, serial: &str) -> bool {
        let before = self.device.remote.as_ref();
        let now = self.store.inspect(CredentialSlot::Remote);
        before.is_ok_and(|before| before.info().serial == serial)
            || now.is_ok_and(|now| now.info.serial == serial)
    }
}
