//! Remote access in the facade: started with the rest, later, or never.
//!
//! Its start is deferred if the certificate on the disk is damaged, until the
//! [recovery](crate::certificate_recovery) has installed another one. Changes by the host in the
//! meantime apply to the deferred start.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cloud_config::{Credentials, DeviceConfig, LoadError, Store};
use cloud_iot::Proxy;
use cloud_remote::auth::AuthRules;
use cloud_remote::{
    AccessRules, Application, HttpOptions, Limits, PlatformClock, Probe, RemoteAccess,
    RemoteConfig, StartError,
};
use cloud_shadow::Document;
use tokio::sync::watch;

use crate::access_observer::AccessObserver;
use crate::adapters::{PlatformClient, StoreAdapter};
use crate::certificate_recovery::{CertificateRecovery, RecoveryInstaller};
use crate::error::ApplicationError;

/// The relay's port.
const RELAY_PORT: u16 = 443;

/// The parameters of remote access, except the certificate.
#[derive(Clone)]
pub(crate) struct RemoteParams {
    pub(crate) config: RemoteConfig,
    pub(crate) access_point: String,
    pub(crate) application: Application,
    pub(crate) access: AccessRules,
    pub(crate) auth: AuthRules,
    pub(crate) http_options: HttpOptions,
    pub(crate) limits: Limits,
    pub(crate) proxy: Option<Proxy>,
    pub(crate) probe: Option<Probe>,
    pub(crate) observer: Option<AccessObserver>,
    pub(crate) clock: PlatformClock,
    pub(crate) platform: PlatformClient,
    pub(crate) store: Store,
}

/// Returns the relay and the access point in the device's configuration.
pub(crate) fn remote_config<R>(device: &DeviceConfig<R>) -> RemoteConfig {
    let relay = &device.remote_endpoint;
    RemoteConfig::new(
        relay.host.as_str(),
        relay.port_or(RELAY_PORT),
        device.access_point.as_str(),
    )
}

impl RemoteParams {
    /// Starts remote access with this certificate. Does not wait for the network.
    pub(crate) async fn start(&self, credentials: Credentials) -> Result<RemoteAccess, StartError> {
        let directory = StoreAdapter {
            store: self.store.clone(),
            credentials: Mutex::new(Some(credentials)),
        };
        let mut builder = RemoteAccess::builder(self.config.clone())
            .proxy(self.proxy.clone())
            .application(self.application.clone())
            .clock(self.clock.clone())
            .access(self.access.clone())
            .auth(self.auth.clone())
            .http(self.http_options.clone())
            .limits(self.limits);
        if let Some(observer) = &self.observer {
            let observe = Arc::clone(&observer.0);
            builder = builder.on_access(move |record| observe(record));
        }
        if let Some(probe) = &self.probe {
            builder = builder.probe(probe.clone());
        }
        let platform = self.platform.clone();
        builder.start(platform.clone(), platform, directory).await
    }
}

/// Starts remote access with the stored certificate, or defers the start and creates the recovery.
pub(crate) async fn start_or_defer(
    params: RemoteParams,
    credentials: Result<Credentials, LoadError>,
    document: watch::Receiver<Option<Document>>,
) -> Result<(RemoteSlot, Option<CertificateRecovery>), StartError> {
    let damage = match credentials {
        Ok(credentials) => match params.start(credentials).await {
            Ok(handle) => return Ok((RemoteSlot(State::Started(handle).shared()), None)),
            // The certificate is readable, but not usable.
            Err(StartError::Certificate(error)) => error.to_string(),
            Err(error) => return Err(error),
        },
        Err(error) => error.to_string(),
    };
    let installer = RecoveryInstaller {
        platform: params.platform.clone(),
        store: params.store.clone(),
        access_point: params.access_point.clone(),
        clock: params.clock.clone(),
        installed: Arc::default(),
    };
    let recovery = CertificateRecovery::new(installer, damage, document);
    Ok((
        RemoteSlot(State::Waiting(Box::new(params)).shared()),
        Some(recovery),
    ))
}

/// The state of remote access.
enum State {
    /// No remote access: the host has no application, or it was stopped.
    None,
    Waiting(Box<RemoteParams>),
    Started(RemoteAccess),
}

impl State {
    fn shared(self) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(self))
    }
}

/// The shared state of remote access. Clones share it.
#[derive(Clone)]
pub(crate) struct RemoteSlot(Arc<Mutex<State>>);

impl RemoteSlot {
    /// Creates the state for a host without an application.
    pub(crate) fn none() -> Self {
        Self(State::None.shared())
    }

    /// Returns the handle; `None` unless started.
    pub(crate) fn handle(&self) -> Option<RemoteAccess> {
        match &*self.lock() {
            State::Started(handle) => Some(handle.clone()),
            _ => None,
        }
    }

    /// Returns the parameters of a deferred start.
    pub(crate) fn params(&self) -> Option<RemoteParams> {
        match &*self.lock() {
            State::Waiting(params) => Some((**params).clone()),
            _ => None,
        }
    }

    /// Returns the access rules; `None` without remote access.
    pub(crate) fn access(&self) -> Option<AccessRules> {
        match &*self.lock() {
            State::None => None,
            State::Waiting(params) => Some(params.access.clone()),
            State::Started(handle) => Some(handle.access()),
        }
    }

    pub(crate) fn set_access(&self, rules: AccessRules) {
        match &mut *self.lock() {
            State::None => {}
            State::Waiting(params) => params.access = rules,
            State::Started(handle) => handle.set_access(rules),
        }
    }

    pub(crate) fn set_auth(&self, rules: AuthRules) {
        match &mut *self.lock() {
            State::None => {}
            State::Waiting(params) => params.auth = rules,
            State::Started(handle) => handle.set_auth(rules),
        }
    }

    pub(crate) fn set_limits(&self, limits: Limits) {
        match &mut *self.lock() {
            State::None => {}
            State::Waiting(params) => params.limits = limits,
            State::Started(handle) => handle.set_limits(limits),
        }
    }

    pub(crate) fn set_http_options(&self, options: HttpOptions) {
        match &mut *self.lock() {
            State::None => {}
            State::Waiting(params) => params.http_options = options,
            State::Started(handle) => handle.set_http(options),
        }
    }

    pub(crate) fn set_proxy(&self, proxy: Option<Proxy>) {
        match &mut *self.lock() {
            State::None => {}
            State::Waiting(params) => params.proxy = proxy,
            State::Started(handle) => handle.set_proxy(proxy),
        }
    }

    pub(crate) fn set_application(&self, application: Application) -> Result<(), ApplicationError> {
        match &mut *self.lock() {
            State::None => Err(ApplicationError::NoRemoteAccess),
            State::Waiting(params) => {
                params.application = application;
                Ok(())
            }
            State::Started(handle) => Ok(handle.set_application(application)?),
        }
    }

    /// Records the deferred start, with the host's latest settings. Returns the handle if remote
    /// access was stopped in the meantime.
    pub(crate) fn set_started(&self, handle: RemoteAccess) -> Result<(), RemoteAccess> {
        let mut state = self.lock();
        let State::Waiting(params) = &*state else {
            return Err(handle);
        };
        handle.set_access(params.access.clone());
        handle.set_auth(params.auth.clone());
        handle.set_limits(params.limits);
        handle.set_http(params.http_options.clone());
        handle.set_proxy(params.proxy.clone());
        if let Err(error) = handle.set_application(params.application.clone()) {
            tracing::error!(%error, "cannot serve the application that was set before the deferred start");
        }
        *state = State::Started(handle);
        Ok(())
    }

    /// Ends remote access. The caller stops the returned handle.
    pub(crate) fn take(&self) -> Option<RemoteAccess> {
        match std::mem::replace(&mut *self.lock(), State::None) {
            State::Started(handle) => Some(handle),
            _ => None,
        }
    }

    /// No panic can leave the state inconsistent.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
