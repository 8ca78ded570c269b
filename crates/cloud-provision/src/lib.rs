//! Registers a device with the Clesyde platform over HTTPS

mod answer;
mod client;
mod error;
mod exchange;
mod provisioned;
mod retry;
mod secret;
mod serial;
mod tls;
mod url;

pub use client::{Client, ClientBuilder};
pub use error::{BuildError, Malformed, ProvisionError, SerialProblem};
pub use exchange::MAX_BODY;
pub use provisioned::{IotIdentity, Provisioned, RemoteIdentity};
pub use retry::Retry;
pub use secret::{InvalidKey, PrivateKeyPem, ProvisioningKey};
