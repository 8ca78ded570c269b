//! Registering a device: the one request, and its answer into the directory.
//!
//! The order matters: the directory is locked and looked at before anything is sent, because the platform uses the key up
//! with its first success. What is there stays there until the new configuration is whole. A configuration that is to be kept
//! needs no lock to be found, so that a device that runs is told that it is registered, and not that it is in the way.

use cloud_config::{
    AccessError, ConfigError, DeviceConfig, LockError, OtherDevice, PemParts, SerialNumber, Store,
    StoreError,
};
use cloud_provision::{
    BuildError, Client, ClockSkew, KeyOrigin, KeySource, ProvisionError, Provisioned,
    ProvisioningKey,
};
use tokio::task::{JoinError, JoinHandle};

/// What to do with a configuration that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Existing {
    /// Leave it alone and send nothing.
    #[default]
    Keep,
    /// Register again; replace it once the new one is whole.
    Replace,
}

/// How a registration ended well.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Registered {
    /// The device is registered now and its configuration is stored.
    Now {
        /// The name under which the public reaches the device.
        access_point: String,
        /// Where the device's page will be.
        url: String,
        /// Whether both private keys were made on this device, so that nobody else has them.
        own_keys: bool,
        /// How far this device's clock is from the platform's, if the platform told the time.
        clock_skew: Option<ClockSkew>,
    },
    /// The device was provisioned before; nothing was sent.
    Already,
}

/// Why a device could not be registered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistrationError {
    /// The directory is in use, or cannot be made or locked. Nothing was sent.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// A configuration is there that is to be kept, and it is that of another device. Nothing was sent.
    #[error(transparent)]
    OtherDevice(#[from] OtherDevice),
    /// A configuration could not be stored here. Nothing was sent.
    #[error("nothing was sent, as the answer could not be stored: {0}")]
    NotStorable(#[source] StoreError),
    /// The directory cannot be looked into. Nothing was sent.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The platform cannot be asked as configured. Nothing was sent.
    #[error(transparent)]
    Client(#[from] BuildError),
    /// The platform could not be reached, or refused, or its answer is not to be believed.
    #[error(transparent)]
    Provision(#[from] ProvisionError),
    /// The answer does not make a configuration.
    #[error(
        "the platform's answer cannot be used: {0}; it may have registered the device all the same, and then needs a new key"
    )]
    Answer(#[from] ConfigError),
    /// The device is registered, but its configuration could not be stored.
    #[error(
        "the platform registered the device, but its answer could not be stored, and the key is used up, so that a new one is needed: {0}"
    )]
    Store(#[from] StoreError),
}

impl RegistrationError {
    /// Whether the same call may work later.
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

/// Registers through `client` and stores the answer.
///
/// # Errors
/// [`RegistrationError`]. In every case what was stored before is still there, whole.
///
/// # Cancel safety
/// Not cancel safe once the request is out: the platform may have used the key up.
pub async fn register(
    store: &Store,
    client: &Client,
    serial_number: &SerialNumber,
    key: &ProvisioningKey,
    existing: Existing,
) -> Result<Registered, RegistrationError> {
    let answer = client.register(serial_number.as_str(), key);
    ask_and_store(store, serial_number, existing, answer).await
}

/// The same with private keys of the device's own, which `source` makes once the directory is locked: the platform gets
/// signing requests. Where it sends keys nevertheless, those are stored, and [`Registered::Now`] says so.
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
    existing: Existing,
) -> Result<Registered, RegistrationError> {
    let answer = client.register_with_keys(serial_number.as_str(), key, source);
    ask_and_store(store, serial_number, existing, answer).await
}

/// `ask` does nothing before it is polled, which is when the directory is ours.
async fn ask_and_store(
    store: &Store,
    serial_number: &SerialNumber,
    existing: Existing,
    ask: impl Future<Output = Result<Provisioned, ProvisionError>>,
) -> Result<Registered, RegistrationError> {
    let lock = {
        let (store, serial_number) = (store.clone(), serial_number.clone());
        blocking(move || {
            let keep = || match existing {
                Existing::Keep if store.is_provisioned()? => {
                    store.ensure_serial_number(&serial_number)?;
                    Ok::<_, RegistrationError>(true)
                }
                _ => Ok(false),
            };
            if keep()? {
                return Ok::<_, RegistrationError>(None);
            }
            let lock = store.lock()?;
            // Again, because somebody else may have been quicker.
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
        return Ok(Registered::Already);
    };
    let answer = ask.await?;
    let device = device_config(&answer)?.with_serial_number(serial_number.clone());
    let registered = Registered::Now {
        access_point: device.access_point.to_string(),
        url: device.page_url(),
        own_keys: [answer.iot.key_origin, answer.remote.key_origin] == [KeyOrigin::Device; 2],
        clock_skew: answer.clock_skew,
    };
    let store = store.clone();
    blocking(move || {
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

/// Runs disk work off the async threads. A panic there is passed on.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    passed_on(tokio::task::spawn_blocking(work)).await
}

/// What a task of ours comes to. A panic there is passed on.
///
/// While the runtime goes down there is no result; whoever waits for it goes down as well.
pub(crate) async fn passed_on<T>(task: JoinHandle<T>) -> T {
    match task.await.map_err(JoinError::try_into_panic) {
        Ok(value) => value,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => std::future::pending().await,
    }
}
