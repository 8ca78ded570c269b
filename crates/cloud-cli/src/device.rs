//! The device as the program runs it: the facade's `ClesydeCloud` with its events, and the page and the counts that follow
//! them.

use std::path::PathBuf;

use cloud_facade::config::{SerialNumber, Store};
use cloud_facade::iot::Proxy;
use cloud_facade::remote::{AccessRules, Application, HttpOptions};
use cloud_facade::{ClesydeCloud, DeviceSettings, Event};
use cloud_net::{LogThrottle, warn_throttled};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::commands::initialize_failure;
use crate::failure::Outcome;
use crate::health::Vitals;
use crate::live::LiveSocket;
use crate::status_page::Page;

/// What the tunnel serves.
#[derive(Debug, Clone)]
pub(crate) enum Served {
    /// The built-in page.
    StatusPage,
    /// Something of the owner's.
    Other(Application),
}

/// What a device is started with.
#[derive(Debug)]
pub(crate) struct DeviceOptions {
    pub(crate) sn: SerialNumber,
    pub(crate) base_path: PathBuf,
    pub(crate) served: Served,
    /// For [`Served::StatusPage`]; it follows the events in every case.
    pub(crate) page: Page,
    pub(crate) access: AccessRules,
    pub(crate) http_options: HttpOptions,
    /// On the way to the broker.
    pub(crate) proxy: Option<Proxy>,
}

/// A running device.
#[derive(Debug)]
pub(crate) struct Device {
    cloud: ClesydeCloud,
    events: broadcast::Receiver<Event>,
    page: Page,
    vitals: Vitals,
    live: Option<LiveSocket>,
    missed_log: LogThrottle,
}

impl Device {
    /// Starts a device that is provisioned.
    pub(crate) async fn start(options: DeviceOptions) -> Outcome<Self> {
        let page = options.page;
        let application = match options.served {
            Served::StatusPage => Application::service(page.application()),
            Served::Other(application) => application,
        };
        // The API is for registering alone, which `provision` does with settings of its own.
        let mut settings = DeviceSettings::new(options.sn, &options.base_path, "")
            .with_application(application)
            .with_access(options.access)
            .with_http_options(options.http_options);
        if let Some(proxy) = options.proxy {
            settings = settings.with_broker_proxy(proxy);
        }
        let cloud = ClesydeCloud::new(settings);
        let events = cloud.events();
        let vitals = Vitals::new(&cloud, Store::new(&options.base_path));
        cloud
            .initialize()
            .await
            .map_err(|error| initialize_failure(&error))?;
        let live = LiveSocket::serve(&options.base_path, cloud.watch_status());
        Ok(Self {
            cloud,
            events,
            page,
            vitals,
            live,
            missed_log: LogThrottle::new(),
        })
    }

    /// How it fares, for as long as it lives.
    pub(crate) fn vitals(&self) -> &Vitals {
        &self.vitals
    }

    /// The next event; `None` once the device has been stopped.
    ///
    /// # Cancel safety
    /// No event is lost.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            match self.events.recv().await {
                Ok(event) => {
                    self.page.note(&event);
                    self.vitals.note(&event);
                    return Some(event);
                }
                Err(RecvError::Lagged(missed)) => {
                    self.vitals.missed(missed);
                    warn_throttled!(
                        self.missed_log,
                        missed,
                        "events came faster than they were read and are left out"
                    );
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Says OFFLINE, disconnects and lets go of the directory.
    pub(crate) async fn stop(&mut self) {
        // While the directory is still ours: afterwards the socket may be the next instance's.
        drop(self.live.take());
        self.cloud.stop().await;
    }
}
