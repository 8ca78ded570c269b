//! The builder of a [`ClesydeCloud`], and hosts whose settings change.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cloud_config::SerialNumber;
use cloud_iot::rustls::sign::CertifiedKey;
use cloud_iot::{BoxError, Proxy, SessionConfig, Subscription};
use cloud_provision::{Client, ClientBuilder};
use cloud_remote::auth::AuthRules;
use cloud_remote::{AccessRecord, AccessRules, Application, HttpOptions, Limits, Probe};

use crate::access_observer::AccessObserver;
use crate::action_handlers::ActionHandler;
use crate::application::IntoApplication;
use crate::cloud::{ClesydeCloud, WeakClesydeCloud};
use crate::hooks::Hooks;
use crate::runtime::StartSettings;
use crate::session_setup::ConfigureSession;
use crate::supervisor::{DeviceIdentity, SettingsSource, Shared};
use crate::topics::Action;

impl ClesydeCloud {
    /// Returns a builder.
    ///
    /// `base_path` is the directory that contains `.clesydecloud`. `api_url` is the base URL of the
    /// provisioning API: `https`, or `http` on a loopback address. Only
    /// [`provision`](Self::provision) uses it.
    pub fn builder(
        serial_number: SerialNumber,
        base_path: impl Into<PathBuf>,
        api_url: impl Into<String>,
    ) -> CloudBuilder {
        CloudBuilder {
            serial_number,
            base_path: base_path.into(),
            api: Client::builder(&api_url.into()),
            proxy: None,
            #[cfg(feature = "durable")]
            outbox_directory: None,
            shadows: Vec::new(),
            subscriptions: Vec::new(),
            session: ConfigureSession::default(),
            identity: None,
            hold_messages: None,
            actions: Vec::new(),
            application: None,
            access: AccessRules::default(),
            auth: AuthRules::default(),
            http_options: HttpOptions::default(),
            limits: Limits::default(),
            probe: None,
            observer: None,
            hooks: Hooks::new(),
        }
    }

    /// Creates a stopped connection for a host whose settings change. Does not access files or the
    /// network.
    pub fn new(host: impl Host) -> Self {
        Self(Arc::new_cyclic(|shared| {
            let cloud = WeakClesydeCloud(shared.clone());
            let settings = host.settings();
            let identity = DeviceIdentity {
                serial_number: settings.serial_number,
                base_path: settings.base_path,
                hooks: settings.hooks.bind(&cloud),
            };
            Shared::new(identity, Box::new(BoundHost { host, cloud }))
        }))
    }
}

/// A host application whose settings change while it runs.
///
/// [`ClesydeCloud::new`] reads serial number, base path and hooks once.
/// [`provision`](ClesydeCloud::provision) reads how to reach the API, and
/// [`initialize`](ClesydeCloud::initialize) everything else, each time that they are called.
pub trait Host: Send + Sync + 'static {
    /// Returns the current settings.
    fn settings(&self) -> CloudBuilder;
}

/// A host with fixed settings.
impl Host for CloudBuilder {
    fn settings(&self) -> CloudBuilder {
        self.clone()
    }
}

struct BoundHost<H> {
    host: H,
    cloud: WeakClesydeCloud,
}

impl<H: Host> SettingsSource for BoundHost<H> {
    fn api(&self) -> ClientBuilder {
        self.host.settings().api
    }

    fn start(&self) -> StartSettings {
        let settings = self.host.settings();
        StartSettings {
            application: settings.application.map(|make| make.0(self.cloud.clone())),
            access: settings.access,
            auth: settings.auth,
            http_options: settings.http_options,
            limits: settings.limits,
            probe: settings.probe,
            observer: settings.observer,
            proxy: settings.proxy,
            #[cfg(feature = "durable")]
            outbox_directory: settings.outbox_directory,
            shadows: settings.shadows,
            subscriptions: settings.subscriptions,
            session: settings.session,
            identity: settings.identity,
            hold_messages: settings.hold_messages,
            actions: settings
                .actions
                .into_iter()
                .map(|handler| handler.bind(&self.cloud))
                .collect(),
        }
    }
}

/// Makes the application of a device.
#[derive(Clone)]
struct MakeApplication(Arc<dyn Fn(WeakClesydeCloud) -> Application + Send + Sync>);

impl fmt::Debug for MakeApplication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MakeApplication")
    }
}

/// Settings of a device; [`build`](Self::build) creates its [`ClesydeCloud`]. See
/// [`ClesydeCloud::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct CloudBuilder {
    serial_number: SerialNumber,
    base_path: PathBuf,
    api: ClientBuilder,
    proxy: Option<Proxy>,
    #[cfg(feature = "durable")]
    outbox_directory: Option<PathBuf>,
    shadows: Vec<String>,
    subscriptions: Vec<Subscription>,
    session: ConfigureSession,
    identity: Option<CertifiedKey>,
    hold_messages: Option<Duration>,
    actions: Vec<ActionHandler>,
    application: Option<MakeApplication>,
    access: AccessRules,
    auth: AuthRules,
    http_options: HttpOptions,
    limits: Limits,
    probe: Option<Probe>,
    observer: Option<AccessObserver>,
    hooks: Hooks,
}

impl CloudBuilder {
    /// Creates a stopped connection. Does not access files or the network.
    pub fn build(self) -> ClesydeCloud {
        ClesydeCloud::new(self)
    }

    /// Serves an application through the tunnel: an `axum::Router`, the address of a local web
    /// server, or an [`Application`]. Without one there is no remote access.
    pub fn application<Kind>(self, application: impl IntoApplication<Kind>) -> Self {
        let application = application.into_application();
        self.application_with(move |_| application.clone())
    }

    /// Like [`application`](Self::application), for an application that uses the device: `make`
    /// creates it at each [`initialize`](ClesydeCloud::initialize).
    ///
    /// ```
    /// use axum::Router;
    /// use axum::routing::get;
    /// use cloud_facade::ClesydeCloud;
    ///
    /// let cloud = ClesydeCloud::builder("SN0001".parse()?, "/var/lib/device", "https://api.example.com")
    ///     .application_with(|cloud| {
    ///         Router::new().route("/", get(async move || match cloud.upgrade() {
    ///             Some(cloud) => format!("connected: {}", cloud.status().iot.connected),
    ///             None => "stopping".to_owned(),
    ///         }))
    ///     })
    ///     .build();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn application_with<F, A, Kind>(mut self, make: F) -> Self
    where
        F: Fn(WeakClesydeCloud) -> A + Send + Sync + 'static,
        A: IntoApplication<Kind>,
    {
        let make = move |cloud| make(cloud).into_application();
        self.application = Some(MakeApplication(Arc::new(make)));
        self
    }

    /// Restricts who may connect to the application. By default everyone may.
    pub fn access(mut self, access: AccessRules) -> Self {
        self.access = access;
        self
    }

    /// Asks callers for passwords or client certificates. By default the application does that.
    pub fn auth(mut self, rules: AuthRules) -> Self {
        self.auth = rules;
        self
    }

    /// Sets which HTTP requests and headers reach the application. By default requests for the
    /// access point, without headers that only a trusted proxy may set.
    pub fn http_options(mut self, options: HttpOptions) -> Self {
        self.http_options = options;
        self
    }

    /// Sets the limits on callers of the application.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the probe that tests reachability through the public access point; the access rules
    /// must allow it. None by default.
    pub fn probe(mut self, probe: Probe) -> Self {
        self.probe = Some(probe);
        self
    }

    /// Calls a function at the end of each request, of each connection without HTTP, and for each
    /// refusal, such as for an access log. It must neither block nor panic; see
    /// [`RemoteAccessBuilder::on_access`](cloud_remote::RemoteAccessBuilder::on_access). None by
    /// default.
    pub fn on_access(mut self, observe: impl Fn(&AccessRecord) + Send + Sync + 'static) -> Self {
        self.observer = Some(AccessObserver(Arc::new(observe)));
        self
    }

    /// Sets the hooks, which replace earlier ones.
    pub fn hooks(mut self, hooks: Hooks) -> Self {
        self.hooks = hooks;
        self
    }

    /// Adds a named shadow that the host uses besides `config`, 11 at most, as the broker allows 50
    /// subscriptions. [`named_shadow`](ClesydeCloud::named_shadow) returns it.
    pub fn shadow(mut self, name: impl Into<String>) -> Self {
        self.shadows.push(name.into());
        self
    }

    /// Handles the platform's messages of an action, which are not responses to a
    /// [request](ClesydeCloud::request): its topic is `c/d/<sn>/<action>/res`. An answer of the
    /// handler is published on `…/req`. The messages are also [events](crate::Event), but a slow
    /// reader of events loses none of them: each handler has a queue of 64 messages, and handles
    /// one after the other, each within 30 s. An error is logged.
    ///
    /// ```
    /// use cloud_facade::ClesydeCloud;
    ///
    /// let cloud = ClesydeCloud::builder("SN0001".parse()?, "/var/lib/device", "https://api.example.com")
    ///     .on_action("version".parse()?, |_, _| async { Ok(Some("1.2.3".into())) })
    ///     .build();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_action<F, Fut>(mut self, action: Action, handler: F) -> Self
    where
        F: Fn(WeakClesydeCloud, Bytes) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Option<Bytes>, BoxError>> + Send + 'static,
    {
        self.actions.push(ActionHandler::new(action, handler));
        self
    }

    /// Subscribes to topics of the host's own. [`Session::messages`] of
    /// [`iot`](ClesydeCloud::iot) receives their messages.
    ///
    /// [`Session::messages`]: cloud_iot::Session::messages
    pub fn subscription(mut self, subscription: Subscription) -> Self {
        self.subscriptions.push(subscription);
        self
    }

    /// Changes the session with the broker, at each [`initialize`](ClesydeCloud::initialize):
    /// keep-alive, limits, what happens to a message when the outbox is full, session expiry, delay
    /// of the will, preferred port, timeouts. Replaces an earlier change. Server, client ID, TLS
    /// settings, status messages and proxy are the device's: changes of them have no effect. The
    /// subscriptions are added to those of the device.
    ///
    /// With a delay of the will, a break that is shorter leaves the device's status at ONLINE.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use cloud_facade::ClesydeCloud;
    /// use cloud_facade::iot::{Limits, Overflow};
    ///
    /// let cloud = ClesydeCloud::builder("SN0001".parse()?, "/var/lib/device", "https://api.example.com")
    ///     .session(|session| {
    ///         session
    ///             .limits(Limits::new().outbox_messages(10_000))
    ///             .overflow(Overflow::DropOldest)
    ///             .session_expiry(Duration::from_secs(3600))
    ///             .will_delay(Duration::from_secs(60))
    ///     })
    ///     .build();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn session(
        mut self,
        change: impl Fn(SessionConfig) -> SessionConfig + Send + Sync + 'static,
    ) -> Self {
        self.session = ConfigureSession::new(change);
        self
    }

    /// Authenticates to the broker with this certificate and key instead of those in the directory,
    /// for a key that is not a file: its [`SigningKey`] may be in a security chip. The platform
    /// must know the certificate. The pair in the directory is still loaded, and not used.
    ///
    /// This certificate is not replaced when the platform desires another one, and
    /// there are no warnings before it expires; both are up to the host.
    ///
    /// [`SigningKey`]: cloud_iot::rustls::sign::SigningKey
    pub fn iot_identity(mut self, identity: CertifiedKey) -> Self {
        self.identity = Some(identity);
        self
    }

    /// Holds messages until they are acknowledged, by their handlers or by
    /// [`ClesydeCloud::subscribe_held`], and lets the broker keep the session for `expiry` after a
    /// connection has ended, 1 s to 136 years in whole seconds; it may shorten the time. QoS 1
    /// messages of subscribed topics that are published meanwhile, and those that were not
    /// acknowledged, arrive on the next connection, also of the next process. Replaces the session
    /// expiry of [`session`](Self::session). By default messages are acknowledged as they arrive,
    /// and each connection starts with a clean session.
    pub fn hold_messages(mut self, expiry: Duration) -> Self {
        self.hold_messages = Some(expiry);
        self
    }

    /// Changes how the provisioning API is reached: proxy, additional roots, retries, timeouts.
    ///
    /// ```
    /// # let root_pem = String::new();
    /// use cloud_facade::ClesydeCloud;
    ///
    /// let cloud = ClesydeCloud::builder("SN0001".parse()?, "/var/lib/device", "https://api.example.com")
    ///     .api(|api| api.proxy("http://proxy.example.com:3128").additional_roots_pem(root_pem))
    ///     .build();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn api(mut self, change: impl FnOnce(ClientBuilder) -> ClientBuilder) -> Self {
        self.api = change(self.api);
        self
    }

    /// Connects to the broker and the relay through a proxy; see [`Proxy::from_env`]. By default
    /// directly, regardless of the environment. Registration has [a proxy of its own](Self::api).
    pub fn proxy(mut self, proxy: Proxy) -> Self {
        self.proxy = Some(proxy);
        self
    }

    /// Stores messages accepted at QoS 1 below this directory. They survive the process, `kill -9`
    /// and a power cut, and the next process sends them. Each thing has a subdirectory, so that
    /// another registration does not send messages of the previous one. By default messages are
    /// kept in memory.
    ///
    /// A message is safe once [`Receipt::stored`](cloud_iot::Receipt::stored) completes. If the
    /// directory is unusable, [`Event::OutboxStoreFailed`](crate::Event::OutboxStoreFailed) reports
    /// it, and messages are kept in memory.
    #[cfg(feature = "durable")]
    pub fn outbox_directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.outbox_directory = Some(directory.into());
        self
    }
}
