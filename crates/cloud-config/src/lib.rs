//! A Clesyde device's directory: configuration and credentials, validated and stored crash-safely

mod certificate;
mod credentials;
mod device;
mod dir;
mod document;
mod error;
#[cfg(test)]
mod faults;
mod journal;
mod lock;
mod names;
mod pem;
mod store;

pub use certificate::CertificateInfo;
pub use credentials::{Credentials, CredentialsError, MAX_PEM, PairReport, RootCertificates};
pub use device::{ConfigError, DeviceConfig, PemParts};
pub use document::DocumentError;
pub use error::{AccessError, Damage, LoadError, LockError, StoreError};
pub use lock::DirectoryLock;
pub use names::{Endpoint, HostName, NameError, SerialNumber, ThingName};
pub use pem::PemError;
pub use store::{DIRECTORY, Loaded, Pair, Repair, Store};
