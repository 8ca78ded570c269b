//! Devices against the simulator.
//!
//! These tests are separate programs: `chaos`, which `cargo xtask chaos` runs with more seeds and
//! which measures the memory of its process; `gateway`, which counts the threads and descriptors of
//! its process; `interop`, which needs other programs; and `secrets`, which installs the logger of
//! its process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod broker_certificate;
mod damaged_certificate;
mod device;
mod disconnect_log;
mod invariants;
mod lifecycle;
mod moved_device;
mod other_device;
mod outbox;
mod own_keys;
mod provisioning;
mod remote_certificate;
mod rotation_rate;
mod shadow;
mod tunnel_recovery;
mod withdrawn_request;
