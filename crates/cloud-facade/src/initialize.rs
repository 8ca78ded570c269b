//! Why the connection to the cloud could not be started.

use cloud_config::{LoadError, LockError, OtherDevice};

/// Why [`ClesydeCloud::initialize`](crate::ClesydeCloud::initialize) failed. Nothing is left running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitializeError {
    /// It runs already, or is being started.
    #[error("it is running already; stop it first")]
    Running,
    /// It was stopped while it was being started.
    #[error("it was stopped while it was being started")]
    Stopped,
    /// The directory is in use by another process, or cannot be locked.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is no configuration, or it is damaged.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The configuration is that of another device than the one whose serial number the host gave.
    #[error(transparent)]
    OtherDevice(#[from] OtherDevice),
    /// The device's certificate, key or roots cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] cloud_iot::tls::TlsConfigError),
    /// The session cannot be made as configured.
    #[error(transparent)]
    Session(#[from] cloud_iot::ConfigError),
    /// The serial number does not make a valid topic.
    #[error(transparent)]
    Topic(#[from] cloud_iot::TopicError),
    /// The thing name does not make a valid shadow topic.
    #[error(transparent)]
    ShadowName(#[from] cloud_shadow::InvalidName),
    /// The shadow could not be started.
    #[error(transparent)]
    Shadow(#[from] cloud_shadow::StartError),
    /// Remote access could not be started.
    #[error(transparent)]
    Remote(#[from] cloud_remote::StartError),
}

impl InitializeError {
    /// Whether there is no configuration at all, so that the device has to be provisioned first.
    pub fn is_not_provisioned(&self) -> bool {
        matches!(self, Self::Load(LoadError::NotProvisioned { .. }))
    }

    /// Whether the same call may work later without anything being changed.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Lock(error) => error.is_retryable(),
            Self::Load(error) => error.is_retryable(),
            Self::Stopped => true,
            _ => false,
        }
    }
}
