//! A whole Clesyde cloud in one process, for tests and demonstrations.
//!
//! A [`Simulator`] is everything that a device talks to, on 127.0.0.1 and with the real protocols:
//!
//! | part | what it is |
//! |---|---|
//! | provisioning API | `POST /device/register` over plain HTTP; one key, good for any serial number, once for each |
//! | MQTT broker | MQTT 5 and 3.1.1 over TLS with client certificates, rights per device, and the limits of AWS IoT Core |
//! | shadows | the AWS device shadow service, with deltas in either [`DeltaForm`] |
//! | tokens | answers `c/d/<sn>/remotetoken/req` with a token for the relay |
//! | relay | a SniTun server on one port, for tunnels and for the public |
//! | authorities | one for servers, one for devices, one for the public names of devices, and rotation |
//! | control API | see what devices did, rotate certificates, speak as the platform, make [`Fault`]s |
//!
//! It is for tests, demonstrations and trying a device without the real platform. It is not a
//! platform to run a fleet on: it listens on loopback alone, it keeps shadows and messages in
//! memory, and its secrets protect nothing.
//!
//! ```
//! use cloud_sim::{SimConfig, Simulator};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sim = Simulator::start(SimConfig::default()).await?;
//! println!("register devices at {} with {}", sim.api_url(), sim.provisioning_key());
//! assert!(sim.control().devices().await.is_empty());
//! sim.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! | error | of | again later? |
//! |---|---|---|
//! | [`SimError`] | [`Simulator::start`] | no: choose another port or directory, or change the setting |
//! | [`ControlError`] | [`Simulator::control`] | no: change the command; `Internal` is a fault of the simulator |
//!
//! The crate has no Cargo features.
//!
//! # Names
//!
//! Devices get `localhost:PORT` for the broker and the relay; with [`SimConfig::bare_endpoints`],
//! `localhost`, as the real platform sends names without ports. A device's page is at
//! `https://<access point>:PORT/` on the relay's port. The access point of `SN0001` is
//! `sn0001.ui.localhost`; a serial number that is no DNS label, or that another device resembles,
//! gets `d-<what is left of it>-<hash>.ui.localhost`. Browsers and curl know by themselves that
//! names below `localhost` are this machine; elsewhere use `--resolve` or connect to
//! [`Simulator::relay_addr`].
//!
//! The certificate of the broker names `localhost`, `127.0.0.1` and `::1`. [`Simulator::ca_file`]
//! has the roots for the broker and for the pages, [`Simulator::public_root_file`] that of the
//! pages alone, for a browser. A device's own certificate comes from an authority that is not among
//! them, as on AWS.
//!
//! # The original device library
//!
//! The Python package `clesyde_cloud_lib` can be the device. It takes no ports from the platform,
//! so the simulator has to be started with [`mqtt_port`](SimConfig::mqtt_port) 8883 and
//! [`bare_endpoints`](SimConfig::bare_endpoints). The rest depends on the version:
//!
//! | version | [`relay_port`](SimConfig::relay_port) | [`delta_form`](SimConfig::delta_form) |
//! |---|---|---|
//! | 0.1.2 | 8443 | [`DeltaForm::Seed`], a form of its own |
//! | 0.1.20 | 443 | [`DeltaForm::Aws`], the default |
//!
//! # Control
//!
//! [`Simulator::control`] and, with the same functions over HTTP and in JSON,
//! [`Simulator::control_url`]: `GET /devices`, `GET` and `DELETE /devices/<sn>`,
//! `POST /devices/<sn>/rotate` and `rotate-iot`, `PUT /devices/<sn>/shadow/desired` and
//! `/devices/<sn>/shadow/name/<name>/desired`, `POST /devices/<sn>/actions/<action>`,
//! `POST /broadcast`, `POST /faults`. What can go wrong on purpose, and how it is written in JSON,
//! stands at [`Fault`].
//!
//! Over HTTP the user that the simulator runs as is served as it is; another user of the machine
//! needs `Authorization: Bearer <token>`, with the [token](Simulator::control_token) that is in
//! [`Simulator::control_token_file`], which only that user can read. (Where the system does not say
//! whose a connection is, which Linux does, everybody needs the token.) A body has the content type
//! `application/json`. A `Host` that is not a loopback name or address with the API's port, and an
//! `Origin` other than the API's own, are refused: a page in a browser controls no simulator.
//!
//! Protocols: `docs/protocol.md`.

mod api;
mod authority;
mod broker;
mod certificates;
mod config;
mod control;
mod control_api;
mod device;
mod faults;
mod http;
mod local_peer;
mod names;
mod platform;
mod relay;
mod request_guard;
mod responses;
pub mod shadow;
mod simulator;
mod store;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::config::{BrokerCertificate, Listener, Ready, SimConfig, SimError};
pub use self::control::{Control, ControlError};
pub use self::device::DeviceStatus;
pub use self::faults::{AckPacket, ApiAnswer, CertificateAnswer, Fault, Service, TokenAnswer};
pub use self::shadow::DeltaForm;
pub use self::simulator::Simulator;

/// Locks a mutex whose content is whole between any two statements, so that a panic elsewhere harms
/// nothing.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
