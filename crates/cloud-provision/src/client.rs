//! The client and its builder.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use cloud_net::Proxy;
use reqwest::redirect;
use tokio::time::Instant;
use tower::ServiceExt;

use crate::attempt_state::{AttemptTracker, RequestStage};
use crate::error::{BuildError, ProvisionError};
use crate::http::{ApiClient, ApiProbe};
use crate::keys::{DeviceKeys, KeySource};
use crate::provisioned::Provisioned;
use crate::proxy::{self, ProxySetting};
use crate::request::Registration;
use crate::retry::{AmbiguousAttempts, Backoff, Retry};
use crate::secret::ProvisioningKey;
use crate::{serial, tls, url};

/// Limit for name resolution, TCP, and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Limit for one request with its response. Issuing keys and certificates takes the platform a few
/// seconds.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(60);
/// Limit for all attempts including the delays between them.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(180);
/// Maximum number of header fields of a response; their size is bounded by the HTTP library.
const MAX_HEADERS: usize = 1000;
/// Maximum configurable limit: a longer one suggests a wrong unit.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

/// Registers devices with the platform. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    api: Arc<ApiClient>,
    retry: Retry,
    total_timeout: Duration,
}

/// Builds a [`Client`]. Created by [`Client::builder`].
#[derive(Debug, Clone)]
#[must_use]
pub struct ClientBuilder {
    base_url: String,
    roots_pem: Vec<u8>,
    connect_timeout: Duration,
    attempt_timeout: Duration,
    total_timeout: Duration,
    retry: Retry,
    proxy: ProxySetting,
}

impl Client {
    /// Returns a builder for the API at `base_url`: `https`, or `http` for loopback addresses and
    /// `localhost`.
    pub fn builder(base_url: &str) -> ClientBuilder {
        ClientBuilder {
            base_url: base_url.to_owned(),
            roots_pem: Vec::new(),
            connect_timeout: CONNECT_TIMEOUT,
            attempt_timeout: ATTEMPT_TIMEOUT,
            total_timeout: TOTAL_TIMEOUT,
            retry: Retry::default(),
            proxy: ProxySetting::Environment,
        }
    }

    /// Returns the registration URL.
    #[must_use]
    pub fn url(&self) -> &str {
        self.api.url.as_str()
    }

    /// Registers the device with this serial number and returns its validated credentials. Retries
    /// with exponential backoff and jitter where a retry is safe. Requires a tokio runtime with I/O
    /// and time enabled.
    ///
    /// # Errors
    /// [`ProvisionError`]. If [`ProvisionError::may_have_registered`] returns true, the key may be
    /// used up.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping the future may leave a registered device whose credentials are
    /// lost. [`stage`](Self::stage) reports whether this is possible.
    pub async fn register(
        &self,
        serial: &str,
        key: &ProvisioningKey,
    ) -> Result<Provisioned, ProvisionError> {
        self.register_within(serial, key, None, self.deadline())
            .await
    }

    /// Registers like [`Client::register`], with private keys generated on the device: the platform
    /// receives signing requests and sends no keys. A platform without support for this sends keys,
    /// which the client then uses: see [`KeyOrigin`](crate::KeyOrigin).
    ///
    /// # Errors
    /// [`ProvisionError::DeviceKey`] if a key cannot be generated or used, before anything is sent;
    /// otherwise as [`Client::register`].
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
        let keys = match tokio::time::timeout_at(deadline, DeviceKeys::make(source, serial)).await {
            Ok(Ok(keys)) => keys,
            Ok(Err((purpose, error))) => return Err(ProvisionError::DeviceKey { purpose, error }),
            Err(_) => return Err(ProvisionError::DeviceKeysTimedOut(self.total_timeout)),
        };
        self.register_within(serial, key, Some(keys), deadline)
            .await
    }

    /// Checks whether the API is reachable and trusted, and measures the clock skew. Registers
    /// nothing and sends no key: it is a GET, while registration is a POST. If any web server could
    /// have sent the response, a POST of `{}` follows, which a platform refuses in JSON.
    ///
    /// # Errors
    /// [`ProvisionError`], if the network fails, another server responds, or the API returns a
    /// server error. Never one that [may have registered](ProvisionError::may_have_registered).
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub async fn probe(&self) -> Result<ApiProbe, ProvisionError> {
        self.api.probe().await
    }

    /// Returns the progress of the last registration through this client or a clone. After dropping
    /// a registration's future, use it to find out whether the key may be used up. Concurrent
    /// registrations need separate clients.
    #[must_use]
    pub fn stage(&self) -> RequestStage {
        self.api.tracker.stage()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.total_timeout
    }

    async fn register_within(
        &self,
        serial: &str,
        key: &ProvisioningKey,
        keys: Option<DeviceKeys>,
        deadline: Instant,
    ) -> Result<Provisioned, ProvisionError> {
        serial::check(serial).map_err(ProvisionError::SerialNumber)?;
        self.api.tracker.reset();
        let ambiguous = Arc::new(AmbiguousAttempts::default());
        let api = Arc::clone(&self.api);
        let recorder = Arc::clone(&ambiguous);
        let once = tower::service_fn(move |request| {
            let (api, ambiguous) = (Arc::clone(&api), Arc::clone(&recorder));
            async move {
                let result = api.send(request).await;
                ambiguous.record(&result);
                result
            }
        });
        let service = tower::retry::Retry::new(Backoff::new(self.retry, deadline), once);
        tracing::info!(
            url = self.url(),
            serial,
            device_keys = keys.is_some(),
            "registering"
        );
        let request = Registration::new(serial, key, keys);
        match tokio::time::timeout_at(deadline, service.oneshot(request)).await {
            Ok(Ok(provisioned)) => {
                tracing::info!(serial, thing = provisioned.iot.thing_name, "registered");
                Ok(provisioned)
            }
            Ok(Err(error)) => Err(ambiguous.explain(error)),
            Err(_) => Err(ProvisionError::TimedOut {
                url: self.url().to_owned(),
                limit: self.total_timeout,
            }),
        }
    }
}

impl ClientBuilder {
    /// Trusts these roots (PEM) for the API, in addition to the system's.
    pub fn additional_roots_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots_pem = pem.into();
        self
    }

    /// Limits name resolution, TCP, and TLS together. Default: 10 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout = limit;
        self
    }

    /// Limits one request with its response. Default: 60 s.
    pub fn attempt_timeout(mut self, limit: Duration) -> Self {
        self.attempt_timeout = limit;
        self
    }

    /// Limits all requests and the delays between them. Default: 180 s.
    pub fn total_timeout(mut self, limit: Duration) -> Self {
        self.total_timeout = limit;
        self
    }

    /// Sets the number of attempts and the delays between them.
    pub fn retry(mut self, retry: Retry) -> Self {
        self.retry = retry;
        self
    }

    /// Uses this proxy: `http://host:port` (method CONNECT) or `socks5://host:port`, optionally
    /// with `user:password@`. `socks5h://` means the same as `socks5://`: the proxy resolves names.
    /// No other kind is supported, as for the connections to broker and relay. An HTTP proxy has to
    /// answer CONNECT with status 200 and no interim response before it.
    ///
    /// Default: `HTTPS_PROXY` or `ALL_PROXY` from the environment, with the exceptions in
    /// `NO_PROXY`; a proxy set here overrides all of them. Requests to this machine
    /// (`http://localhost`) never use a proxy.
    pub fn proxy(mut self, url: &str) -> Self {
        self.proxy = ProxySetting::Url(Proxy::new(url));
        self
    }

    /// Uses no proxy and ignores the environment.
    pub fn no_proxy(mut self) -> Self {
        self.proxy = ProxySetting::Direct;
        self
    }

    /// Validates the settings and creates the client. Does not connect.
    ///
    /// # Errors
    /// [`BuildError`], which names the invalid setting.
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
        let tracker = AttemptTracker::default();
        let builder = reqwest::Client::builder()
            .user_agent(concat!("clesyde-cloud/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            // Gateways add many fields, and fold long ones as older servers do.
            .http1_max_headers(MAX_HEADERS)
            .http1_allow_obsolete_multiline_headers_in_responses(true)
            .http1_allow_spaces_after_header_name_in_responses(true)
            // `Backoff` alone decides about retries.
            .retry(reqwest::retry::never())
            .connect_timeout(self.connect_timeout)
            // A new connection for each attempt: a stale pooled one would look like an interrupted
            // request.
            .pool_max_idle_per_host(0)
            .connector_layer(tracker.clone())
            .no_proxy();
        let is_https = url.scheme() == "https";
        // Plain HTTP must not leave this machine, neither through a proxy nor by an unusual
        // `localhost` entry.
        let proxy = match is_https {
            true => self.proxy.for_server(&url)?,
            false => None,
        };
        let builder = match &proxy {
            Some(proxy) => builder.proxy(proxy::for_reqwest(proxy)?),
            None => builder,
        };
        let builder = if is_https {
            builder.tls_backend_preconfigured(tls::client_config(&extra)?)
        } else {
            builder
                .resolve_to_addrs(
                    "localhost",
                    &[
                        (Ipv4Addr::LOCALHOST, 0).into(),
                        (Ipv6Addr::LOCALHOST, 0).into(),
                    ],
                )
                .tls_backend_preconfigured(tls::without_roots()?)
        };
        let http = builder
            .build()
            .map_err(|error| BuildError::Http(error.to_string()))?;
        let api = ApiClient {
            http,
            url,
            proxy,
            connect_timeout: self.connect_timeout,
            attempt_timeout: self.attempt_timeout,
            tracker,
        };
        Ok(Client {
            api: Arc::new(api),
            retry: self.retry,
            total_timeout: self.total_timeout,
        })
    }
}
