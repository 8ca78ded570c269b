//! The program `clesyde-cloud` as a child process. Most tests run it against `clesyde-cloud sim`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[cfg_attr(
    not(feature = "sim"),
    allow(dead_code, reason = "most of it needs a simulator")
)]
mod common;

#[cfg(feature = "sim")]
mod access_log;
#[cfg(feature = "sim")]
mod application;
#[cfg(feature = "sim")]
mod control_socket;
#[cfg(feature = "sim")]
mod demo;
#[cfg(feature = "sim")]
mod doctor;
#[cfg(feature = "sim")]
mod doctor_faults;
#[cfg(feature = "sim")]
mod documentation;
#[cfg(feature = "sim")]
mod guard;
#[cfg(feature = "sim")]
mod health;
#[cfg(feature = "sim")]
mod hostile;
#[cfg(feature = "sim")]
mod lifecycle;
#[cfg(feature = "sim")]
mod memory;
#[cfg(feature = "sim")]
mod messages;
#[cfg(feature = "sim")]
mod outlets;
#[cfg(feature = "sim")]
mod provision;
#[cfg(feature = "sim")]
mod proxy;
#[cfg(feature = "sim")]
mod reload;
mod secret_arguments;
#[cfg(feature = "sim")]
mod serial_number_mismatch;
#[cfg(feature = "sim")]
mod serve;
mod settings;
#[cfg(feature = "sim")]
mod usage;
