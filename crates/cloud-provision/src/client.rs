//! The client: set up once, then asked to register.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::error::{BuildError, ProvisionError};
use crate::exchange::{Exchange, Reached};
use crate::keys::{KeySource, OwnKeys};
use crate::provisioned::Provisioned;
use crate::proxy::Route;
use crate::request::Registration;
use crate::retry::{Backoff, Doubt, Retry};
use crate::secret::{ProvisioningKey, ProxyUrl};
use crate::stage::{Progress, Stage};
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
    route: Route,
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
            route: Route::Environment,
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
    /// [`stage`](Self::stage) tells whether that can be.
    pub async fn register(
        &self,
        serial: &str,
        key: &ProvisioningKey,
    ) -> Result<Provisioned, ProvisionError> {
        self.register_within(serial, key, None, self.deadline())
            .await
    }

    /// The same with private keys that are made here: the platform gets signing requests, and sends no keys. One that does
    /// not know of this sends keys nevertheless, which are then taken: see [`KeyOrigin`](crate::KeyOrigin).
    ///
    /// # Errors
    /// [`ProvisionError::OwnKey`] if a key cannot be made or used, in which case nothing was sent; otherwise as
    /// [`Client::register`].
    ///
    /// # Cancel safety
    /// As [`Client::register`].
    pub async fn register_with_keys(
        &self,
        serial: &str,
        key: &ProvisioningKey,
        source: &impl KeySource,
    ) -> Result<Provisioned, ProvisionError> {
        serial::check(serial).map_err(ProvisionError::SerialNumber)?;
        let deadline = self.deadline();
        let keys = match tokio::time::timeout_at(deadline, OwnKeys::make(source, serial)).await {
            Ok(Ok(keys)) => keys,
            Ok(Err((purpose, error))) => return Err(ProvisionError::OwnKey { purpose, error }),
            Err(_) => return Err(ProvisionError::OwnKeysTimedOut(self.total_timeout)),
        };
        self.register_within(serial, key, Some(keys), deadline)
            .await
    }

    /// Looks whether the API can be reached and be trusted, and what time it is there. Registers nothing and sends no key:
    /// it is a GET where registering is a POST, asked once.
    ///
    /// # Errors
    /// [`ProvisionError`], where the way there is at fault, something else answers in the API's place, or the API has a
    /// problem of its own. Never one that [may have registered](ProvisionError::may_have_registered).
    ///
    /// # Cancel safety
    /// Nothing is lost by dropping the future.
    pub async fn reach(&self) -> Result<Reached, ProvisionError> {
        self.exchange.reach().await
    }

    /// How far the last registration through this client or a clone of it has come: for whoever gives one up by dropping its
    /// future, and wants to know what may have become of the key. Registrations at the same time want a client each.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.exchange.progress.stage()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.total_timeout
    }

    async fn register_within(
        &self,
        serial: &str,
        key: &ProvisioningKey,
        keys: Option<OwnKeys>,
        deadline: Instant,
    ) -> Result<Provisioned, ProvisionError> {
        serial::check(serial).map_err(ProvisionError::SerialNumber)?;
        self.exchange.progress.begin();
        let doubt = Arc::new(Doubt::default());
        let exchange = Arc::clone(&self.exchange);
        let noticing = Arc::clone(&doubt);
        let once = tower::service_fn(move |request| {
            let (exchange, doubt) = (Arc::clone(&exchange), Arc::clone(&noticing));
            async move {
                let result = exchange.send(request).await;
                doubt.notice(&result);
                result
            }
        });
        let service = tower::retry::Retry::new(Backoff::new(self.retry, deadline), once);
        tracing::info!(
            url = self.url(),
            serial,
            own_keys = keys.is_some(),
            "registering"
        );
        let request = Registration::new(serial, key, keys);
        match tokio::time::timeout_at(deadline, service.oneshot(request)).await {
            Ok(Ok(provisioned)) => {
                tracing::info!(serial, thing = provisioned.iot.thing_name, "registered");
                Ok(provisioned)
            }
            Ok(Err(error)) => Err(doubt.explain(error)),
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

    /// Goes through this proxy: `http://host:port`, or `https://` for one that speaks TLS itself, perhaps with
    /// `user:password@`. Default: the one that `HTTPS_PROXY` or `ALL_PROXY` name in the environment, with the exceptions of
    /// `NO_PROXY`; with a proxy set here, none of these variables count. What stays on this machine (`http://localhost`)
    /// never goes through a proxy.
    pub fn proxy(mut self, url: &str) -> Self {
        self.route = Route::Through(ProxyUrl::new(url));
        self
    }

    /// Goes through no proxy, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.route = Route::Direct;
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
        let progress = Progress::default();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("clesyde-cloud/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            // What is asked again is decided by our own policy alone.
            .retry(reqwest::retry::never())
            .connect_timeout(self.connect_timeout)
            // Each attempt on a connection of its own: a pooled one may be dead already, which looks like a break.
            .pool_max_idle_per_host(0)
            .connector_layer(progress.clone());
        let builder = if url.scheme() == "https" {
            self.route
                .apply(builder)?
                .tls_backend_preconfigured(tls::client_config(&extra)?)
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
            progress,
        };
        Ok(Client {
            exchange: Arc::new(exchange),
            retry: self.retry,
            total_timeout: self.total_timeout,
        })
    }
}
