//! What the platform knows and decides: registrations, rotation, and the reports about devices. Its
//! messages to them are in [`responses`](crate::responses).
//!
//! It sits behind the APIs and the broker and does no network I/O of its own, but for what it
//! publishes. Each function takes the lock on the table for as long as it computes, never across a
//! wait.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cloud_net::{LogThrottle, error_throttled};
use serde_json::{Map, Value, json};

use crate::authority::{Authority, AuthorityError, Issued, SigningRequest};
use crate::broker::Broker;
use crate::broker::acl::Identity;
use crate::certificates::Certificates;
use crate::device::{Device, DeviceLogs, DeviceStatus, DeviceTable, TableFull};
use crate::faults::{FaultInjector, Service};
use crate::relay::{Relay, TokenSettings};
use crate::shadow::{Rejection, ShadowId};
use crate::store::{SavedPorts, SavedState, Store};
use crate::{lock, names};

/// The shadow that names the certificate that a device should have.
pub(crate) const CONFIG_SHADOW: &str = "config";

/// What stays the same while the simulator runs.
pub(crate) struct Settings {
    pub(crate) provisioning_key: String,
    pub(crate) mqtt_endpoint: String,
    pub(crate) relay_endpoint: String,
    pub(crate) tokens: TokenSettings,
    pub(crate) token_valid: Duration,
    /// Kept, so that devices find a simulator that is started again.
    pub(crate) ports: SavedPorts,
}

/// The platform.
pub(crate) struct Platform {
    pub(crate) settings: Settings,
    pub(crate) authority: Authority,
    pub(crate) devices: Mutex<DeviceTable>,
    faults: Arc<FaultInjector>,
    broker: Arc<Broker>,
    relay: Relay,
    store: Option<Store>,
    pub(crate) logs: PlatformLogs,
}

/// The rate limits of the log lines that anything that connects can cause.
#[derive(Debug, Default)]
pub(crate) struct PlatformLogs {
    /// Of devices that are not known.
    pub(crate) unknown_device: Arc<DeviceLogs>,
    pub(crate) refused: LogThrottle,
    pub(crate) wrong_answer: LogThrottle,
    not_kept: LogThrottle,
}

/// What a device asks to be registered with.
pub(crate) struct RegistrationRequest<'a> {
    pub(crate) sn: &'a str,
    pub(crate) key: &'a str,
    /// For keys that the device has made; it gets one where there is none.
    pub(crate) iot: Option<SigningRequest>,
    pub(crate) remote: Option<SigningRequest>,
}

/// A registration that is yet to be entered.
struct Prepared {
    /// What the device is to know.
    thing: Value,
    access_point: String,
    iot: Issued,
    remote: Issued,
}

/// Why a device was not registered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RegisterError {
    #[error("{0:?} is no serial number: 1 to 128 of A-Z a-z 0-9 _ - . : are allowed")]
    Serial(String),
    #[error("the provisioning key is not valid")]
    Key,
    #[error("the provisioning key has already been used for {0}")]
    Used(String),
    #[error(transparent)]
    Full(#[from] TableFull),
    #[error("the platform failed: {0}")]
    Internal(#[from] AuthorityError),
}

impl Platform {
    pub(crate) fn new(
        settings: Settings,
        authority: Authority,
        devices: DeviceTable,
        faults: Arc<FaultInjector>,
        broker: Arc<Broker>,
        relay: Relay,
        store: Option<Store>,
    ) -> Self {
        Self {
            settings,
            authority,
            devices: Mutex::new(devices),
            faults,
            broker,
            relay,
            store,
            logs: PlatformLogs::default(),
        }
    }

    pub(crate) fn faults(&self) -> &FaultInjector {
        &self.faults
    }

    pub(crate) fn broker(&self) -> &Arc<Broker> {
        &self.broker
    }

    pub(crate) fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Registers a device and returns what it is to know.
    pub(crate) fn register(
        &self,
        registration_request: &RegistrationRequest<'_>,
    ) -> Result<Value, RegisterError> {
        let sn = registration_request.sn;
        let mut devices = lock(&self.devices);
        let Prepared {
            thing,
            access_point,
            iot,
            remote,
        } = self.prepare(&devices, registration_request)?;
        let (iot, remote) = (Certificates::new(iot), Certificates::new(remote));
        devices.insert(sn, &access_point, iot, remote)?;
        self.keep(&devices);
        tracing::info!(sn, %access_point, "registered a device");
        Ok(thing)
    }

    /// What [`register`](Self::register) would return, without registering anything.
    pub(crate) fn preview(
        &self,
        registration_request: &RegistrationRequest<'_>,
    ) -> Result<Value, RegisterError> {
        self.prepare(&lock(&self.devices), registration_request)
            .map(|prepared| prepared.thing)
    }

    fn prepare(
        &self,
        devices: &DeviceTable,
        registration_request: &RegistrationRequest<'_>,
    ) -> Result<Prepared, RegisterError> {
        let RegistrationRequest { sn, key, .. } = *registration_request;
        if !names::is_serial(sn) {
            return Err(RegisterError::Serial(sn.chars().take(200).collect()));
        }
        if key != self.settings.provisioning_key {
            return Err(RegisterError::Key);
        }
        if devices.get(sn).is_some() {
            return Err(RegisterError::Used(sn.to_owned()));
        }
        let thing_name = names::thing_name(sn);
        let access_point = devices.free_access_point(sn);
        let iot = self
            .authority
            .issue_device(&thing_name, registration_request.iot.as_ref())?;
        let remote = self
            .authority
            .issue_remote(&access_point, registration_request.remote.as_ref())?;
        let mut thing = json!({
            "iot": {
                "endpoint": self.settings.mqtt_endpoint,
                "thing_name": thing_name,
                "certificates": { "device_certificate": iot.chain_pem, "root_ca": self.authority.iot_root_pem() },
            },
            "remote": {
                "endpoint": self.settings.relay_endpoint,
                "access_point": access_point,
                "cert": remote.chain_pem,
            },
        });
        if let Some(key) = &iot.key_pem {
            thing["iot"]["keyPair"] = json!({ "privateKey": key.as_str() });
        }
        if let Some(key) = &remote.key_pem {
            thing["remote"]["pkey"] = json!(key.as_str());
        }
        Ok(Prepared {
            thing,
            access_point,
            iot,
            remote,
        })
    }

    /// The device that a client certificate's thing is, if the certificate with this serial number
    /// is taken from it.
    pub(crate) fn identify(&self, thing: &str, serial: &str) -> Option<Identity> {
        let devices = lock(&self.devices);
        let device = devices.by_thing(thing)?;
        if !device.accepts_iot(serial) {
            return None;
        }
        Some(Identity {
            sn: device.sn.clone(),
            thing: device.thing.clone(),
        })
    }

    /// The thing name and access point of a device, if it is known.
    pub(crate) fn names_of(&self, sn: &str) -> Option<(String, String)> {
        let devices = lock(&self.devices);
        devices
            .get(sn)
            .map(|device| (device.thing.clone(), device.access_point.clone()))
    }

    pub(crate) fn serials(&self) -> Vec<String> {
        lock(&self.devices).serials()
    }

    pub(crate) async fn status(&self, sn: &str) -> Option<DeviceStatus> {
        let (mut status, last_said_offline) = {
            let devices = lock(&self.devices);
            let device = devices.get(sn)?;
            (self.known(device), device.last_said_offline())
        };
        status.online = !last_said_offline && self.broker.is_connected(&status.thing_name).await;
        Some(status)
    }

    fn known(&self, device: &Device) -> DeviceStatus {
        let sections = self
            .broker
            .shadows()
            .sections(&ShadowId::named(&device.thing, CONFIG_SHADOW));
        let (desired, reported) = sections.unzip();
        DeviceStatus {
            sn: device.sn.clone(),
            thing_name: device.thing.clone(),
            registered: true,
            online: false,
            tunnel: self.relay.is_connected(&device.access_point),
            access_point: device.access_point.clone(),
            status_history: device.status_history(),
            reported: reported.map(Value::Object),
            desired: desired.map(Value::Object),
            tokens_issued: device.tokens_issued,
            remote_cert_serial: device
                .certificates(Service::Remote)
                .current_serial()
                .to_owned(),
            iot_cert_serial: device
                .certificates(Service::Iot)
                .current_serial()
                .to_owned(),
            iot_cert_accepted: device.certificates(Service::Iot).serials(),
        }
    }

    /// Forgets a device, so that its key works again; cuts what it has open. `false` if it was not
    /// known.
    pub(crate) async fn forget(&self, sn: &str) -> bool {
        let removed = {
            let mut devices = lock(&self.devices);
            let removed = devices.remove(sn);
            self.keep(&devices);
            removed
        };
        let Some(device) = removed else {
            return false;
        };
        self.broker.cut(Some(&device.thing));
        self.relay.disconnect(&device.access_point);
        let delete = format!(
            "$aws/things/{}/shadow/name/{CONFIG_SHADOW}/delete",
            device.thing
        );
        self.broker.shadows().handle(&delete, b"").await;
        tracing::info!(sn, "forgot a device");
        true
    }

    /// Makes a new certificate for a device and tells the device, through its shadow, to fetch it.
    /// Returns the serial number; `None` if the device is not known.
    pub(crate) async fn rotate(
        &self,
        sn: &str,
        service: Service,
    ) -> Option<Result<String, RotateError>> {
        let (thing, access_point) = self.names_of(sn)?;
        Some(self.rotate_known(sn, service, &thing, &access_point).await)
    }

    async fn rotate_known(
        &self,
        sn: &str,
        service: Service,
        thing: &str,
        access_point: &str,
    ) -> Result<String, RotateError> {
        let issued = match service {
            Service::Iot => self.authority.issue_device(thing, None)?,
            Service::Remote => self.authority.issue_remote(access_point, None)?,
        };
        let serial = issued.serial.clone();
        {
            let mut devices = lock(&self.devices);
            if let Some(device) = devices.get_mut(sn) {
                device.certificates_mut(service).add(issued);
            }
            self.keep(&devices);
        }
        let desired = Map::from_iter([(service.key().to_owned(), Value::from(serial.clone()))]);
        self.set_desired(&ShadowId::named(thing, CONFIG_SHADOW), desired)
            .await?;
        tracing::info!(sn, %serial, ?service, "rotating a certificate");
        Ok(serial)
    }

    /// A device reports its state. With a client certificate that it has, those before it are
    /// revoked, and what is still connected with one of them is cut.
    pub(crate) fn note_reported(&self, thing: &str, reported: &Value) {
        let Some(serial) = reported[Service::Iot.key()].as_str() else {
            return;
        };
        let mut devices = lock(&self.devices);
        let Some(sn) = devices.by_thing(thing).map(|device| device.sn.clone()) else {
            return;
        };
        let retired = devices
            .get_mut(&sn)
            .is_some_and(|device| device.certificates_mut(Service::Iot).retire_before(serial));
        if retired {
            tracing::info!(
                sn,
                serial,
                "a device has its new client certificate; the old one is revoked"
            );
            self.keep(&devices);
            let accepts = |serial: &str| devices.get(&sn).is_some_and(|it| it.accepts_iot(serial));
            self.broker.cut_revoked(thing, accepts);
        }
    }

    /// Merges into the desired section of a shadow.
    pub(crate) async fn set_desired(
        &self,
        shadow: &ShadowId,
        patch: Map<String, Value>,
    ) -> Result<(), Rejection> {
        self.broker.shadows().set_desired(shadow, patch).await
    }

    /// Writes the state to the data directory, if there is one.
    pub(crate) fn save(&self) {
        self.keep(&lock(&self.devices));
    }

    fn keep(&self, devices: &DeviceTable) {
        let Some(store) = &self.store else { return };
        let state = SavedState {
            authority: self.authority.saved().clone(),
            provisioning_key: self.settings.provisioning_key.clone(),
            fernet_key: self.relay.secret().to_owned(),
            devices: devices.saved(),
            ports: self.settings.ports,
        };
        if let Err(error) = store.save(&state) {
            error_throttled!(self.logs.not_kept, %error, "cannot keep the state; a simulator started again will not know these devices");
        }
    }
}

/// Why a certificate was not rotated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the shadow was not updated: {0}")]
    Shadow(#[from] Rejection),
}
