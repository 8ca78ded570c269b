//! Ours against peers that we did not write.
//!
//! `cargo xtask interop` sets the peers up, names them in variables and switches the feature on.
//! Without the feature this program is not built; with it, a variable that is missing fails the
//! test.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod aws_sdk;
mod directory;
mod guard;
mod matrix;
mod migrating;
mod monitoring;
mod mosquitto;
mod mosquitto_session;
mod own_network;
mod peers;
mod proxies;
mod python_device;
mod security_chip;
mod snitun_server;
mod traffic;
mod web_applications;
