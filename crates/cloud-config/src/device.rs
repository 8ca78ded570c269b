//! A device's complete, validated configuration.
//!
//! The same validation applies to a response of the platform and to a directory. This module does
//! not access files (see [`crate::Store`]).

use std::fmt;

use crate::credentials::{Credentials, RootCertificates};
use crate::document::Document;
use crate::error::{ConfigError, LoadError};
use crate::names::{Endpoint, HostName, NameError, SerialNumber, ThingName};

/// The configuration of a provisioned device.
///
/// `R` is the type of the credentials for remote access, valid ones by default; see
/// [`PartialDeviceConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceConfig<R = Credentials> {
    /// The device's serial number: the thing name, unless a different one [is
    /// stored](Self::with_serial_number).
    pub serial_number: SerialNumber,
    /// The AWS IoT thing name and MQTT client ID.
    pub iot_thing_name: ThingName,
    /// The MQTT broker; default port 8883.
    pub iot_endpoint: Endpoint,
    /// The tunnel's relay; default port 443.
    pub remote_endpoint: Endpoint,
    /// The device's public host name.
    pub access_point: HostName,
    /// Trusted roots for the broker.
    pub iot_roots: RootCertificates,
    /// The device's client certificate for the broker.
    pub iot: Credentials,
    /// The server certificate for remote access.
    pub remote: R,
}

/// A configuration whose credentials for remote access may be missing or damaged; the error is then
/// in their place. From [`Store::load_partial`](crate::Store::load_partial).
pub type PartialDeviceConfig = DeviceConfig<Result<Credentials, LoadError>>;

/// The nine texts of a [`DeviceConfig`]. `Debug` shows no key.
#[derive(Clone, Copy)]
pub struct PemParts<'a> {
    /// See [`DeviceConfig::iot_thing_name`].
    pub iot_thing_name: &'a str,
    /// See [`DeviceConfig::iot_endpoint`].
    pub iot_endpoint: &'a str,
    /// See [`DeviceConfig::remote_endpoint`].
    pub remote_endpoint: &'a str,
    /// See [`DeviceConfig::access_point`].
    pub access_point: &'a str,
    /// Roots for the broker, PEM.
    pub iot_ca: &'a str,
    /// Client certificate, PEM.
    pub iot_cert: &'a str,
    /// Its private key, PEM: secret.
    pub iot_key: &'a str,
    /// Public certificate, leaf first, then its chain, PEM.
    pub remote_cert: &'a str,
    /// Its private key, PEM: secret.
    pub remote_key: &'a str,
}

impl fmt::Debug for PemParts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemParts")
            .field("iot_thing_name", &self.iot_thing_name)
            .field("iot_endpoint", &self.iot_endpoint)
            .field("remote_endpoint", &self.remote_endpoint)
            .field("access_point", &self.access_point)
            .finish_non_exhaustive()
    }
}

impl DeviceConfig {
    /// Validates and combines the parts.
    ///
    /// # Errors
    /// [`ConfigError`] for the first part that is not valid.
    pub fn from_pem_parts(parts: PemParts<'_>) -> Result<Self, ConfigError> {
        let rest = DeviceConfig::without_remote(parts)?;
        let remote = Credentials::from_pem(parts.remote_cert, parts.remote_key)
            .map_err(ConfigError::Remote)?;
        Ok(rest.with_remote(remote))
    }
}

impl DeviceConfig<()> {
    /// Validates everything except the credentials for remote access.
    pub(crate) fn without_remote(parts: PemParts<'_>) -> Result<Self, ConfigError> {
        Ok(Self {
            serial_number: name("iot_thing_name", parts.iot_thing_name)?,
            iot_thing_name: name("iot_thing_name", parts.iot_thing_name)?,
            iot_endpoint: name("iot_endpoint", parts.iot_endpoint)?,
            remote_endpoint: name("remote_endpoint", parts.remote_endpoint)?,
            access_point: name("access_point", parts.access_point)?,
            iot_roots: RootCertificates::from_pem(parts.iot_ca).map_err(ConfigError::Roots)?,
            iot: Credentials::from_pem(parts.iot_cert, parts.iot_key).map_err(ConfigError::Iot)?,
            remote: (),
        })
    }
}

impl<R> DeviceConfig<R> {
    /// Replaces the credentials for remote access, possibly by another type.
    #[must_use]
    pub fn with_remote<T>(self, remote: T) -> DeviceConfig<T> {
        DeviceConfig {
            serial_number: self.serial_number,
            iot_thing_name: self.iot_thing_name,
            iot_endpoint: self.iot_endpoint,
            remote_endpoint: self.remote_endpoint,
            access_point: self.access_point,
            iot_roots: self.iot_roots,
            iot: self.iot,
            remote,
        }
    }

    /// Sets the serial number, for platforms whose thing names differ from it.
    #[must_use]
    pub fn with_serial_number(mut self, serial_number: SerialNumber) -> Self {
        self.serial_number = serial_number;
        self
    }

    /// Returns the device's public URL: its access point at the relay's port, which devices and
    /// clients share.
    #[must_use]
    pub fn page_url(&self) -> String {
        match self.remote_endpoint.port_or(443) {
            443 => format!("https://{}/", self.access_point),
            port => format!("https://{}:{port}/", self.access_point),
        }
    }
}

impl DeviceConfig {
    /// Returns the content of `cloud_config.json`.
    pub(crate) fn document(&self) -> Document {
        Document {
            iot_thing_name: self.iot_thing_name.to_string(),
            iot_endpoint: self.iot_endpoint.to_string(),
            remote_endpoint: self.remote_endpoint.to_string(),
            access_point: self.access_point.to_string(),
        }
    }
}

pub(crate) fn name<T: std::str::FromStr<Err = NameError>>(
    field: &'static str,
    text: &str,
) -> Result<T, ConfigError> {
    text.parse()
        .map_err(|problem| ConfigError::Name { field, problem })
}
