//! Registers a device with the Clesyde platform over HTTPS.
//!
//! A device requests its identity from the platform once: it sends its serial number and a
//! provisioning key, and receives names, endpoints, two certificates, and their private keys. This
//! crate performs that one exchange and returns a validated [`Provisioned`] value. It stores
//! nothing and does not use the identity itself.
//!
//! Guarantees:
//!
//! - **The key goes to the platform only.** The client always verifies `https` against the system's
//!   roots and any additional ones, accepts `http` for loopback only, and treats redirects as
//!   errors.
//! - **It retries only where a retry is safe.** If the platform is unreachable, rate-limits (429,
//!   with its `Retry-After`), or fails (5xx), the client retries with exponential backoff and
//!   jitter. It does not retry an exchange that breaks off after the request is sent, because the
//!   key may be used up: [`ProvisionError::may_have_registered`] reports that, as does
//!   [`Client::stage`] for a dropped future. No retry registers a second device.
//! - **The result is usable.** Certificates parse, each key belongs to its certificate, endpoints
//!   are host names.
//! - **Network problems have errors of their own.** The client supports HTTP and SOCKS 5 proxies,
//!   configured or from the environment, and distinguishes captive portals, proxies that refuse the
//!   connection, and a wrong clock. [`Provisioned::clock_skew`] is the clock's deviation.
//! - **Connectivity can be tested first.** [`Client::probe`] checks whether the API is reachable
//!   and sends no key.
//! - **Private keys can stay on the device.** [`Client::register_with_keys`] sends signing requests
//!   for keys that a [`KeySource`] generates on the device, for platforms that support this.
//!   Feature `csr`: `GeneratedKeys`, a ready-made source.
//! - **Memory and time are bounded.** The body is limited to [`MAX_BODY`] while it arrives;
//!   connecting, each request, and the whole registration have time limits.
//! - **Errors name the next step** in one or two lines, with the platform's own text if there is
//!   one. No error, `Debug` output, or log line contains a secret. Keys are zeroized on drop.
//!
//! # Example
//!
//! ```no_run
//! use cloud_provision::{Client, ProvisionError, ProvisioningKey};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("https://api.example.com/v1").build()?;
//! let key = ProvisioningKey::new(&std::fs::read_to_string("key.txt")?)?;
//! match client.register("SN0001", &key).await {
//!     Ok(provisioned) => println!("registered as {}", provisioned.iot.thing_name),
//!     Err(ProvisionError::Refused { message, .. }) => println!("the platform refused: {message}"),
//!     Err(error) if error.is_retryable() => println!("try again later: {error}"),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The builder validates its settings without a network:
//!
//! ```
//! use cloud_provision::{BuildError, Client};
//!
//! let error = Client::builder("http://api.example.com").build().unwrap_err();
//! assert!(matches!(error, BuildError::NotEncrypted { .. }));
//! ```
//!
//! # Features
//!
//! | to do this | use |
//! |---|---|
//! | register a device | [`Client::register`] |
//! | register it with private keys that stay on the device | [`Client::register_with_keys`], [`KeySource`] |
//! | check the connection without a key | [`Client::probe`] |
//! | trust another root, set time limits | [`ClientBuilder::additional_roots_pem`], [`ClientBuilder::total_timeout`] |
//! | go through a proxy | [`ClientBuilder::proxy`], [`ClientBuilder::no_proxy`]; else the environment decides |
//! | change the pauses between attempts | [`ClientBuilder::retry`] |
//! | find out how far a dropped registration was | [`Client::stage`] |
//!
//! | Cargo feature | adds |
//! |---|---|
//! | `csr` | `GeneratedKeys`: private keys and signing requests that are made on the device |
//!
//! # Errors
//!
//! | error | of | again later? |
//! |---|---|---|
//! | [`ProvisionError`] | a registration or a probe | [`is_retryable`](ProvisionError::is_retryable); [`may_have_registered`](ProvisionError::may_have_registered): the key may be used up |
//! | [`MalformedResponse`] | [`ProvisionError`], a response that is not usable | no: report it to the platform |
//! | [`BuildError`] | [`ClientBuilder::build`] | no: change the settings |
//! | [`InvalidKey`], [`SerialNumberError`] | the key and the serial number | no: nothing was sent |
//! | [`KeySourceError`] | a [`KeySource`] | as the source says |
//!
//! Protocol: `docs/protocol.md`, "Provisioning".

mod attempt_state;
mod client;
mod clock_skew;
mod error;
mod http;
mod json_type;
mod keys;
mod provisioned;
mod proxy;
mod request;
mod response;
mod retry;
mod secret;
mod serial;
mod tls;
mod url;

pub use attempt_state::RequestStage;
pub use client::{Client, ClientBuilder};
pub use clock_skew::ClockSkew;
pub use cloud_net::{InvalidProxy, ProxyError, ProxyFailure, ProxyReply};
pub use error::{BuildError, MalformedResponse, ProvisionError};
pub use http::{ApiProbe, MAX_BODY};
#[cfg(feature = "csr")]
pub use keys::GeneratedKeys;
pub use keys::{DeviceKey, KeyOrigin, KeyPurpose, KeySource, KeySourceError};
pub use provisioned::{IotIdentity, Provisioned, RemoteIdentity};
pub use retry::Retry;
pub use secret::{InvalidKey, PrivateKeyPem, ProvisioningKey};
pub use serial::SerialNumberError;
