//! The public: somebody with a web browser's means, who trusts certificate authorities and nothing else.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cloud_facade::config::{CertificateInfo, DeviceConfig};
use cloud_net::UntrustedText;
use reqwest::tls::TlsInfo;
use reqwest::{Client, StatusCode, redirect};
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::failure::{Failure, Outcome};

/// For the whole of a visit. The device may be at the end of a slow line.
const LIMIT: Duration = Duration::from_secs(15);

/// What is read of a page. Our own is small; of another one, the beginning will do.
const MAX_BODY: usize = 64 * 1024;

/// The system's roots, and those in `extra` (PEM).
pub(crate) fn roots(extra: Option<&[u8]>) -> Outcome<RootCertStore> {
    let mut roots = RootCertStore::empty();
    // Systems ship the odd root that no verifier takes; the others count.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(pem) = extra {
        let failed = |error: &(dyn Error + 'static)| {
            Failure::because("the root certificates cannot be used", error)
        };
        for root in CertificateDer::pem_slice_iter(pem) {
            let root = root.map_err(|error| failed(&error))?;
            roots.add(root).map_err(|error| failed(&error))?;
        }
    }
    Ok(roots)
}

/// Fetches one page, again and again over the connection that it has once made.
#[derive(Debug)]
pub(crate) struct Visitor {
    client: Client,
    url: String,
}

/// What the visitor saw.
#[derive(Debug)]
pub(crate) struct Visit {
    /// Serial number, in decimal, of the certificate that was verified.
    pub(crate) serial: String,
    #[cfg_attr(
        not(feature = "sim"),
        expect(dead_code, reason = "for the demonstration")
    )]
    pub(crate) status: StatusCode,
    /// Its beginning.
    pub(crate) body: String,
}

impl Visitor {
    /// Somebody who visits a device whose access point is at these addresses.
    pub(crate) fn new<R>(
        device: &DeviceConfig<R>,
        addresses: &[SocketAddr],
        roots: RootCertStore,
    ) -> Outcome<Self> {
        let failed =
            |error: &(dyn Error + 'static)| Failure::because("could not make a web client", error);
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .tls_info(true)
            .resolve_to_addrs(device.access_point.as_str(), addresses)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(LIMIT)
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Self {
            client,
            url: device.page_url(),
        })
    }

    /// Where the page is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Fetches the page, with the certificate verified, whatever the status.
    ///
    /// # Errors
    /// No server that could be verified, or one that broke off.
    pub(crate) async fn fetch(&self) -> Outcome<Visit> {
        let failed = |error: reqwest::Error| {
            Failure::Failed(format!(
                "{} cannot be fetched: {}",
                self.url,
                UntrustedText::of(&innermost(&error))
            ))
        };
        let mut response = self.client.get(&self.url).send().await.map_err(failed)?;
        let serial = response
            .extensions()
            .get::<TlsInfo>()
            .and_then(TlsInfo::peer_certificate)
            .and_then(|der| CertificateInfo::from_der(&der.into()))
            .map(|certificate| certificate.serial)
            .ok_or_else(|| {
                Failure::Failed(format!(
                    "{} showed no certificate that can be read",
                    self.url
                ))
            })?;
        let mut body = Vec::new();
        while body.len() < MAX_BODY
            && let Some(chunk) = response.chunk().await.map_err(failed)?
        {
            body.extend_from_slice(&chunk);
        }
        body.truncate(MAX_BODY);
        Ok(Visit {
            serial,
            status: response.status(),
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}

/// The cause at the end of the chain; the links before it say that a request could not be sent.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    std::iter::successors(Some(error), |&error| error.source())
        .last()
        .unwrap_or(error)
}
