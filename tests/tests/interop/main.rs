//! Ours against peers that we did not write.
//!
//! `cargo xtask interop` sets the peers up, names them in variables and switches the feature on. Without the feature there is
//! nothing here; with it, a variable that is missing fails the test.
#![cfg(feature = "interop")]

mod directory;
mod matrix;
mod mosquitto;
mod mosquitto_session;
mod peers;
mod python_device;
mod snitun_server;
mod traffic;
