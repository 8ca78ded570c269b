//! A device's connection to the Clesyde cloud, whole.
//!
//! A host application describes itself by a [`CloudClient`] (usually a [`DeviceSettings`]): its serial number, where its
//! files are, the platform's address, the web application that the public shall reach, and what it wants to be told.
//! [`ClesydeCloud`] does the rest: it registers the device once, keeps the MQTT session up, opens the tunnel, serves the
//! application under a certificate of the device's own and replaces that certificate when the platform asks for it.
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
//! cloud.provision(&ProvisioningKey::new("the provisioning key")?).await?; // does nothing if that was done before
//! cloud.initialize().await?;
//! // … the device lives …
//! cloud.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! `examples/host.rs` is a whole program of this kind.
//!
//! # What happens when
//!
//! [`ClesydeCloud::initialize`] loads the configuration, takes the directory for this process, starts everything and
//! returns; connections come up, go down and come back by themselves from then on. How things stand is in
//! [`ClesydeCloud::watch_status`]; what happens is told by [`ClesydeCloud::events`], which a slow reader cannot hold up, and
//! by [`Hooks`], which run at their [`Moment`] and cannot do harm. [`ClesydeCloud::stop`] says OFFLINE and leaves nothing
//! running, within [`STOP_DEADLINE`].
//!
//! Both may be called at any time, by anybody, twice, and be given up half-way: they take effect in the order of the calls, a
//! start that nobody waits for any more is undone, and a stop goes on. A process may have as many [`ClesydeCloud`]s as it has
//! devices; they share nothing.
//!
//! # Private keys in memory
//!
//! A key that was replaced is wiped wherever a type of these crates held it. Allocations inside rustls, ring and serde_json are
//! out of their reach: a program that wants these wiped as well takes an allocator that clears memory when it is freed, as
//! `clesyde-cloud` does (`docs/architecture.md`, "Dependencies").
//!
//! # What it is not
//!
//! It is thin. Each part is a crate of its own that knows none of the others, and is there under its short name: [`config`],
//! [`provision`], [`iot`], [`shadow`], [`remote`]. The facade's `adapters` join them by the traits that each of them asks
//! for; its `conductor` passes news between them. Who needs only one part takes that one.

mod adapters;
mod broker_certificate;
mod client;
mod cloud;
mod conductor;
mod connection;
mod event;
mod hooks;
mod initialize;
mod lifecycle;
mod recovery;
mod registration;
mod remote_access;
mod running;
mod shadows;
mod status;
mod topics;

pub use client::{CloudClient, DeviceSettings};
pub use cloud::{
    ApplicationError, ClesydeCloud, NotRunning, ReportError, STOP_DEADLINE, SendError,
    WeakClesydeCloud,
};
pub use event::Event;
pub use hooks::{HOOK_TIME_LIMIT, Hooks, Moment};
pub use initialize::InitializeError;
pub use registration::{Existing, Registered, RegistrationError, register, register_with_keys};
pub use status::{Link, Status};
pub use topics::{Action, InvalidAction};

pub use cloud_config as config;
pub use cloud_iot as iot;
pub use cloud_provision as provision;
pub use cloud_remote as remote;
pub use cloud_shadow as shadow;
