//! The client: set up once, then asked to register.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::error::{BuildError, ProvisionError};
use crate::exchange::{Exchange, Registration};
use crate::provisioned::Provisioned;
use crate::retry::{Backoff, Retry};
use crate::secret::ProvisioningKey;
use crate::{serial, tls, url};

/// Time for name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time for one request with its answer. Making keys and certificates takes the platform a few seconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// Time for all of it, waits included.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(180);
/// Longest limit that may be set: beyond it, somebody mistook the unit.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Registers devices with the platform. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    exchange: Arc<Exchange>,
    retry: Retry,
    total_timeout: Duration,
}

/// Collects what a [`Client`] needs. From [`Client::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder {
    base_url: String,
    roots_pem: Vec<u8>,
    connect_timeout: Duration,
    attempt_timeout: Duration,
    total_timeout: Duration,
    retry: Retry,
}

impl Client {
    /// Begins a client for the API below `base_url`: `https`, or `http` for loopback addresses and `localhost`.
    pub fn builder(base_url: &str) -> ClientBuilder {
        ClientBuilder {
            base_url: base_url.to_owned(),
            roots_pem: Vec::new(),
            connect_timeout: CONNECT_TIMEOUT,
            attempt_timeout: ATTEMPT_TIMEOUT,
            total_timeout: TOTAL_TIMEOUT,
            retry: Retry::default(),
        }
    }

    /// The URL that is asked.
    #[must_use]
    pub fn url(&self) -> &str {
        self.exchange.url.as_str()
    }

    /// Registers the device with this serial number and returns what the platform gave it, checked. Asks again, after
    /// a growing and partly random wait, where that can help and do no harm. Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// [`ProvisionError`]. Where [`ProvisionError::may_have_registered`] says so, the key may be used up.
    ///
    /// # Cancel safety
    /// Not cancel safe: a future that is dropped may leave a device registered whose credentials nobody received.
    pub async fn register(
        &self,
        serial: &str,
        key: &ProvisioningKey,
    ) -> Result<Provisioned, ProvisionError> {
        serial::check(serial).map_err(ProvisionError::SerialNumber)?;
        let deadline = Instant::now() + self.total_timeout;
        let exchange = Arc::clone(&self.exchange);
        let once = tower::service_fn(move |request| {
            let exchange = Arc::clone(&exchange);
            async move { exchange.send(request).await }
        });
        let service = tower::retry::Retry::new(Backoff::new(self.retry, deadline), once);
        tracing::info!(url = self.url(), serial, "registering");
        let result =
            tokio::time::timeout_at(deadline, service.oneshot(Registration::new(serial, key)))
                .await;
        match result {
            Ok(Ok(provisioned)) => {
                tracing::info!(serial, thing = provisioned.iot.thing_name, "registered");
                Ok(provisioned)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ProvisionError::TimedOut {
                url: self.url().to_owned(),
                limit: self.total_timeout,
            }),
        }
    }
}

impl ClientBuilder {
    /// Trusts these roots (PEM) for the API, besides the system's.
    pub fn additional_roots_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots_pem = pem.into();
        self
    }

    /// Time for name resolution, TCP and TLS together. Default: 10 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Time for one request with its answer. Default: 60 s.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = limit;
        self
    }

    /// Time for all requests and the waits between them. Default: 180 s.
    pub fn total_timeout(mut self, limit: Duration) -> Self {
        self.total_timeout = limit;
        self
    }

    /// How often to ask and how long to wait in between.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Checks the settings and makes the client. Connects to nothing.
    ///
    /// # Errors
    /// [`BuildError`], which says which setting is at fault.
    pub fn build(self) -> Result<Client, BuildError> {
        let url = url::registration(&self.base_url)?;
        let limits = [
            self.connect_timeout,
            self.attempt_timeout,
            self.total_timeout,
        ];
        if limits
            .iter()
            .any(|limit| limit.is_zero() || *limit > MAX_TIMEOUT)
        {
            return Err(BuildError::Limit(
                "a time limit must be more than zero and at most a day",
            ));
        }
        if self.retry.attempts == 0 {
            return Err(BuildError::Limit("at least one attempt is needed"));
        }
        let extra = if self.roots_pem.is_empty() {
            Vec::new()
        } else {
            tls::roots_from_pem(&self.roots_pem)?
        };
        let builder = reqwest::Client::builder()
            .user_agent(concat!("clesyde-cloud/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(self.connect_timeout)
            // Each attempt on a connection of its own: a pooled one may be dead already, which looks like a break.
            .pool_max_idle_per_host(0);
        let builder = if url.scheme() == "https" {
            builder.tls_backend_preconfigured(tls::client_config(&extra)?)
        } else {
            // Nothing that is not encrypted leaves this machine: neither through a proxy nor by an odd `localhost`.
            builder
                .no_proxy()
                .resolve_to_addrs(
                    "localhost",
                    &[
                        (Ipv4Addr::LOCALHOST, 0).into(),
                        (Ipv6Addr::LOCALHOST, 0).into(),
                    ],
                )
                .tls_backend_preconfigured(tls::nobody()?)
        };
        let http = builder
            .build()
            .map_err(|error| BuildError::Http(error.to_string()))?;
        let exchange = Exchange {
            http,
            url,
            connect_timeout: self.connect_timeout,
            attempt_timeout: self.attempt_timeout,
        };
        Ok(Client {
            exchange: Arc::new(exchange),
            retry: self.retry,
            total_timeout: self.total_timeout,
        })
    }
}
