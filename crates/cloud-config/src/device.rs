//! A device's whole configuration, as one checked value.
//!
//! What it takes to be valid is said here once, for an answer of the platform and for a directory alike. It knows
//! nothing of files (see [`crate::Store`]).
//!
//! Protocol: `docs/protocol.md`, "On disk".

use std::fmt;

use crate::credentials::{Credentials, CredentialsError, RootCertificates};
use crate::error::LoadError;
use crate::names::{Endpoint, HostName, NameError, SerialNumber, ThingName};

/// Everything that a provisioned device knows.
///
/// `R` is what is known of the pair for remote access. It is there and sound unless said otherwise; see
/// [`PartialDeviceConfig`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceConfig<R = Credentials> {
    /// The device's serial number: the thing name, unless another one [was stored](Self::with_serial_number).
    pub serial_number: SerialNumber,
    /// The device's name at AWS IoT and its MQTT client id.
    pub iot_thing_name: ThingName,
    /// The MQTT broker; port 8883 where none is written.
    pub iot_endpoint: Endpoint,
    /// The tunnel's relay; port 443 where none is written.
    pub remote_endpoint: Endpoint,
    /// The host name under which the public reaches the device.
    pub access_point: HostName,
    /// Roots trusted for the broker.
    pub iot_roots: RootCertificates,
    /// The device's client certificate for the broker.
    pub iot: Credentials,
    /// The certificate that the device shows to its visitors.
    pub remote: R,
}

/// A configuration whose pair for remote access may be missing or damaged, which is then said in its place. From
/// [`Store::load_partly`](crate::Store::load_partly).
pub type PartialDeviceConfig = DeviceConfig<Result<Credentials, LoadError>>;

/// The nine texts that a [`DeviceConfig`] is made from. `Debug` shows no key.
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

/// Which part of a configuration is not valid, and why. Trying again cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A name or an endpoint.
    #[error("`{field}` {problem}")]
    Name {
        /// Its key in `cloud_config.json`.
        field: &'static str,
        /// What is wrong with it.
        problem: NameError,
    },
    /// The roots for the broker.
    #[error("in the roots for the broker, {0}")]
    Roots(#[source] CredentialsError),
    /// The client certificate or its key.
    #[error("in the device's credentials for the broker, {0}")]
    Iot(#[source] CredentialsError),
    /// The public certificate or its key.
    #[error("in the credentials for remote access, {0}")]
    Remote(#[source] CredentialsError),
}

impl DeviceConfig {
    /// Checks the parts and puts them together.
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
    /// The same for all but the pair for remote access, which is not looked at.
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
    /// The same device with something else in the place of its pair for remote access.
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

    /// The same device with this serial number, for platforms whose thing names are not the serial numbers.
    #[must_use]
    pub fn with_serial_number(mut self, serial_number: SerialNumber) -> Self {
        self.serial_number = serial_number;
        self
    }

    /// Where the public reaches the device: by its access point, at the relay's port, which devices and public share.
    #[must_use]
    pub fn page_url(&self) -> String {
        match self.remote_endpoint.port_or(443) {
            443 => format!("https://{}/", self.access_point),
            port => format!("https://{}:{port}/", self.access_point),
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
