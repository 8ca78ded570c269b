//! What the platform knows and decides: registrations, tokens, certificates, rotation.
//!
//! It sits behind the APIs and the broker and does no network I/O of its own, but for what it publishes. Each function
//! takes the lock on the table for as long as it computes, never across a wait.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::authority::{Authority, AuthorityError, Issued};
use crate::broker::rights::Identity;
use crate::broker::{Broker, PlatformSession};
use crate::device::{Device, DeviceStatus, DeviceTable, TableFull};
use crate::faults::{CertificateAnswer, FaultBoard, TokenAnswer};
use crate::relay::{Relay, TokenTerms};
use crate::shadow::{Rejection, ShadowId};
use crate::store::{SavedState, Store};
use crate::{locked, names};

/// What the platform listens to: the devices' states, and their requests.
pub(crate) const PLATFORM_FILTERS: [&str; 2] = ["c/d/+/status", "c/d/+/+/req"];

/// The shadow in which a device is told which certificate it should have.
const CONFIG_SHADOW: &str = "config";

/// Answers that are being held back at a time.
const MAX_LATE: usize = 256;

/// How long ago the time of an expired token was over.
const EXPIRED_SINCE: Duration = Duration::from_secs(3600);

/// What stays the same while the simulator runs.
pub(crate) struct Terms {
    pub(crate) provisioning_key: String,
    pub(crate) mqtt_endpoint: String,
    pub(crate) relay_endpoint: String,
    pub(crate) tokens: TokenTerms,
    pub(crate) token_valid: Duration,
}

/// The platform.
pub(crate) struct Cloud {
    terms: Terms,
    authority: Authority,
    devices: Mutex<DeviceTable>,
    faults: Arc<FaultBoard>,
    broker: Arc<Broker>,
    relay: Relay,
    store: Option<Store>,
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

#[derive(Deserialize)]
struct TokenRequest {
    #[serde(rename = "aesKey")]
    key: String,
    #[serde(rename = "aesIv")]
    iv: String,
}

#[derive(Deserialize)]
struct CertificateRequest {
    #[serde(rename = "remoteCertSn")]
    serial: String,
}

/// An answer to publish, and how late.
struct Reply {
    topic: String,
    payload: String,
    after: Duration,
}

impl Cloud {
    pub(crate) fn new(
        terms: Terms,
        authority: Authority,
        devices: DeviceTable,
        faults: Arc<FaultBoard>,
        broker: Arc<Broker>,
        relay: Relay,
        store: Option<Store>,
    ) -> Self {
        Self {
            terms,
            authority,
            devices: Mutex::new(devices),
            faults,
            broker,
            relay,
            store,
        }
    }

    pub(crate) fn faults(&self) -> &FaultBoard {
        &self.faults
    }

    pub(crate) fn broker(&self) -> &Broker {
        &self.broker
    }

    pub(crate) fn relay(&self) -> &Relay {
        &self.relay
    }

    /// Registers a device and returns what it is to know.
    pub(crate) fn register(&self, sn: &str, key: &str) -> Result<Value, RegisterError> {
        let mut devices = locked(&self.devices);
        let (thing, access_point, remote) = self.prepare(&devices, sn, key)?;
        devices.insert(sn, &access_point, remote)?;
        self.keep(&devices);
        tracing::info!(sn, %access_point, "registered a device");
        Ok(thing)
    }

    /// What [`register`](Self::register) would return, without registering anything.
    pub(crate) fn preview(&self, sn: &str, key: &str) -> Result<Value, RegisterError> {
        self.prepare(&locked(&self.devices), sn, key)
            .map(|(thing, ..)| thing)
    }

    fn prepare(
        &self,
        devices: &DeviceTable,
        sn: &str,
        key: &str,
    ) -> Result<(Value, String, Issued), RegisterError> {
        if !names::is_serial(sn) {
            return Err(RegisterError::Serial(sn.chars().take(200).collect()));
        }
        if key != self.terms.provisioning_key {
            return Err(RegisterError::Key);
        }
        if devices.get(sn).is_some() {
            return Err(RegisterError::Used(sn.to_owned()));
        }
        let thing_name = names::thing_name(sn);
        let access_point = devices.free_access_point(sn);
        let iot = self.authority.issue_device(&thing_name)?;
        let remote = self.authority.issue_remote(&access_point)?;
        let thing = json!({
            "iot": {
                "endpoint": self.terms.mqtt_endpoint,
                "thing_name": thing_name,
                "certificates": { "device_certificate": iot.chain_pem, "root_ca": self.authority.iot_root_pem() },
                "keyPair": { "privateKey": iot.key_pem.as_str() },
            },
            "remote": {
                "endpoint": self.terms.relay_endpoint,
                "access_point": access_point,
                "cert": remote.chain_pem,
                "pkey": remote.key_pem.as_str(),
            },
        });
        Ok((thing, access_point, remote))
    }

    /// The device that a client certificate's thing is.
    pub(crate) fn identify(&self, thing: &str) -> Option<Identity> {
        let devices = locked(&self.devices);
        let device = devices.by_thing(thing)?;
        Some(Identity {
            sn: device.sn.clone(),
            thing: device.thing.clone(),
        })
    }

    /// The thing name and access point of a device, if it is known.
    pub(crate) fn names_of(&self, sn: &str) -> Option<(String, String)> {
        let devices = locked(&self.devices);
        devices
            .get(sn)
            .map(|device| (device.thing.clone(), device.access_point.clone()))
    }

    pub(crate) fn serials(&self) -> Vec<String> {
        locked(&self.devices).serials()
    }

    pub(crate) async fn status(&self, sn: &str) -> Option<DeviceStatus> {
        let (mut status, last_said_offline) = {
            let devices = locked(&self.devices);
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
            remote_cert_serial: device.current_serial().to_owned(),
        }
    }

    /// Forgets a device, so that its key works again; cuts what it has open. `false` if it was not known.
    pub(crate) async fn forget(&self, sn: &str) -> bool {
        let removed = {
            let mut devices = locked(&self.devices);
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

    /// Makes a new certificate for a device's page and tells the device, through its shadow, to fetch it. Returns the
    /// serial number; `None` if the device is not known.
    pub(crate) async fn rotate(&self, sn: &str) -> Option<Result<String, RotateError>> {
        let (thing, access_point) = self.names_of(sn)?;
        Some(self.rotate_known(sn, &thing, &access_point).await)
    }

    async fn rotate_known(
        &self,
        sn: &str,
        thing: &str,
        access_point: &str,
    ) -> Result<String, RotateError> {
        let issued = self.authority.issue_remote(access_point)?;
        let serial = issued.serial.clone();
        {
            let mut devices = locked(&self.devices);
            if let Some(device) = devices.get_mut(sn) {
                device.add_certificate(issued);
            }
            self.keep(&devices);
        }
        let desired = Map::from_iter([("remoteCertSn".to_owned(), Value::from(serial.clone()))]);
        self.set_desired(thing, desired).await?;
        tracing::info!(sn, %serial, "rotating a certificate");
        Ok(serial)
    }

    /// Merges into the desired section of the shadow `config`.
    pub(crate) async fn set_desired(
        &self,
        thing: &str,
        patch: Map<String, Value>,
    ) -> Result<(), Rejection> {
        self.broker
            .shadows()
            .set_desired(&ShadowId::named(thing, CONFIG_SHADOW), patch)
            .await
    }

    /// Listens to the devices until `shutdown`.
    pub(crate) async fn run(
        self: Arc<Self>,
        mut session: PlatformSession,
        shutdown: CancellationToken,
    ) {
        let mut late = JoinSet::new();
        loop {
            let message = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = late.join_next() => continue,
                message = session.next() => message,
            };
            let Some((topic, payload)) = message else {
                break;
            };
            let Some(reply) = self.hear(&topic, &payload) else {
                continue;
            };
            if reply.after.is_zero() {
                self.broker.publish(&reply.topic, reply.payload).await;
            } else if late.len() < MAX_LATE {
                let broker = Arc::clone(&self.broker);
                late.spawn(async move {
                    tokio::time::sleep(reply.after).await;
                    broker.publish(&reply.topic, reply.payload).await;
                });
            }
        }
        late.shutdown().await;
    }

    /// Takes note of what a device says, and finds the answer if it asks for something.
    fn hear(&self, topic: &str, payload: &[u8]) -> Option<Reply> {
        let mut levels = topic.strip_prefix("c/d/")?.split('/');
        let sn = levels.next()?;
        match (levels.next()?, levels.next()) {
            ("status", None) => {
                self.note_status(sn, payload);
                None
            }
            ("remotetoken", Some("req")) => self.answer_token(sn, payload),
            ("remotecr", Some("req")) => self.answer_certificate(sn, payload),
            (action, _) => {
                tracing::info!(
                    sn,
                    action,
                    "a device asks for something that this platform does not know"
                );
                None
            }
        }
    }

    fn note_status(&self, sn: &str, payload: &[u8]) {
        let parsed = serde_json::from_slice::<Value>(payload).ok();
        let Some(state) = parsed
            .as_ref()
            .and_then(|status| status.get("state")?.as_str())
        else {
            tracing::warn!(sn, "a device sent a status that cannot be read");
            return;
        };
        tracing::info!(sn, state, "a device tells its state");
        if let Some(device) = locked(&self.devices).get_mut(sn) {
            device.record_status(state);
        }
    }

    fn answer_token(&self, sn: &str, payload: &[u8]) -> Option<Reply> {
        let Ok(request) = serde_json::from_slice::<TokenRequest>(payload) else {
            tracing::warn!(sn, "a token request cannot be read; not answering");
            return None;
        };
        let wrong = self.faults.next_token();
        if let Some(answer) = &wrong {
            tracing::info!(sn, ?answer, "answering a token request wrongly");
        }
        self.token_reply(sn, &request.key, &request.iv, wrong)
    }

    /// A token answer made for keys that the device does not have, unasked for.
    pub(crate) async fn send_unasked_token(&self, sn: &str) -> bool {
        let Some(reply) = self.token_reply(sn, "", "", Some(TokenAnswer::WrongKey)) else {
            return false;
        };
        self.broker.publish(&reply.topic, reply.payload).await;
        true
    }

    fn token_reply(
        &self,
        sn: &str,
        key: &str,
        iv: &str,
        wrong: Option<TokenAnswer>,
    ) -> Option<Reply> {
        let topic = format!("c/d/{sn}/remotetoken/res");
        let mut after = Duration::ZERO;
        let now = OffsetDateTime::now_utc();
        let mut valid = unix_seconds(now + self.terms.token_valid);
        match &wrong {
            Some(TokenAnswer::Hold) => return None,
            Some(TokenAnswer::Malformed) => {
                return Some(Reply {
                    topic,
                    payload: "{\"valid\": soon".to_owned(),
                    after,
                });
            }
            Some(TokenAnswer::Late { ms }) => after = Duration::from_millis(*ms),
            Some(TokenAnswer::Expired) => valid = unix_seconds(now - EXPIRED_SINCE),
            Some(TokenAnswer::Foreign | TokenAnswer::WrongKey) | None => {}
        }
        let mut devices = locked(&self.devices);
        let device = devices.get_mut(sn)?;
        let host = &device.access_point;
        let issued = match &wrong {
            Some(TokenAnswer::Foreign) => self.terms.tokens.issue_foreign(host, key, iv, valid),
            Some(TokenAnswer::WrongKey) => {
                self.relay
                    .issue_with_other_key(&self.terms.tokens, host, valid)
            }
            _ => self.relay.issue(&self.terms.tokens, host, key, iv, valid),
        };
        let token = match issued {
            Ok(token) => token,
            Err(error) => {
                tracing::warn!(sn, %error, "cannot make a token; not answering");
                return None;
            }
        };
        if matches!(wrong, None | Some(TokenAnswer::Late { .. })) {
            device.tokens_issued += 1;
        }
        Some(Reply {
            topic,
            payload: self.terms.tokens.answer(valid, &token).to_string(),
            after,
        })
    }

    fn answer_certificate(&self, sn: &str, payload: &[u8]) -> Option<Reply> {
        let Ok(request) = serde_json::from_slice::<CertificateRequest>(payload) else {
            tracing::warn!(sn, "a certificate request cannot be read; not answering");
            return None;
        };
        let wrong = self.faults.next_certificate();
        if let Some(answer) = &wrong {
            tracing::info!(sn, ?answer, "answering a certificate request wrongly");
        }
        let (issued, access_point) = {
            let devices = locked(&self.devices);
            let device = devices.get(sn)?;
            (
                device.certificate(&request.serial).cloned(),
                device.access_point.clone(),
            )
        };
        let Some(mut issued) = issued else {
            tracing::warn!(sn, serial = %request.serial, "a device asks for a certificate that was never made for it");
            return None;
        };
        let topic = format!("c/d/{sn}/remotecr/res");
        let mut after = Duration::ZERO;
        match wrong {
            None => {}
            Some(CertificateAnswer::Hold) => return None,
            Some(CertificateAnswer::Late { ms }) => after = Duration::from_millis(ms),
            Some(CertificateAnswer::Malformed) => {
                return Some(Reply {
                    topic,
                    payload: "{\"cert\": -----BEGIN".to_owned(),
                    after,
                });
            }
            Some(CertificateAnswer::WrongKey) => {
                issued.key_pem = self.authority.issue_remote(&access_point).ok()?.key_pem
            }
            Some(CertificateAnswer::WrongSerial) => {
                issued = self.authority.issue_remote(&access_point).ok()?
            }
        }
        let payload =
            json!({ "cert": issued.chain_pem, "pkey": issued.key_pem.as_str() }).to_string();
        Some(Reply {
            topic,
            payload,
            after,
        })
    }

    /// Writes the state to the data directory, if there is one.
    pub(crate) fn save(&self) {
        self.keep(&locked(&self.devices));
    }

    fn keep(&self, devices: &DeviceTable) {
        let Some(store) = &self.store else { return };
        let state = SavedState {
            authority: self.authority.saved().clone(),
            provisioning_key: self.terms.provisioning_key.clone(),
            fernet_key: self.relay.secret().to_owned(),
            devices: devices.saved(),
        };
        if let Err(error) = store.save(&state) {
            tracing::error!(%error, "cannot keep the state; a simulator started again will not know these devices");
        }
    }
}

fn unix_seconds(time: OffsetDateTime) -> u64 {
    u64::try_from(time.unix_timestamp()).unwrap_or_default()
}

/// Why a certificate was not rotated.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RotateError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("the shadow was not updated: {0}")]
    Shadow(#[from] Rejection),
}
