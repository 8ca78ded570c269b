//! The errors of [`ClesydeCloud`](crate::ClesydeCloud).

use cloud_config::{LoadError, LockError, OtherDevice};
use cloud_iot::{PublishError, RequestError};

/// An error of [`ClesydeCloud::initialize`](crate::ClesydeCloud::initialize). Nothing is left
/// running.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InitializeError {
    /// It is running or starting.
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
    /// The configuration belongs to another device than the host's serial number.
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
    /// Whether there is no configuration, so that the device must be provisioned first.
    pub fn is_not_provisioned(&self) -> bool {
        matches!(self, Self::Load(LoadError::NotProvisioned { .. }))
    }

    /// Whether the same call may succeed later without other changes.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Lock(error) => error.is_retryable(),
            Self::Load(error) => error.is_retryable(),
            Self::Stopped => true,
            _ => false,
        }
    }
}

/// It is not running: not initialized, or stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the connection to the cloud is not running; initialize it first")]
pub struct NotRunning;

/// An error of sending a message or request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// It is not running.
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
    /// The session rejected the message.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The request failed or timed out.
    #[error(transparent)]
    Request(#[from] RequestError),
}

/// An error of setting another application.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplicationError {
    /// It is not running.
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
    /// It was started without an application, so there is no tunnel. Stop it and start it again.
    #[error("it was started without an application, so there is no remote access")]
    NoRemoteAccess,
    /// The application cannot be served.
    #[error(transparent)]
    Application(#[from] cloud_remote::StartError),
}

/// An error of reporting state.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// It is not running.
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
    /// Too many reports wait for a connection.
    #[error("{0} reports are queued already; wait for one of them")]
    QueueFull(usize),
    /// The shadow service refused or did not respond.
    #[error(transparent)]
    Shadow(#[from] cloud_shadow::RequestError),
}
