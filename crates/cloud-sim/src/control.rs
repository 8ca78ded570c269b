//! The hands on the simulator: look at devices, rotate certificates, speak as the platform, make
//! faults.
//!
//! Everything that the HTTP control API does is done by a [`Control`], so that tests in the same
//! process need no HTTP.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::broker::acl::BROADCAST_TOPIC;
use crate::device::DeviceStatus;
use crate::faults::{ApiAnswer, Fault, Service};
use crate::names;
use crate::platform::{CONFIG_SHADOW, Platform, RotateError};
use crate::shadow::{Rejection, ShadowId};

/// AWS IoT Core takes payloads up to this size.
const MAX_PAYLOAD: usize = 128 * 1024;

/// Why the simulator did not carry out a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// No such device is registered.
    #[error("no device {sn:?} is registered; GET /devices lists those that are")]
    NoSuchDevice {
        /// The serial number that was given.
        sn: String,
    },
    /// The shadow service refused the change.
    #[error("the shadow was not updated: {0}")]
    Shadow(Rejection),
    /// What was given breaks the rules.
    #[error("{0}")]
    Invalid(String),
    /// A certificate could not be made.
    #[error("the simulator failed: {0}")]
    Internal(String),
}

/// Controls a running simulator. Clones control the same one.
#[derive(Clone)]
pub struct Control {
    platform: Arc<Platform>,
}

impl Control {
    pub(crate) fn new(platform: Arc<Platform>) -> Self {
        Self { platform }
    }

    /// All registered devices, by serial number.
    pub async fn devices(&self) -> Vec<DeviceStatus> {
        let mut devices = Vec::new();
        for sn in self.platform.serials() {
            devices.extend(self.platform.status(&sn).await);
        }
        devices
    }

    /// One registered device.
    ///
    /// # Errors
    /// [`ControlError::NoSuchDevice`].
    pub async fn device(&self, sn: &str) -> Result<DeviceStatus, ControlError> {
        self.platform
            .status(sn)
            .await
            .ok_or_else(|| no_such_device(sn))
    }

    /// Makes a new certificate for a device's page and tells the device, through its shadow, to
    /// fetch it. Returns the serial number in decimal text.
    ///
    /// # Errors
    /// [`ControlError::NoSuchDevice`], [`ControlError::Shadow`] if the shadow is full,
    /// [`ControlError::Internal`].
    pub async fn rotate(&self, sn: &str) -> Result<String, ControlError> {
        self.rotate_certificate(sn, Service::Remote).await
    }

    /// The same for the client certificate with which the device connects to the broker. The broker
    /// takes the old one too, until the device has reported the new one.
    ///
    /// # Errors
    /// As [`rotate`](Self::rotate).
    pub async fn rotate_iot(&self, sn: &str) -> Result<String, ControlError> {
        self.rotate_certificate(sn, Service::Iot).await
    }

    async fn rotate_certificate(&self, sn: &str, service: Service) -> Result<String, ControlError> {
        let rotated = self.platform.rotate(sn, service).await;
        match rotated.ok_or_else(|| no_such_device(sn))? {
            Ok(serial) => Ok(serial),
            Err(RotateError::Shadow(refused)) => Err(ControlError::Shadow(refused)),
            Err(error) => Err(ControlError::Internal(error.to_string())),
        }
    }

    /// Merges an object into the desired section of a device's shadow `config`; `null` removes a
    /// key.
    ///
    /// # Errors
    /// [`ControlError::NoSuchDevice`], or [`ControlError::Shadow`] if a limit is broken.
    pub async fn set_desired(
        &self,
        sn: &str,
        patch: Map<String, Value>,
    ) -> Result<(), ControlError> {
        self.set_desired_of(sn, CONFIG_SHADOW, patch).await
    }

    /// The same for the shadow of this name.
    ///
    /// # Errors
    /// As [`set_desired`](Self::set_desired), and [`ControlError::Shadow`] if AWS IoT Core permits
    /// no such name.
    pub async fn set_desired_of(
        &self,
        sn: &str,
        shadow: &str,
        patch: Map<String, Value>,
    ) -> Result<(), ControlError> {
        let (thing, _) = self.names_of(sn)?;
        self.platform
            .set_desired(&ShadowId::named(thing, shadow), patch)
            .await
            .map_err(ControlError::Shadow)
    }

    /// Publishes on `c/d/<sn>/<action>/res`, as an answer or a message of the platform.
    ///
    /// # Errors
    /// [`ControlError::NoSuchDevice`]; [`ControlError::Invalid`] if the action has other characters
    /// than `A-Z a-z 0-9 _ -` or the payload is over 128 KiB.
    pub async fn action(
        &self,
        sn: &str,
        action: &str,
        payload: Vec<u8>,
    ) -> Result<(), ControlError> {
        self.names_of(sn)?;
        if !names::is_action(action) {
            return Err(ControlError::Invalid(format!(
                "{action:?} is no action: use A-Z a-z 0-9 _ -"
            )));
        }
        check_payload(&payload)?;
        self.platform
            .broker()
            .publish(&format!("c/d/{sn}/{action}/res"), payload)
            .await;
        Ok(())
    }

    /// Publishes to all devices, on `c/platform`.
    ///
    /// # Errors
    /// [`ControlError::Invalid`] if the payload is over 128 KiB.
    pub async fn broadcast(&self, payload: Vec<u8>) -> Result<(), ControlError> {
        check_payload(&payload)?;
        self.platform
            .broker()
            .publish(BROADCAST_TOPIC, payload)
            .await;
        Ok(())
    }

    /// Forgets a device: its connections are cut, its certificate is refused, and the provisioning
    /// key works for its serial number again.
    ///
    /// # Errors
    /// [`ControlError::NoSuchDevice`].
    pub async fn forget(&self, sn: &str) -> Result<(), ControlError> {
        if self.platform.forget(sn).await {
            Ok(())
        } else {
            Err(no_such_device(sn))
        }
    }

    /// Makes a fault. Returns how many connections it cut at once; 0 for faults that wait for their
    /// occasion.
    ///
    /// # Errors
    /// [`ControlError::NoSuchDevice`] if it is for a device that is not registered;
    /// [`ControlError::Invalid`] if a value is out of its range or too many faults wait already.
    pub async fn fault(&self, fault: Fault) -> Result<usize, ControlError> {
        tracing::info!(?fault, "making a fault");
        let faults = self.platform.faults();
        let waits = match fault {
            Fault::DropMqtt { sn: None } => return Ok(self.platform.broker().cut(None)),
            Fault::DropMqtt { sn: Some(sn) } => {
                let (thing, _) = self.names_of(&sn)?;
                return Ok(self.platform.broker().cut(Some(&thing)));
            }
            Fault::DropTunnel { sn: None } => return Ok(self.platform.relay().disconnect_all()),
            Fault::DropTunnel { sn: Some(sn) } => {
                let (_, access_point) = self.names_of(&sn)?;
                return Ok(usize::from(self.platform.relay().disconnect(&access_point)));
            }
            Fault::SendToken { sn } => {
                self.names_of(&sn)?;
                if !self.platform.send_unasked_token(&sn).await {
                    return Err(ControlError::Internal("no token could be made".to_owned()));
                }
                true
            }
            Fault::RefuseMqtt { seconds } => {
                faults.refuse_for(Duration::from_secs(seconds.into()));
                true
            }
            Fault::FreezeMqtt { seconds } => {
                faults.freeze_for(Duration::from_secs(seconds.into()));
                true
            }
            Fault::Withhold { packet, times } => {
                faults.withhold(packet, times);
                true
            }
            Fault::Api {
                answer: ApiAnswer::Status { code, .. },
                ..
            } if !(400..600).contains(&code) => {
                return Err(ControlError::Invalid(format!(
                    "status {code} is no failure: use 400 to 599"
                )));
            }
            Fault::Api { answer, times } => faults.add_api(answer, times),
            Fault::Token { answer, times } => faults.add_token(answer, times),
            Fault::Certificate { answer, times } => {
                faults.add_certificate(Service::Remote, answer, times)
            }
            Fault::IotCertificate { answer, times } => {
                faults.add_certificate(Service::Iot, answer, times)
            }
            Fault::Clear => {
                faults.clear();
                true
            }
        };
        if waits {
            Ok(0)
        } else {
            Err(ControlError::Invalid(
                "too many faults wait already; use `times`, or clear them".to_owned(),
            ))
        }
    }

    fn names_of(&self, sn: &str) -> Result<(String, String), ControlError> {
        self.platform.names_of(sn).ok_or_else(|| no_such_device(sn))
    }
}

fn no_such_device(sn: &str) -> ControlError {
    ControlError::NoSuchDevice {
        sn: sn.chars().take(200).collect(),
    }
}

fn check_payload(payload: &[u8]) -> Result<(), ControlError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(ControlError::Invalid(format!(
            "a payload may have {MAX_PAYLOAD} bytes, not {}",
            payload.len()
        )));
    }
    Ok(())
}
