//! What the host application tells ClesydeCloud about itself.

use std::path::PathBuf;

use cloud_config::SerialNumber;
use cloud_iot::Proxy;
use cloud_provision::{Client, ClientBuilder};
use cloud_remote::{AccessRules, Application, HttpOptions, Probe};

use crate::hooks::Hooks;

/// The host application's side: who the device is, where its files are, and what it serves.
///
/// Serial number, base path and hooks are read once, when [`ClesydeCloud`](crate::ClesydeCloud) is made. The rest is asked for
/// when it is needed, so that a host can change its mind: the API's address and the way to it at each
/// [`provision`](crate::ClesydeCloud::provision), the application, its access rules and options and the broker's proxy at each
/// [`initialize`](crate::ClesydeCloud::initialize). [`DeviceSettings`] is the ready-made implementation for hosts that know all
/// of it up front.
pub trait CloudClient: Send + Sync + 'static {
    /// The device's serial number.
    fn serial_number(&self) -> SerialNumber;

    /// The directory that holds `.clesydecloud`.
    fn base_path(&self) -> PathBuf;

    /// The base URL of the provisioning API. `https`, or `http` on a loopback address.
    fn api_url(&self) -> String;

    /// How that API is asked: through which proxy, with which roots besides the system's, how often and how long. By default
    /// as [`Client::builder`] says.
    fn registration(&self) -> ClientBuilder {
        Client::builder(&self.api_url())
    }

    /// The HTTP proxy that the broker is reached through; see [`Proxy::from_env`]. None by default, whatever the environment
    /// says. Registering has [one of its own](Self::registration), and the tunnel always goes straight to the relay.
    fn broker_proxy(&self) -> Option<Proxy> {
        None
    }

    /// Below which directory messages to the platform that were accepted at QoS 1 are kept, so that they survive the
    /// process. None by default: they are held in memory.
    #[cfg(feature = "durable")]
    fn outbox_directory(&self) -> Option<PathBuf> {
        None
    }

    /// Named shadows that the host wants besides `config`, 11 at most, as the broker allows 50 subscriptions. None by default.
    /// They are asked for when it is initialized; [`named_shadow`](crate::ClesydeCloud::named_shadow) gives access.
    fn shadows(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the public reaches through the tunnel; without one there is no remote access.
    fn application(&self) -> Option<Application> {
        None
    }

    /// Who may connect to the application. Everybody by default.
    fn access(&self) -> AccessRules {
        AccessRules::default()
    }

    /// Which requests over HTTP reach the application, and with which headers. Those for the access point by default, without
    /// headers that only a trusted proxy may set.
    fn http_options(&self) -> HttpOptions {
        HttpOptions::default()
    }

    /// How the device looks from outside whether the public gets through; the access rules have to let it in. Not at all by
    /// default.
    fn probe(&self) -> Option<Probe> {
        None
    }

    /// What the host wants to be told. None by default.
    fn hooks(&self) -> Hooks {
        Hooks::new()
    }
}

/// A [`CloudClient`] made of plain values.
#[derive(Debug, Clone)]
pub struct DeviceSettings {
    serial_number: SerialNumber,
    base_path: PathBuf,
    api_url: String,
    registration: Option<ClientBuilder>,
    broker_proxy: Option<Proxy>,
    #[cfg(feature = "durable")]
    outbox_directory: Option<PathBuf>,
    shadows: Vec<String>,
    application: Option<Application>,
    access: AccessRules,
    http_options: HttpOptions,
    probe: Option<Probe>,
    hooks: Hooks,
}

impl DeviceSettings {
    /// A device without a web application and without hooks.
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
            broker_proxy: None,
            #[cfg(feature = "durable")]
            outbox_directory: None,
            shadows: Vec::new(),
            application: None,
            access: AccessRules::default(),
            http_options: HttpOptions::default(),
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

    /// Reaches the broker through an HTTP proxy.
    #[must_use]
    pub fn with_broker_proxy(mut self, proxy: Proxy) -> Self {
        self.broker_proxy = Some(proxy);
        self
    }

    /// Keeps messages to the platform that are accepted at QoS 1 below this directory, so that they survive the process,
    /// `kill -9` and the loss of power, and are sent by the next one. Each thing has a subdirectory, so that another
    /// registration does not send the messages of the one before.
    ///
    /// A message is safe once [`Receipt::stored`](cloud_iot::Receipt::stored) says so. If the directory cannot be used,
    /// [`Event::OutboxNotStored`](crate::Event::OutboxNotStored) tells, and messages are held in memory.
    #[cfg(feature = "durable")]
    #[must_use]
    pub fn with_outbox_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.outbox_directory = Some(directory.into());
        self
    }

    /// Takes part in one more named shadow.
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

    /// Looks from outside whether the public gets through.
    #[must_use]
    pub fn with_probe(mut self, probe: Probe) -> Self {
        self.probe = Some(probe);
        self
    }

    /// Attaches hooks, in place of those attached before.
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

    fn broker_proxy(&self) -> Option<Proxy> {
        self.broker_proxy.clone()
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

    fn probe(&self) -> Option<Probe> {
        self.probe.clone()
    }

    fn hooks(&self) -> Hooks {
        self.hooks.clone()
    }
}
