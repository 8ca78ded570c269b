//! Configuration and credentials of a Clesyde device, validated and stored crash-safely.
//!
//! A provisioned device keeps six files in `<base path>/.clesydecloud`: four names in
//! `cloud_config.json`, the trusted roots for its broker, and two certificates with their private
//! keys: a client certificate for the broker and a server certificate for remote access. Only this
//! crate accesses them. It uses no network and no async runtime.
//!
//! Guarantees:
//!
//! - **Atomic.** After a power cut, a full disk, or `kill -9` at any moment, [`Store::load`] finds
//!   the old configuration or the new one, and never a certificate with another certificate's key.
//!   Files that another program stores between the crash and the next start are newer and stay.
//! - **Validated.** A [`DeviceConfig`] exists only if its names are valid, its certificates parse,
//!   and its keys match. A [`LoadError`] names the damaged file and the reason. A device can still
//!   connect without its credentials for remote access: [`Store::load_partial`].
//! - **Private.** Files are created with mode 0600 and the directory with 0700. Weaker permissions
//!   are corrected and reported. Symbolic links are never followed. Keys are zeroized, and no
//!   `Debug`, `Display`, error, or log line contains one.
//! - **One process.** The operating system releases [`Store::lock`] when its holder ends, and a
//!   second process receives the holder's process ID. Reading needs no lock, and without the lock
//!   changes only file modes. The lock also works on a file system that has become read-only, as a
//!   worn flash card does, so that the device stays connected.
//! - **Compatible with the Python library.** Each reads the other's files, byte for byte.
//!   Additional files have names that the library ignores: `.lock`, `serial_number.json` if the
//!   thing name is not the serial number, and `.staging`, `.committed`, or `.removed` during a
//!   change. Because the library ignores the journal, it can find a certificate with another
//!   certificate's key between the two renames of a pair, and after a kill at that point until this
//!   crate starts again; `docs/protocol.md` states how long that takes.
//!
//! Atomicity is tested by failing or cutting off each change of the disk (a kill, a power cut that
//! loses unsynced data, a full disk, a read-only one), and by killing a process at each of its
//! system calls and at random. The first provisioning syncs 11 times, a rotation six times; the
//! `cost` example measures the time.
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
//! # Features
//!
//! | to do this | use |
//! |---|---|
//! | find out whether the device is provisioned | [`Store::is_provisioned`], [`Store::serial_number`] |
//! | load everything, or what is left of a damaged configuration | [`Store::load`], [`Store::load_partial`] |
//! | store a new configuration, or one pair of it | [`Store::save`], [`Store::replace_remote`], [`Store::replace_iot`] |
//! | check before a registration that the result can be stored | [`Store::preflight_save`] |
//! | keep other processes out | [`Store::lock`], [`Store::ensure_unlocked`] |
//! | see what is in the directory | [`Store::inspect`], [`Credentials::info`], [`Repair`] |
//! | remove the identity | [`Store::remove`] |
//!
//! The crate has no Cargo features. Dates are [`SystemTime`](std::time::SystemTime).
//!
//! # Errors
//!
//! | error | of | again later? |
//! |---|---|---|
//! | [`LoadError`] | loading and reading | [`is_retryable`](LoadError::is_retryable); it names the damaged file and the [`Damage`] |
//! | [`StoreError`] | storing and removing | [`is_retryable`](StoreError::is_retryable); the previous configuration stays |
//! | [`LockError`] | [`Store::lock`] | [`is_retryable`](LockError::is_retryable): when the holder ends |
//! | [`AccessError`] | the directory and its files | [`is_retryable`](AccessError::is_retryable): when there is space |
//! | [`ConfigError`] | [`DeviceConfig::from_pem_parts`] | no |
//! | [`CredentialsError`], [`PemError`], [`KeyError`] | certificates and keys | no |
//! | [`DocumentError`] | `cloud_config.json` | no |
//! | [`NameError`] | names and endpoints | no |
//! | [`OtherDevice`] | [`Store::ensure_serial_number`] | no: another device's directory |
//!
//! Protocol: `docs/protocol.md`, "Provisioning" and "On disk". Unix only: the crate relies on
//! modes, owners, and `flock`.

mod certificate;
mod credentials;
mod device;
mod dir;
mod document;
mod error;
#[cfg(test)]
mod fault_injection;
mod file_names;
mod journal;
mod load;
mod lock;
mod manifest;
mod names;
mod pending;
mod repair;
mod serial_record;
mod store;

pub use certificate::CertificateInfo;
pub use cloud_pki::key::{KeyError, KeyType};
pub use cloud_pki::pem::PemError;
pub use credentials::{Credentials, CredentialsError, MAX_PEM, PairReport, RootCertificates};
pub use device::{DeviceConfig, PartialDeviceConfig, PemParts};
pub use document::DocumentError;
pub use error::{AccessError, ConfigError, Damage, LoadError, LockError, OtherDevice, StoreError};
pub use lock::DirectoryLock;
pub use names::{Endpoint, HostName, NameError, SerialNumber, ThingName};
pub use repair::Repair;
pub use store::{CredentialSlot, DIRECTORY, Loaded, Store};
