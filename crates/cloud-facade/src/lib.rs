//! A device's complete connection to the Clesyde cloud.
//!
//! A host application describes itself with a [`CloudClient`] (usually a [`DeviceSettings`]): its
//! serial number, its directory, the platform's address, the application that the tunnel serves,
//! and its hooks. [`ClesydeCloud`] does the rest: it registers the device once, keeps the MQTT
//! session connected, opens the tunnel, serves the application under the device's own certificate
//! and replaces that certificate when the platform desires another one.
//!
//! ```no_run
//! use cloud_facade::provision::ProvisioningKey;
//! use cloud_facade::remote::Application;
//! use cloud_facade::{ClesydeCloud, DeviceSettings};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let page = axum::Router::new().route("/", axum::routing::get(|| async { "Hello from the device" }));
//! let settings = DeviceSettings::new("SN0001".parse()?, "/var/lib/device", "https://api.example.com")
//!     .with_application(Application::service(page));
//!
//! let cloud = ClesydeCloud::new(settings);
//! cloud.provision(&ProvisioningKey::new("the provisioning key")?).await?; // does nothing if it is provisioned
//! cloud.initialize().await?;
//! // … the device runs …
//! cloud.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/host.rs` is a complete program.
//!
//! # Life cycle
//!
//! [`ClesydeCloud::initialize`] loads the configuration, locks the directory, starts everything and
//! returns; connections are made and restored in the background from then on.
//! [`ClesydeCloud::watch_status`] returns the status; [`ClesydeCloud::events`] returns the events,
//! which a slow reader cannot delay; [`Hooks`] run at their [`HookPoint`], isolated from the
//! connection. [`ClesydeCloud::stop`] publishes OFFLINE and leaves nothing running, within
//! [`STOP_DEADLINE`].
//!
//! Both may be called at any time, concurrently and repeatedly, and their futures may be dropped:
//! they take effect in the order of the calls, an abandoned start is undone, and a stop continues.
//! A process may have one [`ClesydeCloud`] per device; they share nothing.
//!
//! # Private keys in memory
//!
//! The types of these crates wipe a replaced key. They cannot wipe allocations inside rustls, ring
//! and serde_json: a program that needs this uses an allocator that clears freed memory, as
//! `clesyde-cloud` does (`docs/architecture.md`, "Dependencies").
//!
//! # Structure
//!
//! The facade is thin. Each part is a crate of its own that depends on none of the others,
//! re-exported under its short name: [`config`], [`provision`], [`iot`], [`shadow`], [`remote`]. The
//! `adapters` implement the traits of each part with another one; the `coordinator` forwards events
//! between them. A program that needs only one part uses that crate. `docs/protocol.md` specifies
//! the protocol.

mod adapters;
mod client;
mod client_certificate;
mod cloud;
mod coordinator;
mod error;
mod event;
mod hooks;
mod recovery;
mod registration;
mod remote_access;
mod runtime;
mod session_setup;
mod shadows;
mod status;
mod supervisor;
mod topics;

pub use client::{CloudClient, DeviceSettings};
pub use cloud::{ClesydeCloud, WeakClesydeCloud};
pub use error::{ApplicationError, InitializeError, NotRunning, ReportError, SendError};
pub use event::Event;
pub use hooks::{HOOK_TIME_LIMIT, HookPoint, Hooks};
pub use registration::{OnExisting, Registered, RegistrationError, register, register_with_keys};
pub use status::{ConnectionStatus, Status};
pub use supervisor::STOP_DEADLINE;
pub use topics::{Action, InvalidAction};

pub use cloud_config as config;
pub use cloud_iot as iot;
pub use cloud_provision as provision;
pub use cloud_remote as remote;
pub use cloud_shadow as shadow;
