//! The device as the program runs it: the facade's `ClesydeCloud`, and the status page and health
//! state that follow its events.

use std::path::PathBuf;

use cloud_facade::config::{SerialNumber, Store};
use cloud_facade::iot::Proxy;
use cloud_facade::remote::auth::AuthRules;
use cloud_facade::remote::{AccessRules, Application, HttpOptions, Limits, RouteMatch, Routes};
use cloud_facade::{ClesydeCloud, Event};
use cloud_net::{LogThrottle, warn_throttled};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::application_check::{ApplicationChecks, ApplicationStates, CheckedApplication};
use crate::caller_records::CallerRecords;
use crate::control_socket::{ControlSocket, Instance, router};
use crate::error::{CliError, Result};
use crate::health::HealthState;
use crate::outbox_options::OutboxOptions;
use crate::session_options::SessionOptions;
use crate::status_page::StatusPage;

/// The applications behind the tunnel.
#[derive(Debug, Default)]
pub(crate) struct Backend {
    /// The application for all requests without a route; `None` for the built-in status page.
    pub(crate) application: Option<Application>,
    pub(crate) routes: Vec<(RouteMatch, Application)>,
    /// The local applications, each once.
    pub(crate) checked: Vec<CheckedApplication>,
}

impl Backend {
    pub(crate) fn add_route(
        &mut self,
        requests: RouteMatch,
        application: Application,
        checked: Option<CheckedApplication>,
    ) {
        self.routes.push((requests, application));
        let is_known = |new: &CheckedApplication| {
            let mut known = self.checked.iter();
            known.any(|known| known.upstream == new.upstream)
        };
        let new = checked.filter(|new| !is_known(new));
        self.checked.extend(new);
    }

    /// Returns the application, and the local ones behind it.
    fn application(self, page: &StatusPage) -> Result<(Application, Vec<CheckedApplication>)> {
        let fallback = self.application;
        let fallback = fallback.unwrap_or_else(|| Application::service(page.application()));
        if self.routes.is_empty() {
            return Ok((fallback, self.checked));
        }
        let routes = self.routes.into_iter();
        let routes = Routes::new(fallback).and_then(|together| {
            let mut routes = routes;
            routes.try_fold(together, |together, (requests, application)| {
                together.route(requests, application)
            })
        });
        let routes =
            routes.map_err(|error| CliError::with_cause("the routes cannot be served", &error))?;
        Ok((Application::routes(routes), self.checked))
    }
}

/// What callers reach, and how: the settings that can change while the device runs.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) backend: Backend,
    pub(crate) access: AccessRules,
    pub(crate) auth: AuthRules,
    pub(crate) http_options: HttpOptions,
    pub(crate) limits: Limits,
    /// The proxy for the connections to broker and relay.
    pub(crate) proxy: Option<Proxy>,
}

/// Parameters of [`Device::start`].
#[derive(Debug)]
pub(crate) struct DeviceOptions {
    pub(crate) sn: SerialNumber,
    pub(crate) base_path: PathBuf,
    /// The address of the device's page.
    pub(crate) url: String,
    pub(crate) served: Served,
    /// The built-in status page; it follows the events with any backend.
    pub(crate) page: StatusPage,
    /// The limits of the outbox, and its directory; the defaults if `None`.
    pub(crate) outbox: Option<OutboxOptions>,
    pub(crate) session: Option<SessionOptions>,
    pub(crate) callers: CallerRecords,
}

/// A running device.
#[derive(Debug)]
pub(crate) struct Device {
    cloud: ClesydeCloud,
    events: broadcast::Receiver<Event>,
    page: StatusPage,
    health_state: HealthState,
    control_socket: Option<ControlSocket>,
    /// Checks the applications until it is dropped.
    applications: ApplicationChecks,
    missed_log: LogThrottle,
}

impl Device {
    /// Starts a device that is provisioned.
    pub(crate) async fn start(options: DeviceOptions) -> Result<Self> {
        let page = options.page;
        let served = options.served;
        page.set_replaced(served.backend.application.is_some());
        let (application, checked) = served.backend.application(&page)?;
        // Only registration uses the API, in `provision`.
        let mut settings = ClesydeCloud::builder(options.sn, &options.base_path, "")
            .application(application)
            .access(served.access)
            .auth(served.auth)
            .http_options(served.http_options)
            .limits(served.limits);
        if let Some(outbox) = options.outbox {
            settings = outbox.apply(settings);
        }
        if let Some(session) = options.session {
            settings = session.apply(settings);
        }
        if !options.callers.is_empty() {
            let callers = options.callers;
            settings = settings.on_access(move |record| callers.record(record));
        }
        if let Some(proxy) = served.proxy {
            settings = settings.proxy(proxy);
        }
        let cloud = settings.build();
        let events = cloud.events();
        cloud
            .initialize()
            .await
            .map_err(|error| CliError::from_initialize(&error))?;
        let applications = ApplicationChecks::start(checked, &cloud);
        let store = Store::new(&options.base_path);
        page.follow(&cloud, store.clone(), applications.states());
        let health_state = HealthState::new(&cloud, store, applications.states());
        let instance = Instance::new(cloud.clone(), options.url, applications.states());
        let control_socket = ControlSocket::serve(&options.base_path, router(instance));
        Ok(Self {
            cloud,
            events,
            page,
            health_state,
            control_socket,
            applications,
            missed_log: LogThrottle::new(),
        })
    }

    /// Returns the health state, which clones share.
    pub(crate) fn health_state(&self) -> &HealthState {
        &self.health_state
    }

    /// Returns the status page for users of this machine, whatever the tunnel serves.
    pub(crate) fn local_page(&self) -> axum::Router {
        self.page.local_application()
    }

    /// Returns the states of the applications behind the tunnel.
    pub(crate) fn application_states(&self) -> ApplicationStates {
        self.applications.states()
    }

    /// Returns the problem of an application behind the tunnel, if one has a problem.
    pub(crate) fn application_problem(&self) -> Option<String> {
        self.applications.states().problem()
    }

    /// Changes what callers reach, and how. Open connections stay.
    pub(crate) fn serve(&mut self, served: Served) -> Result {
        let is_replaced = served.backend.application.is_some();
        let (application, checked) = served.backend.application(&self.page)?;
        let cloud = &self.cloud;
        let failed = |error| CliError::with_cause("cannot change the settings", &error);
        // Rules before the application, unless there are none any more: in between, an application
        // is not reached by those that it excludes.
        let is_guarded = !served.auth.is_empty();
        if is_guarded {
            cloud.set_auth(served.auth.clone()).map_err(failed)?;
        }
        cloud
            .set_access(served.access)
            .and_then(|()| cloud.set_http_options(served.http_options))
            .and_then(|()| cloud.set_limits(served.limits))
            .and_then(|()| cloud.set_proxy(served.proxy))
            .map_err(failed)?;
        cloud
            .set_application(application)
            .map_err(|error| CliError::with_cause("cannot change the application", &error))?;
        if !is_guarded {
            cloud.set_auth(served.auth).map_err(failed)?;
        }
        self.applications.replace(checked);
        self.page.set_replaced(is_replaced);
        Ok(())
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
        drop(self.control_socket.take());
        self.page.stop();
        self.cloud.stop().await;
    }
}
