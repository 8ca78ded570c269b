//! A device's complete connection to the Clesyde cloud.
//!
//! [`ClesydeCloud`] registers a device once, keeps its MQTT session connected, opens the tunnel,
//! serves the host's application under the device's own certificate and replaces that certificate
//! when the platform desires another one.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//! use cloud_facade::ClesydeCloud;
//! use cloud_facade::provision::ProvisioningKey;
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let page = Router::new().route("/", get(|| async { "Hello from the device" }));
//! let cloud = ClesydeCloud::builder("SN0001".parse()?, "/var/lib/device", "https://api.example.com")
//!     .application(page)
//!     .build();
//!
//! cloud.provision(&ProvisioningKey::new("the provisioning key")?).await?; // does nothing if it is provisioned
//! cloud.initialize().await?;
//! // … the device runs …
//! cloud.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Examples
//!
//! Each is a complete program, and starts a simulated platform when it is run without arguments.
//!
//! | example | shows |
//! |---|---|
//! | `host` | a device with a public page, its hooks and events |
//! | `thermostat` | a shadow in both directions, an action with an answer, telemetry that waits offline, a page, SIGTERM |
//! | `production_line` | registration of many devices, each into the directory of its image |
//! | `gateway` | many devices in one process |
//! | `host_unit_test` | a host whose code is tested without a platform |
//!
//! # Features
//!
//! | to do this | use |
//! |---|---|
//! | serve a router, a service or a local web server | [`CloudBuilder::application`], [`CloudBuilder::application_with`] |
//! | restrict callers | [`CloudBuilder::access`], [`CloudBuilder::http_options`] |
//! | ask callers for a password or a client certificate | [`CloudBuilder::auth`], [`ClesydeCloud::set_auth`] |
//! | learn the state | [`ClesydeCloud::watch_status`] for the latest, [`ClesydeCloud::events`] for each change |
//! | act at a point of the life cycle | [`Hooks`] |
//! | send messages and requests | [`ClesydeCloud::publish`], [`ClesydeCloud::request`] |
//! | handle messages of the platform, and answer | [`CloudBuilder::on_action`] |
//! | receive messages of own topics | [`ClesydeCloud::subscribe`]; from the start [`CloudBuilder::subscription`] |
//! | report state, follow desired state | [`ClesydeCloud::report`], [`ClesydeCloud::shadow`], [`ClesydeCloud::named_shadow`] |
//! | change keep-alive, limits, overflow, session expiry, delay of the will | [`CloudBuilder::session`] |
//! | use a private key that is not a file | [`CloudBuilder::iot_identity`] |
//! | report a change of the network | [`ClesydeCloud::network_changed`] |
//! | change settings between two starts | [`Host`] |
//! | test the host without a platform | [`CloudApi`] |
//!
//! | Cargo feature | adds |
//! |---|---|
//! | `durable` | an outbox on disk: `CloudBuilder::outbox_directory` |
//! | `metrics` | the metrics of `iot`, through the `metrics` facade |
//! | `csr` | private keys that are made on the device: `provision::GeneratedKeys` |
//! | `test-util` | `MockCloudApi` |
//!
//! # Life cycle
//!
//! [`ClesydeCloud::initialize`] loads the configuration, locks the directory, starts everything and
//! returns; connections are made and restored in the background from then on. A slow reader of
//! events delays nothing; hooks are isolated from the connection. [`ClesydeCloud::stop`] publishes
//! OFFLINE and leaves nothing running, within [`STOP_DEADLINE`].
//!
//! Both may be called at any time, concurrently and repeatedly, and their futures may be dropped:
//! they take effect in the order of the calls, an abandoned start is undone, and a stop continues.
//! A process may have one [`ClesydeCloud`] per device; they share nothing.
//!
//! # Errors
//!
//! | error | of | again later? |
//! |---|---|---|
//! | [`RegistrationError`] | [`provision`](ClesydeCloud::provision) | [`is_retryable`](RegistrationError::is_retryable); its text says whether the key is used up |
//! | [`InitializeError`] | [`initialize`](ClesydeCloud::initialize) | [`is_retryable`](InitializeError::is_retryable); [`is_not_provisioned`](InitializeError::is_not_provisioned): provision first |
//! | [`SendError`] | [`publish`](ClesydeCloud::publish), [`request`](ClesydeCloud::request) | as the source says |
//! | [`ReportError`] | [`report`](ClesydeCloud::report) | when the device runs, or another report is done |
//! | [`ApplicationError`] | [`set_application`](ClesydeCloud::set_application) | after a new start with an application |
//! | [`ReceiveError`], [`OpenShadowError`] | [`subscribe`](ClesydeCloud::subscribe), [`open_shadow`](ClesydeCloud::open_shadow) | when the device runs, or another one is dropped |
//! | [`NotRunning`] | what needs a running device | after [`initialize`](ClesydeCloud::initialize) |
//! | [`InvalidAction`] | the name of an [`Action`] | no |
//!
//! Failures of connections are no errors of a call: they are retried, and status and events have
//! the reason.
//!
//! # Testing a host
//!
//! Code that takes `&impl CloudApi` instead of a [`ClesydeCloud`] runs in a unit test without a
//! platform: with the feature `test-util`, `MockCloudApi` expects calls and returns results, and
//! `iot::Receipt::resolved` and [`ReportReceipt::resolved`] make their receipts. An [`Event`] or a
//! [`Status`] is made as any value. `examples/host_unit_test.rs` is a program with its tests. A
//! test of the whole host runs against the simulator, the crate `cloud-sim`, in the same process.
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
//! re-exported under its short name: [`config`], [`provision`], [`iot`], [`shadow`], [`remote`].
//! Their types appear in this API, and so do those of [`bytes`] and [`serde_json`]. The
//! `supervisor` starts and stops the device; the `adapters` implement the traits of each part with
//! another one; the `coordinator` forwards events between them. A program that needs only one part
//! uses that crate. `docs/protocol.md` specifies the protocol.

mod access_observer;
mod action_handlers;
mod adapters;
mod application;
mod builder;
mod certificate_recovery;
mod client_certificate;
mod cloud;
mod cloud_api;
mod coordinator;
mod error;
mod event;
mod hook_runner;
mod hooks;
mod opened_shadow;
mod registration;
mod remote_access;
mod report_queue;
mod runtime;
mod session_setup;
mod shadows;
mod shutdown_budget;
mod status;
mod supervisor;
mod tasks;
mod topic_messages;
mod topics;

pub use application::{Address, IntoApplication, Ready};
pub use builder::{CloudBuilder, Host};
pub use cloud::{ClesydeCloud, WeakClesydeCloud};
pub use cloud_api::CloudApi;
#[cfg(feature = "test-util")]
pub use cloud_api::MockCloudApi;
pub use error::{ApplicationError, InitializeError, NotRunning, ReportError, SendError};
pub use event::Event;
pub use hook_runner::{HOOK_TIME_LIMIT, HookPoint};
pub use hooks::Hooks;
pub use opened_shadow::{OpenShadowError, OpenedShadow};
pub use registration::{OnExisting, Registered, RegistrationError, register, register_with_keys};
pub use report_queue::ReportReceipt;
pub use shutdown_budget::STOP_DEADLINE;
pub use status::{ConnectionStatus, Status};
pub use topic_messages::{
    HeldSubscription, HeldTopicMessages, ReceiveError, TopicMessages, TopicSubscription,
};
pub use topics::{Action, InvalidAction};

pub use cloud_config as config;
pub use cloud_iot as iot;
pub use cloud_provision as provision;
pub use cloud_remote as remote;
pub use cloud_shadow as shadow;
pub use {bytes, serde_json};
