//! The public: somebody with a web browser's means, who trusts the certificate authority and nothing else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cloud_facade::config::{CertificateInfo, RootCertificates};
use reqwest::tls::TlsInfo;
use reqwest::{Client, redirect};
use rustls::ClientConfig;
use rustls::crypto::ring;

use crate::failure::{Failure, Outcome};

/// A page through the tunnel of a machine that is this one takes milliseconds.
const LIMIT: Duration = Duration::from_secs(15);

/// The page is small; more than this is not the page.
const MAX_BODY: usize = 64 * 1024;

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
    pub(crate) body: String,
}

impl Visitor {
    /// Somebody who visits `access_point` through the relay at `relay`.
    pub(crate) fn new(
        access_point: &str,
        relay: SocketAddr,
        roots: &RootCertificates,
    ) -> Outcome<Self> {
        let failed = |error: &(dyn std::error::Error + 'static)| {
            Failure::because("could not make a web client", error)
        };
        let mut tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(roots.root_store())
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .tls_info(true)
            .resolve(access_point, relay)
            .no_proxy()
            .redirect(redirect::Policy::none())
            .timeout(LIMIT)
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Self {
            client,
            url: format!("https://{access_point}:{}/", relay.port()),
        })
    }

    /// Where the page is.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Fetches the page, with the certificate verified.
    pub(crate) async fn fetch(&self) -> Outcome<Visit> {
        let failed = |error: reqwest::Error| {
            Failure::because(format_args!("{} cannot be fetched", self.url), &error)
        };
        let mut response = self
            .client
            .get(&self.url)
            .send()
            .await
            .and_then(reqwest::Response::error_for_status)
            .map_err(failed)?;
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
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_BODY {
                return Err(Failure::Failed(format!(
                    "{} sent more than {MAX_BODY} bytes",
                    self.url
                )));
            }
        }
        Ok(Visit {
            serial,
            body: String::from_utf8_lossy(&body).into_owned(),
        })
    }
}
