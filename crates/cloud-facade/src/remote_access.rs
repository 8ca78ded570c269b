//! Remote access as the facade holds it: it begins with the rest, or later, or not at all.
//!
//! Later, if there is no certificate to serve with, because the one on the disk is damaged: then it waits here until the
//! [recovery](crate::recovery) has got another one. What the host changes meanwhile holds from the beginning.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cloud_config::{Credentials, DeviceConfig, LoadError, Store};
use cloud_remote::{
    AccessRules, Application, HttpOptions, PlatformClock, Probe, RemoteAccess, RemoteConfig,
    RemoteHandle, StartError,
};
use cloud_shadow::Document;
use tokio::sync::watch;

use crate::adapters::{Directory, Platform};
use crate::cloud::ApplicationError;
use crate::recovery::Recovery;

/// The relay's port.
const RELAY_PORT: u16 = 443;

/// What remote access is started with, but for the certificate.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) config: RemoteConfig,
    pub(crate) access_point: String,
    pub(crate) application: Application,
    pub(crate) access: AccessRules,
    pub(crate) http_options: HttpOptions,
    pub(crate) probe: Option<Probe>,
    pub(crate) clock: PlatformClock,
    pub(crate) platform: Platform,
    pub(crate) store: Store,
}

/// Where the device's page is, as the directory says.
pub(crate) fn remote_config<R>(device: &DeviceConfig<R>) -> RemoteConfig {
    let relay = &device.remote_endpoint;
    RemoteConfig::new(
        relay.host.as_str(),
        relay.port_or(RELAY_PORT),
        device.access_point.as_str(),
    )
}

impl Plan {
    /// Starts remote access with this certificate. Waits for nobody.
    pub(crate) async fn start(&self, credentials: Credentials) -> Result<RemoteHandle, StartError> {
        let directory = Directory {
            store: self.store.clone(),
            credentials: Mutex::new(Some(credentials)),
        };
        let mut builder = RemoteAccess::builder(self.config.clone())
            .application(self.application.clone())
            .clock(self.clock.clone())
            .access(self.access.clone())
            .http(self.http_options.clone());
        if let Some(probe) = &self.probe {
            builder = builder.probe(probe.clone());
        }
        let platform = self.platform.clone();
        builder.start(platform.clone(), platform, directory).await
    }
}

/// Begins with what was on the disk, or to ask for something better.
pub(crate) async fn begin(
    plan: Plan,
    credentials: Result<Credentials, LoadError>,
    document: watch::Receiver<Option<Document>>,
) -> Result<(Remote, Option<Recovery>), StartError> {
    let damage = match credentials {
        Ok(credentials) => match plan.start(credentials).await {
            Ok(handle) => return Ok((Remote(State::Started(handle).shared()), None)),
            // It can be read, and not be served.
            Err(StartError::Certificate(error)) => error.to_string(),
            Err(error) => return Err(error),
        },
        Err(error) => error.to_string(),
    };
    let recovery = Recovery::new(&plan, damage, document);
    Ok((
        Remote(State::Waiting(Box::new(plan)).shared()),
        Some(recovery),
    ))
}

/// How far it is.
enum State {
    /// There is none: the host has no application, or it was stopped.
    None,
    Waiting(Box<Plan>),
    Started(RemoteHandle),
}

impl State {
    fn shared(self) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(self))
    }
}

/// Clones are the same.
#[derive(Clone)]
pub(crate) struct Remote(Arc<Mutex<State>>);

impl Remote {
    /// Of a host without an application.
    pub(crate) fn none() -> Self {
        Self(State::None.shared())
    }

    /// None as long as it has not been started.
    pub(crate) fn handle(&self) -> Option<RemoteHandle> {
        match &*self.lock() {
            State::Started(handle) => Some(handle.clone()),
            _ => None,
        }
    }

    /// What it waits to be started with.
    pub(crate) fn plan(&self) -> Option<Plan> {
        match &*self.lock() {
            State::Waiting(plan) => Some((**plan).clone()),
            _ => None,
        }
    }

    pub(crate) fn set_access(&self, rules: AccessRules) {
        match &mut *self.lock() {
            State::None => {}
            State::Waiting(plan) => plan.access = rules,
            State::Started(handle) => handle.set_access(rules),
        }
    }

    pub(crate) fn set_application(&self, application: Application) -> Result<(), ApplicationError> {
        match &mut *self.lock() {
            State::None => Err(ApplicationError::NoRemoteAccess),
            State::Waiting(plan) => {
                plan.application = application;
                Ok(())
            }
            State::Started(handle) => Ok(handle.set_application(application)?),
        }
    }

    /// It was started as it had been planned. The host's latest wishes are its too. Gives the handle back if it was stopped
    /// meanwhile.
    pub(crate) fn begin(&self, handle: RemoteHandle) -> Result<(), RemoteHandle> {
        let mut state = self.lock();
        let State::Waiting(plan) = &*state else {
            return Err(handle);
        };
        handle.set_access(plan.access.clone());
        if let Err(error) = handle.set_application(plan.application.clone()) {
            tracing::error!(%error, "the application that was set meanwhile cannot be served");
        }
        *state = State::Started(handle);
        Ok(())
    }

    /// There is none from now on. What was started is to be stopped.
    pub(crate) fn end(&self) -> Option<RemoteHandle> {
        match std::mem::replace(&mut *self.lock(), State::None) {
            State::Started(handle) => Some(handle),
            _ => None,
        }
    }

    /// Nothing is left half-done under this that a panic could expose.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
