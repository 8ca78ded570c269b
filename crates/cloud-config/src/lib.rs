//! A Clesyde device's directory: what a device knows about itself, read, checked and stored so that nothing can tear it.
//!
//! A provisioned device keeps six files in `<base path>/.clesydecloud`: four names in `cloud_config.json`, the roots that
//! it trusts for its broker, and two certificates with their private keys, one to show to the broker, the other to show to
//! its visitors. This crate is the only one that touches them. It knows no network and no async runtime.
//!
//! What it guarantees:
//!
//! - **Whole or not at all.** After a power cut, a full disk or `kill -9` at any moment, [`Store::load`] finds the
//!   configuration as it was before or as it should be after, and never a certificate with another one's key. What another
//!   program has stored between the crash and the next start is newer, and stays.
//! - **Checked.** A [`DeviceConfig`] exists only if its names are names, its certificates certificates, and its keys
//!   theirs. What is wrong with a directory is told by file and reason, as a [`LoadError`]. A device that could get its
//!   pair for remote access anew need not stay away for the want of it: [`Store::load_partly`].
//! - **Private.** Files are 0600 and the directory 0700 from the moment that they exist. What others could read is put
//!   right and reported. Nothing follows a symbolic link. Keys are wiped from memory, and no `Debug`, `Display`, error or
//!   log line shows one.
//! - **One process.** [`Store::lock`] is released by the operating system however its holder ends, and names the holder to
//!   whoever comes second. Reading needs no lock, and without it changes nothing but modes. On a file system that has become read-only, as a worn card does, the
//!   directory can be taken all the same: its device is to stay with its cloud.
//! - **Shared with the Python library.** Both read what the other wrote, byte for byte; what this crate needs besides has
//!   names that the other does not look at: `.lock`, `serial_number.json` where the thing name is not the serial number,
//!   and `.staging`, `.committed` or `.removed` during a change.
//!   Since it does not look there, it can find a certificate with another one's key between the two moves of a pair, and
//!   after a kill just there until the next start of ours; `docs/protocol.md` says how long that is.
//!
//! The first of these is shown by tests that fail or cut off each single change of the disk (a kill, a power cut that takes
//! what was not synced, a full disk, a read-only one), and by a process that is killed at each of its system calls and
//! at random. A first provisioning waits for the medium 11 times, a rotation six times; the `cost` example measures it.
//!
//! # Example
//!
//! ```
//! # fn pair(name: &str) -> (String, String) {
//! #     let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
//! #     (made.cert.pem(), made.signing_key.serialize_pem())
//! # }
//! # let ((iot_cert, iot_key), (remote_cert, remote_key)) = (pair("SN0001"), pair("sn0001.example.com"));
//! # let iot_ca = iot_cert.clone();
//! # let base = tempfile::tempdir()?;
//! use cloud_config::{DeviceConfig, LoadError, PemParts, Store};
//!
//! let store = Store::new(base.path());
//! assert!(matches!(store.load(), Err(LoadError::NotProvisioned(_))));
//!
//! let device = DeviceConfig::from_pem_parts(PemParts {
//!     iot_thing_name: "SN0001",
//!     iot_endpoint: "broker.example.com",
//!     remote_endpoint: "relay.example.com:8443",
//!     access_point: "sn0001.example.com",
//!     iot_ca: &iot_ca,
//!     iot_cert: &iot_cert,
//!     iot_key: &iot_key,
//!     remote_cert: &remote_cert,
//!     remote_key: &remote_key,
//! })?;
//! store.save(&device)?;
//!
//! let loaded = store.load()?;
//! assert_eq!(loaded.device.remote_endpoint.port_or(443), 8443);
//! assert_eq!(loaded.device.page_url(), "https://sn0001.example.com:8443/");
//! assert_eq!(loaded.device.remote.info().names, ["sn0001.example.com"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The format is described in `docs/protocol.md`, "On disk". Unix only: modes, owners and `flock` are its means.

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
mod manifest;
mod names;
mod pem;
mod pending;
mod reading;
mod repair;
mod serial_record;
mod store;

pub use certificate::CertificateInfo;
pub use credentials::{Credentials, CredentialsError, MAX_PEM, PairReport, RootCertificates};
pub use device::{ConfigError, DeviceConfig, PartialDeviceConfig, PemParts};
pub use document::DocumentError;
pub use error::{AccessError, Damage, LoadError, LockError, OtherDevice, StoreError};
pub use lock::DirectoryLock;
pub use names::{Endpoint, HostName, NameError, SerialNumber, ThingName};
pub use pem::PemError;
pub use repair::Repair;
pub use store::{DIRECTORY, Loaded, Pair, Store};
