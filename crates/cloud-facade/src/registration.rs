//! Registration of a device: the request to the API, and storing its response.
//!
//! The order matters: the directory is locked and checked before anything is sent, because the
//! platform uses up the key with the first success. The old configuration stays until the new one
//! is complete. Finding a configuration to keep needs no lock, so that a running device is reported
//! as registered, not as locked.

use cloud_config::{
    AccessError, ConfigError, DeviceConfig, LockError, OtherDevice, PemParts, SerialNumber, Store,
    StoreError,
};
use cloud_provision::{
    BuildError, Client, ClockSkew, KeyOrigin, KeySource, ProvisionError, Provisioned,
    ProvisioningKey,
};

use crate::tasks::spawn_blocking;

/// How to treat an existing configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnExisting {
    /// Keep it and send nothing.
    #[default]
    Keep,
    /// Register again and replace it once the new one is complete.
    Replace,
}

/// The result of a successful registration.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Registered {
    /// The device is registered now and its configuration is stored.
    New {
        /// The public name of the device.
        access_point: String,
        /// The URL of the device's page.
        url: String,
        /// Whether both private keys were generated on this device and never left it.
        own_keys: bool,
        /// The clock skew between device and platform, if the response had a date.
        clock_skew: Option<ClockSkew>,
    },
    /// The device was provisioned before; nothing was sent.
    AlreadyProvisioned,
}

/// An error of a registration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistrationError {
    /// The directory is in use, or cannot be created or locked. Nothing was sent.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// The configuration to keep belongs to another device. Nothing was sent.
    #[error(transparent)]
    OtherDevice(#[from] OtherDevice),
    /// The configuration cannot be stored. Nothing was sent.
    #[error("nothing was sent, as the response could not be stored: {0}")]
    NotStorable(#[source] StoreError),
    /// The directory cannot be read. Nothing was sent.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The client's configuration is invalid. Nothing was sent.
    #[error(transparent)]
    Client(#[from] BuildError),
    /// The platform could not be reached, refused, or sent an invalid response.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The response is not a valid configuration.
    #[error(
        "the platform's response cannot be used: {0}; it may have registered the device nevertheless, and then needs a new key"
    )]
    Answer(#[from] ConfigError),
    /// The device is registered, but its configuration could not be stored.
    #[error(
        "the platform registered the device, but its response could not be stored, and the key is used up, so that a new one is needed: {0}"
    )]
    Store(#[from] StoreError),
}

impl RegistrationError {
    /// Whether the same call may succeed later.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Locked(error) => error.is_retryable(),
            Self::Access(error) => error.is_retryable(),
            Self::NotStorable(error) => error.is_retryable(),
            Self::Provision(error) => error.is_retryable(),
            Self::Client(_) | Self::Answer(_) | Self::Store(_) | Self::OtherDevice(_) => false,
        }
    }
}

/// Registers through `client` and stores the response.
///
/// # Errors
/// [`RegistrationError`]. The previous configuration is unchanged.
///
/// # Cancel safety
/// Not cancel safe once the request is sent: the platform may have used up the key.
pub async fn register(
    store: &Store,
    client: &Client,
    serial_number: &SerialNumber,
    key: &ProvisioningKey,
    existing: OnExisting,
) -> Result<Registered, RegistrationError> {
    let answer = client.register(serial_number.as_str(), key);
    request_and_store(store, serial_number, existing, answer).await
}

/// Like [`register`], with private keys that `source` generates once the directory is locked: the
/// platform gets certificate signing requests. If it sends keys nevertheless, those are stored, and
/// [`Registered::New`] reports it.
///
/// # Errors
/// As [`register`].
///
/// # Cancel safety
/// As [`register`].
pub async fn register_with_keys(
    store: &Store,
    client: &Client,
    serial_number: &SerialNumber,
    key: &ProvisioningKey,
    source: &impl KeySource,
    existing: OnExisting,
) -> Result<Registered, RegistrationError> {
    let answer = client.register_with_keys(serial_number.as_str(), key, source);
    request_and_store(store, serial_number, existing, answer).await
}

/// Locks the directory, polls `ask`, which sends the request, and stores the response.
async fn request_and_store(
    store: &Store,
    serial_number: &SerialNumber,
    existing: OnExisting,
    ask: impl Future<Output = Result<Provisioned, ProvisionError>>,
) -> Result<Registered, RegistrationError> {
    let lock = {
        let (store, serial_number) = (store.clone(), serial_number.clone());
        spawn_blocking(move || {
            let keep = || match existing {
                OnExisting::Keep if store.is_provisioned()? => {
                    store.ensure_serial_number(&serial_number)?;
                    Ok::<_, RegistrationError>(true)
                }
                _ => Ok(false),
            };
            if keep()? {
                return Ok::<_, RegistrationError>(None);
            }
            let lock = store.lock()?;
            // Checked again, as another process may have stored a configuration.
            if keep()? {
                return Ok(None);
            }
            store
                .preflight_save()
                .map_err(RegistrationError::NotStorable)?;
            Ok(Some(lock))
        })
        .await?
    };
    let Some(lock) = lock else {
        return Ok(Registered::AlreadyProvisioned);
    };
    let answer = ask.await?;
    let device = device_config(&answer)?.with_serial_number(serial_number.clone());
    let registered = Registered::New {
        access_point: device.access_point.to_string(),
        url: device.page_url(),
        own_keys: [answer.iot.key_origin, answer.remote.key_origin] == [KeyOrigin::Device; 2],
        clock_skew: answer.clock_skew,
    };
    let store = store.clone();
    spawn_blocking(move || {
        let stored = store.save(&device);
        drop(lock);
        stored
    })
    .await?;
    tracing::info!(%serial_number, access_point = %answer.remote.access_point, "registered");
    Ok(registered)
}

fn device_config(answer: &Provisioned) -> Result<DeviceConfig, ConfigError> {
    DeviceConfig::from_pem_parts(PemParts {
        iot_thing_name: &answer.iot.thing_name,
        iot_endpoint: &answer.iot.endpoint,
        remote_endpoint: &answer.remote.endpoint,
        access_point: &answer.remote.access_point,
        iot_ca: &answer.iot.root_ca,
        iot_cert: &answer.iot.device_certificate,
        iot_key: answer.iot.private_key.expose_secret(),
        remote_cert: &answer.remote.certificate_chain,
        remote_key: answer.remote.private_key.expose_secret(),
    })
}
