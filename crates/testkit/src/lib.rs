//! What the tests of several crates share: certificates, TLS, a scripted broker, waiting, free
//! ports, and the load and programs of benchmarks.
//!
//! A dev-dependency only. Every function panics if it fails, because its caller is a test. What one
//! crate alone uses stays in the tests of that crate.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

pub mod load;
pub mod mqtt;
pub mod pki;
pub mod port;
pub mod tls;
pub mod wait;
