//! The device's public page: fetched by its public name, through the relay.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cloud_facade::config::{CredentialSlot, PartialDeviceConfig, Store};
use cloud_facade::iot::Proxy;
use reqwest::StatusCode;
use rustls::RootCertStore;
use tokio::time::{Instant, sleep};

use super::bad_request;
use super::report::CheckResult;
use super::steps::{PAGE_NAME, TUNNEL};
use crate::control_socket::ControlClient;
use crate::error::Result;
use crate::public_client::{HTTPS_PORT, PublicClient, REQUEST_TIMEOUT};

/// The instance notices a failure of its application within a second.
const CHECK_DELAY: Duration = Duration::from_secs(3);

pub(super) struct PublicPage<'a> {
    /// The instance that runs on the directory, if one does.
    pub(super) instance: Option<&'a ControlClient>,
    pub(super) store: &'a Store,
    pub(super) device: &'a PartialDeviceConfig,
    /// Addresses of the public name, unless a proxy resolves it.
    pub(super) addresses: Option<&'a io::Result<Vec<IpAddr>>>,
    pub(super) proxy: Option<&'a Proxy>,
    pub(super) roots: RootCertStore,
}

impl PublicPage<'_> {
    /// Fetches the page, if the tunnel is `open`. The page must equal `marker`, if there is one.
    pub(super) async fn check(&self, open: bool, marker: Option<&str>) -> Result<CheckResult> {
        let addresses = match self.addresses {
            _ if !open => return Ok(CheckResult::requires(TUNNEL)),
            None => &[][..],
            Some(Ok(addresses)) if !addresses.is_empty() => addresses,
            _ => return Ok(CheckResult::requires(PAGE_NAME)),
        };
        let client = self.client(addresses, self.roots.clone())?;
        let mut trusted = true;
        let mut fetched = client.fetch().await;
        if matches!(&fetched, Err(failure) if !failure.is_silent) {
            let second = self.client(addresses, self.own_issuers())?.fetch().await;
            if second
                .as_ref()
                .map_or_else(|failure| failure.is_silent, |_| true)
            {
                trusted = false;
                fetched = second;
            }
        }
        let response = match fetched {
            Ok(response) => response,
            Err(failure) if failure.is_guarded && trusted => {
                return Ok(CheckResult::Passed(format!(
                    "{} is reachable, and guarded: it demands a client certificate",
                    client.url()
                )));
            }
            Err(failure) => {
                let because_of_application = self
                    .application_failure(client.url(), failure.is_silent, None)
                    .await;
                return Ok(because_of_application.unwrap_or_else(|| {
                    CheckResult::failed(
                        failure.to_string(),
                        "check whether the name resolves to the relay, and whether the certificate above is valid",
                    )
                }));
            }
        };
        let status = response.status;
        if let Some(failure) = self
            .application_failure(client.url(), false, Some(status))
            .await
        {
            return Ok(failure);
        }
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
        } else if status == StatusCode::BAD_REQUEST
            && let Some(address) = self.application_address().await
        {
            bad_request::finding(url, &address).await
        } else if !trusted {
            CheckResult::warning(
                format!(
                    "{url} is reachable, but this system does not trust the authority that issued its certificate"
                ),
                "if it is a private authority, name its root with --ca-file, and install it in the visitors' browsers",
            )
        } else {
            let guard = match status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                    format!(", and guarded: it answers {status}")
                }
                _ => String::new(),
            };
            CheckResult::Passed(format!(
                "{url} is reachable, with this device's certificate{guard}"
            ))
        })
    }

    /// Returns the result if the application of the running instance is the cause of a failure: it
    /// sent no response, or the status may be the device's own.
    async fn application_failure(
        &self,
        url: &str,
        is_silent: bool,
        status: Option<StatusCode>,
    ) -> Option<CheckResult> {
        let is_suspect = status.is_none_or(|status| {
            matches!(
                status,
                StatusCode::BAD_GATEWAY
                    | StatusCode::SERVICE_UNAVAILABLE
                    | StatusCode::GATEWAY_TIMEOUT
            )
        });
        let deadline = Instant::now() + CHECK_DELAY;
        let application = loop {
            let instance = self.instance?.status().await.ok()?;
            let application = instance.application?;
            if application.answers == Some(false) || !is_suspect || Instant::now() > deadline {
                break application;
            }
            sleep(CHECK_DELAY / 10).await;
        };
        let address = application.address;
        let reason = match (application.answers, application.reason) {
            (Some(false), Some(reason)) => reason,
            _ if is_silent => format!("no response within {} s", REQUEST_TIMEOUT.as_secs()),
            _ => {
                return status.filter(|_| is_suspect).map(|status| {
                    CheckResult::warning(
                        format!("{url} is reachable, and answers {status}"),
                        format!("if the log says nothing about it, the application at {address} answers so: see its log"),
                    )
                });
            }
        };
        Some(CheckResult::failed(
            format!(
                "{url} is reachable, but the application at {address} does not answer: {reason}"
            ),
            "start the application, or correct the address that `run` was given",
        ))
    }

    /// Returns the address of the application behind the tunnel, if there is one.
    async fn application_address(&self) -> Option<String> {
        let status = self.instance?.status().await.ok()?;
        Some(status.application?.address)
    }

    fn client(&self, addresses: &[IpAddr], roots: RootCertStore) -> Result<PublicClient> {
        let port = self.device.remote_endpoint.port_or(HTTPS_PORT);
        let addresses: Vec<_> = addresses
            .iter()
            .map(|address| SocketAddr::new(*address, port))
            .collect();
        let proxy = self.proxy.filter(|_| self.addresses.is_none());
        PublicClient::new(self.device, &addresses, proxy, roots)
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
