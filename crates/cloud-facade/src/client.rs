//! The host application's description of itself.

use std::path::PathBuf;

use cloud_config::SerialNumber;
use cloud_iot::Proxy;
use cloud_provision::{Client, ClientBuilder};
use cloud_remote::{AccessRules, Application, HttpOptions, Limits, Probe};

use crate::hooks::Hooks;

/// The host application's side: the device's identity, its files and its application.
///
/// [`ClesydeCloud::new`](crate::ClesydeCloud::new) reads serial number, base path and hooks once.
/// The other values may change: [`provision`](crate::ClesydeCloud::provision) reads the API's
/// address and client each time, and [`initialize`](crate::ClesydeCloud::initialize) reads the
/// application, its access rules and options, and the broker's proxy each time. [`DeviceSettings`]
/// implements this trait for hosts with fixed values.
pub trait CloudClient: Send + Sync + 'static {
    /// The device's serial number.
    fn serial_number(&self) -> SerialNumber;

    /// The directory that contains `.clesydecloud`.
    fn base_path(&self) -> PathBuf;

    /// The base URL of the provisioning API. `https`, or `http` on a loopback address.
    fn api_url(&self) -> String;

    /// The builder of the API's client: its proxy, additional roots, retries and timeouts. By
    /// default [`Client::builder`].
    fn registration(&self) -> ClientBuilder {
        Client::builder(&self.api_url())
    }

    /// The proxy for the broker and the relay; see [`Proxy::from_env`]. None by default, regardless
    /// of the environment. Registration has [its own](Self::registration).
    fn proxy(&self) -> Option<Proxy> {
        None
    }

    /// The directory of the durable outbox, which keeps messages accepted at QoS 1 across restarts.
    /// None by default: messages are kept in memory.
    #[cfg(feature = "durable")]
    fn outbox_directory(&self) -> Option<PathBuf> {
        None
    }

    /// Named shadows that the host uses besides `config`, 11 at most, as the broker allows 50
    /// subscriptions. None by default. Read by `initialize`;
    /// [`named_shadow`](crate::ClesydeCloud::named_shadow) returns them.
    fn shadows(&self) -> Vec<String> {
        Vec::new()
    }

    /// The application that the tunnel serves; without one there is no remote access.
    fn application(&self) -> Option<Application> {
        None
    }

    /// The access rules of the application. By default everyone may connect.
    fn access(&self) -> AccessRules {
        AccessRules::default()
    }

    /// The HTTP requests and headers that reach the application. By default requests for the access
    /// point, without headers that only a trusted proxy may set.
    fn http_options(&self) -> HttpOptions {
        HttpOptions::default()
    }

    /// The limits on callers of the application.
    fn limits(&self) -> Limits {
        Limits::default()
    }

    /// The probe that tests reachability through the public access point; the access rules must
    /// allow it. None by default.
    fn probe(&self) -> Option<Probe> {
        None
    }

    /// The hooks. None by default.
    fn hooks(&self) -> Hooks {
        Hooks::new()
    }
}

/// A [`CloudClient`] with fixed values.
#[derive(Debug, Clone)]
pub struct DeviceSettings {
    serial_number: SerialNumber,
    base_path: PathBuf,
    api_url: String,
    registration: Option<ClientBuilder>,
    proxy: Option<Proxy>,
    #[cfg(feature = "durable")]
    outbox_directory: Option<PathBuf>,
    shadows: Vec<String>,
    application: Option<Application>,
    access: AccessRules,
    http_options: HttpOptions,
    limits: Limits,
    probe: Option<Probe>,
    hooks: Hooks,
}

impl DeviceSettings {
    /// Creates settings without an application and without hooks.
    pub fn new(
        serial_number: SerialNumber,
        base_path: impl Into<PathBuf>,
        api_url: impl Into<String>,
    ) -> Self {
        Self {
            serial_number,
            base_path: base_path.into(),
            api_url: api_url.into(),
            registration: None,
            proxy: None,
            #[cfg(feature = "durable")]
            outbox_directory: None,
            shadows: Vec::new(),
            application: None,
            access: AccessRules::default(),
            http_options: HttpOptions::default(),
            limits: Limits::default(),
            probe: None,
            hooks: Hooks::new(),
        }
    }

    /// Changes how the provisioning API is asked.
    ///
    /// ```
    /// # let root_pem = String::new();
    /// use cloud_facade::DeviceSettings;
    ///
    /// let settings = DeviceSettings::new("SN0001".parse()?, "/var/lib/device", "https://api.example.com")
    ///     .with_registration(|api| api.proxy("http://proxy.example.com:3128").additional_roots_pem(root_pem));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn with_registration(
        mut self,
        change: impl FnOnce(ClientBuilder) -> ClientBuilder,
    ) -> Self {
        self.registration = Some(change(self.registration()));
        self
    }

    /// Connects to the broker and the relay through a proxy.
    #[must_use]
    pub fn with_proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Stores messages accepted at QoS 1 below this directory. They survive the process, `kill -9`
    /// and a power cut, and the next process sends them. Each thing has a subdirectory, so that
    /// another registration does not send messages of the previous one.
    ///
    /// A message is safe once [`Receipt::stored`](cloud_iot::Receipt::stored) completes. If the
    /// directory is unusable, [`Event::OutboxNotStored`](crate::Event::OutboxNotStored) reports it,
    /// and messages are kept in memory.
    #[cfg(feature = "durable")]
    #[must_use]
    pub fn with_outbox_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.outbox_directory = Some(directory.into());
        self
    }

    /// Adds a named shadow.
    #[must_use]
    pub fn with_shadow(mut self, name: impl Into<String>) -> Self {
        self.shadows.push(name.into());
        self
    }

    /// Serves an application through the tunnel.
    #[must_use]
    pub fn with_application(mut self, application: Application) -> Self {
        self.application = Some(application);
        self
    }

    /// Restricts who may connect to the application.
    #[must_use]
    pub fn with_access(mut self, access: AccessRules) -> Self {
        self.access = access;
        self
    }

    /// Allows more hosts or headers in requests over HTTP.
    #[must_use]
    pub fn with_http_options(mut self, options: HttpOptions) -> Self {
        self.http_options = options;
        self
    }

    /// Sets the limits on callers of the application.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the probe that tests reachability from outside.
    #[must_use]
    pub fn with_probe(mut self, probe: Probe) -> Self {
        self.probe = Some(probe);
        self
    }

    /// Sets the hooks, which replace earlier ones.
    #[must_use]
    pub fn with_hooks(mut self, hooks: Hooks) -> Self {
        self.hooks = hooks;
        self
    }
}

impl CloudClient for DeviceSettings {
    fn serial_number(&self) -> SerialNumber {
        self.serial_number.clone()
    }

    fn base_path(&self) -> PathBuf {
        self.base_path.clone()
    }

    fn api_url(&self) -> String {
        self.api_url.clone()
    }

    fn registration(&self) -> ClientBuilder {
        match &self.registration {
            Some(changed) => changed.clone(),
            None => Client::builder(&self.api_url),
        }
    }

    fn proxy(&self) -> Option<Proxy> {
        self.proxy.clone()
    }

    #[cfg(feature = "durable")]
    fn outbox_directory(&self) -> Option<PathBuf> {
        self.outbox_directory.clone()
    }

    fn shadows(&self) -> Vec<String> {
        self.shadows.clone()
    }

    fn application(&self) -> Option<Application> {
        self.application.clone()
    }

    fn access(&self) -> AccessRules {
        self.access.clone()
    }

    fn http_options(&self) -> HttpOptions {
        self.http_options.clone()
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn probe(&self) -> Option<Probe> {
        self.probe.clone()
    }

    fn hooks(&self) -> Hooks {
        self.hooks.clone()
    }
}
