//! The device as the program runs it: the facade's `ClesydeCloud`, and the status page and health
//! state that follow its events.

use std::path::PathBuf;

use cloud_facade::config::{SerialNumber, Store};
use cloud_facade::iot::Proxy;
use cloud_facade::remote::auth::AuthRules;
use cloud_facade::remote::{AccessRules, Application, HttpOptions, Limits};
use cloud_facade::{ClesydeCloud, Event};
use cloud_net::{LogThrottle, warn_throttled};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};

use crate::application_check::{ApplicationCheck, ApplicationState, CheckedApplication};
use crate::error::{CliError, Result};
use crate::health::HealthState;
use crate::status_page::StatusPage;
use crate::status_socket::StatusSocket;

/// The application behind the tunnel.
#[derive(Debug, Clone)]
pub(crate) enum Backend {
    /// The built-in status page.
    StatusPage,
    /// An application of the user.
    Application {
        application: Box<Application>,
        checked: CheckedApplication,
    },
}

/// Parameters of [`Device::start`].
#[derive(Debug)]
pub(crate) struct DeviceOptions {
    pub(crate) sn: SerialNumber,
    pub(crate) base_path: PathBuf,
    pub(crate) backend: Backend,
    /// The page of [`Backend::StatusPage`]; it follows the events with any backend.
    pub(crate) page: StatusPage,
    pub(crate) access: AccessRules,
    pub(crate) auth: AuthRules,
    pub(crate) http_options: HttpOptions,
    pub(crate) limits: Limits,
    /// The proxy for the connections to broker and relay.
    pub(crate) proxy: Option<Proxy>,
}

/// A running device.
#[derive(Debug)]
pub(crate) struct Device {
    cloud: ClesydeCloud,
    events: broadcast::Receiver<Event>,
    page: StatusPage,
    health_state: HealthState,
    status_socket: Option<StatusSocket>,
    application_state: Option<watch::Receiver<ApplicationState>>,
    /// Checks the application until it is dropped.
    _application: Option<ApplicationCheck>,
    missed_log: LogThrottle,
}

impl Device {
    /// Starts a device that is provisioned.
    pub(crate) async fn start(options: DeviceOptions) -> Result<Self> {
        let page = options.page;
        let (application, checked) = match options.backend {
            Backend::StatusPage => (Application::service(page.application()), None),
            Backend::Application {
                application,
                checked,
            } => (*application, Some(checked)),
        };
        // Only registration uses the API, in `provision`.
        let mut settings = ClesydeCloud::builder(options.sn, &options.base_path, "")
            .application(application)
            .access(options.access)
            .auth(options.auth)
            .http_options(options.http_options)
            .limits(options.limits);
        if let Some(proxy) = options.proxy {
            settings = settings.proxy(proxy);
        }
        let cloud = settings.build();
        let events = cloud.events();
        cloud
            .initialize()
            .await
            .map_err(|error| CliError::from_initialize(&error))?;
        let application = checked.map(|checked| ApplicationCheck::start(checked, &cloud));
        let application_state = application.as_ref().map(ApplicationCheck::state);
        let store = Store::new(&options.base_path);
        page.follow(&cloud, store.clone());
        let health_state = HealthState::new(&cloud, store, application_state.clone());
        let status_socket = StatusSocket::serve(
            &options.base_path,
            cloud.watch_status(),
            application_state.clone(),
        );
        Ok(Self {
            cloud,
            events,
            page,
            health_state,
            status_socket,
            application_state,
            _application: application,
            missed_log: LogThrottle::new(),
        })
    }

    /// Returns the health state, which clones share.
    pub(crate) fn health_state(&self) -> &HealthState {
        &self.health_state
    }

    /// Returns the state of the application behind the tunnel, if there is one.
    pub(crate) fn application_state(&self) -> Option<watch::Receiver<ApplicationState>> {
        self.application_state.clone()
    }

    /// Returns the problem of the application behind the tunnel, if it has one.
    pub(crate) fn application_problem(&self) -> Option<String> {
        self.application_state.as_ref()?.borrow().problem()
    }

    /// Returns the next event; `None` once the device has stopped.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            match self.events.recv().await {
                Ok(event) => {
                    self.page.update(&event);
                    self.health_state.record(&event);
                    return Some(event);
                }
                Err(RecvError::Lagged(missed)) => {
                    self.health_state.record_missed(missed);
                    warn_throttled!(
                        self.missed_log,
                        missed,
                        "events were dropped because they arrived faster than they were read"
                    );
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Publishes OFFLINE, disconnects and unlocks the directory.
    pub(crate) async fn stop(&mut self) {
        // Removed while the directory is locked: later, the socket may be another instance's.
        drop(self.status_socket.take());
        self.page.stop();
        self.cloud.stop().await;
    }
}
