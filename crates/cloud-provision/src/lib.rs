//! Registers a device with the Clesyde platform over HTTPS.
//!
//! Once in its life a device asks the platform for its identity: it sends its serial number and a provisioning key, and
//! gets names, endpoints, two certificates and their private keys. This crate does that one exchange and returns what came
//! as a checked [`Provisioned`] value. It stores nothing and knows nothing of what the identity is for.
//!
//! What it guarantees:
//!
//! - **The key goes to the platform and to nobody else.** `https` with verification against the system's roots and those
//!   that it is given, always; `http` for loopback alone; redirects are errors.
//! - **It asks again where that helps, and only where it cannot hurt.** A platform that is down, busy (429, with its
//!   `Retry-After`) or in trouble (5xx) is asked again after a growing, partly random wait. An exchange that broke off
//!   half-way is not: the key may be used up. [`ProvisionError::may_have_registered`] tells, and [`Client::stage`] whoever has
//!   given a registration up. No retry makes a second device.
//! - **What it returns can be used.** Certificates parse, each key belongs to its certificate, endpoints are host names.
//! - **It finds its way and says where it got lost.** HTTP proxies, set or from the environment; captive portals, proxies
//!   that do not let it through, and a wrong clock have errors of their own. [`Provisioned::clock_skew`] is by how much
//!   the clock is wrong.
//! - **It can look before it leaps.** [`Client::reach`] tells whether the API can be reached, and sends no key.
//! - **Keys can stay at home.** [`Client::register_with_keys`] sends signing requests for keys that a [`KeySource`] made on
//!   the device, for platforms that take them. Feature `csr`: `GeneratedKeys`, a source that is ready to use.
//! - **Nothing can swamp or stall it.** The body is bounded by [`MAX_BODY`] while it arrives; connecting, each request and
//!   the whole have time limits.
//! - **Errors say whose turn it is**, in one or two lines with the platform's own words where there are some, and with no
//!   secret: not in errors, not in `Debug`, not in logs. Keys are wiped from memory on drop.
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
//!     Err(ProvisionError::Refused { message, .. }) => println!("the platform says: {message}"),
//!     Err(error) if error.is_retryable() => println!("later, perhaps: {error}"),
//!     Err(error) => return Err(error.into()),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! What can be checked without a network is checked at once:
//!
//! ```
//! use cloud_provision::{BuildError, Client};
//!
//! let error = Client::builder("http://api.example.com").build().unwrap_err();
//! assert!(matches!(error, BuildError::NotEncrypted { .. }));
//! ```
//!
//! The exchange is described in `docs/protocol.md`, "Provisioning".

mod answer;
mod client;
mod clock;
mod error;
mod exchange;
mod json_type;
mod keys;
mod provisioned;
mod proxy;
mod request;
mod retry;
mod secret;
mod serial;
mod stage;
mod tls;
mod url;

pub use client::{Client, ClientBuilder};
pub use clock::ClockSkew;
pub use error::{BuildError, Malformed, ProvisionError, SerialProblem};
pub use exchange::{MAX_BODY, Reached};
#[cfg(feature = "csr")]
pub use keys::GeneratedKeys;
pub use keys::{KeyOrigin, KeyPurpose, KeySource, KeySourceError, OwnKey};
pub use provisioned::{IotIdentity, Provisioned, RemoteIdentity};
pub use retry::Retry;
pub use secret::{InvalidKey, PrivateKeyPem, ProvisioningKey};
pub use stage::Stage;
